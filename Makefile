# `make help` lists the targets. Everything that a target needs, it installs; environments are `.venv-*` folders here.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

OLDEST := 3.9
NEWEST := 3.13
PYTHONS := $(NEWEST) $(OLDEST)
UV = $$(tools/uv)
BIN := .venv-$(NEWEST)/bin
# Folders too: their times tell that a file was removed.
SOURCES := $(shell find src -not -name '*.pyc' -not -name __pycache__) pyproject.toml README.md LICENSE
# More options for pytest: make unit PYTEST_OPTIONS="-x -k bridge"
PYTEST_OPTIONS ?=
# Not quiet: the head of its output has the seed of the tests' order.
PYTEST = bin/python -m pytest $(PYTEST_OPTIONS)

# What is tested is the installed wheel, whatever the shell's own settings are.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH VIRTUAL_ENV UV_PYTHON UV_PROJECT

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: demo-environment
demo-environment:
	@tools/environment .venv-demo requirements/demo.txt
	@$(UV) pip install --quiet --no-config --no-deps --no-build-isolation --reinstall-package ts-otel-logging \
	    --python .venv-demo/bin/python .

.PHONY: demo
demo: demo-environment ## serve handwritten digits with traces, and show them (Python and Java are enough)
	@.venv-demo/bin/python examples/digits/demo.py

.PHONY: stack
stack: demo-environment ## digits on TorchServe, a real Collector and a real Jaeger, kept running (needs Go, too)
	@.venv-demo/bin/python examples/digits/stack.py start

.PHONY: stop
stop: ## end what make stack started
	@tools/environment .venv-demo requirements/demo.txt
	@.venv-demo/bin/python examples/digits/stack.py stop

.PHONY: collector jaeger print-otelcol print-jaeger
collector: ## build the real OpenTelemetry Collector of collector/builder.yaml, once (needs Go)
	@python3 collector/build.py otelcol

jaeger: ## build the real Jaeger of collector/jaeger/go.mod, once (needs Go)
	@python3 collector/build.py jaeger

print-otelcol: ## where the collector is
	@python3 collector/build.py --print otelcol

print-jaeger: ## where Jaeger is
	@python3 collector/build.py --print jaeger

.PHONY: test
test: ## every check and test, on the oldest and the newest Python
	@$(MAKE) environments
	@$(MAKE) lint
	@$(MAKE) unit
	@$(MAKE) bench-smoke
	@$(MAKE) bench-guard
	@$(MAKE) torchserve
	@$(MAKE) stack-tests

.PHONY: environments $(PYTHONS:%=environment-%)
environments: ## the two test environments with the wheel in them
	@$(MAKE) -j2 $(PYTHONS:%=environment-%)
	@$(MAKE) --silent $(PYTHONS:%=.venv-%/.installed)

$(PYTHONS:%=environment-%): environment-%:
	@tools/environment .venv-$* requirements/test.txt $*

.PHONY: debian-programs
debian-programs: ## servers that the tests talk to, unpacked from Debian's packages, once
	@tools/debian-programs

# One wheel, built once, is what both environments test: the start-up file is part of it.
dist/.built: $(SOURCES) requirements/test.txt
	@rm -rf dist
	@$(UV) build --quiet --no-config --no-build-isolation --python $(BIN)/python --wheel --out-dir dist .
	@touch $@

# In the environment, so that a new one has none.
.venv-%/.installed: dist/.built
	@$(UV) pip install --quiet --no-config --no-deps --reinstall --python .venv-$*/bin/python dist/*.whl
	@touch $@

CHECKS := check-style check-format check-types check-imports check-docstrings check-spelling

.PHONY: lint $(CHECKS)
lint: environments ## formatting, lint, types, import rules, docstrings, spelling
	@$(MAKE) -j2 --keep-going --output-sync=target $(CHECKS)

check-style:
	$(BIN)/ruff check --quiet .

check-format:
	$(BIN)/ruff format --quiet --check .

check-types:
	$(BIN)/mypy

check-imports:
	PYTHONPATH=src $(BIN)/lint-imports --no-cache

check-docstrings:
	$(BIN)/interrogate --quiet src

check-spelling:
	$(BIN)/codespell src tests docs examples benchmarks collector tools *.md Makefile

.PHONY: format
format: environments ## put the code in its format, with what ruff can fix
	$(BIN)/ruff check --quiet --fix . || true
	$(BIN)/ruff format --quiet .

.PHONY: unit $(PYTHONS:%=unit-%)
unit: environments debian-programs ## the fast tests: no server
	@echo "tests without a server on Python $(PYTHONS), side by side ..."
	@$(MAKE) -j2 --keep-going --output-sync=target $(PYTHONS:%=unit-%)

$(PYTHONS:%=unit-%): unit-%:
	.venv-$*/$(PYTEST) -m "not torchserve and not stack"

# One after the other: two servers on two cores would disturb what the tests measure.
.PHONY: torchserve
torchserve: environments ## the tests on a real TorchServe
	@$(MAKE) --silent $(PYTHONS:%=.venv-%/digits/digits.mar)
	for version in $(PYTHONS); do \
	    DIGITS_ARCHIVE=$(CURDIR)/.venv-$$version/digits/digits.mar .venv-$$version/$(PYTEST) -m torchserve; \
	done

# The example, trained by the Python that serves it; in the environment, so that a new one trains anew.
.venv-%/digits/digits.mar: $(wildcard examples/digits/*.py)
	@mkdir -p $(@D)
	@.venv-$*/bin/python examples/digits/train.py --output $(@D)
	@.venv-$*/bin/python examples/digits/archive.py --weights $(@D)/digits.pt --model-store $(@D)

.PHONY: stack-tests
stack-tests: environments debian-programs collector jaeger ## the tests with a real Collector and a real Jaeger
	@$(MAKE) --silent $(PYTHONS:%=.venv-%/digits/digits.mar)
	for version in $(PYTHONS); do \
	    DIGITS_ARCHIVE=$(CURDIR)/.venv-$$version/digits/digits.mar .venv-$$version/$(PYTEST) -m stack; \
	done

# One room: make bench WHAT=lines. More: make bench BENCH_OPTIONS="--rounds 15", or --quick.
WHAT ?=
BENCH_OPTIONS ?=

.PHONY: bench
bench: environments collector debian-programs ## what it costs, beside the peers: WHAT=lines for one room, BENCH_OPTIONS=--quick
	@$(BIN)/python -m benchmarks $(WHAT) $(BENCH_OPTIONS)

.PHONY: bench-docs
bench-docs: environments ## docs/performance.md's tables and plots from benchmarks/results
	@$(BIN)/python -m benchmarks.docs

.PHONY: bench-smoke $(PYTHONS:%=bench-smoke-%)
bench-smoke: environments collector ## whether the benchmarks run
	@$(MAKE) -j2 --keep-going --output-sync=target $(PYTHONS:%=bench-smoke-%)

$(PYTHONS:%=bench-smoke-%): bench-smoke-%:
	.venv-$*/bin/python -m benchmarks --smoke >/dev/null

.PHONY: bench-guard bench-record $(PYTHONS:%=bench-guard-%)
bench-guard: environments debian-programs collector ## whether ours has become dearer than what is recorded
	@$(MAKE) -j2 --keep-going --output-sync=target $(PYTHONS:%=bench-guard-%)

$(PYTHONS:%=bench-guard-%): bench-guard-%:
	.venv-$*/bin/python -m benchmarks guard

# One after the other: they write one file.
bench-record: environments debian-programs collector ## let what is counted now be what bench-guard compares with
	for version in $(PYTHONS); do .venv-$$version/bin/python -m benchmarks guard --record; done

# Hashes, but neither index nor address: where packages come from is the machine's matter.
.PHONY: lock
lock: environment-$(NEWEST) ## renew requirements/*.txt from pyproject.toml
	compile() { $(UV) pip compile --quiet --no-config --python $(BIN)/python --no-python-downloads --upgrade --universal \
	    --python-version $(OLDEST) --fork-strategy requires-python --generate-hashes --no-annotate \
	    --no-emit-index-url --custom-compile-command 'make lock' "$$@" >/dev/null; }; \
	compile --extra json-file --group demo --group build -o requirements/demo.txt pyproject.toml; \
	compile --extra json-file --group bench --group build --group lint -o requirements/test.txt pyproject.toml; \
	compile -o requirements/uv.txt - <<<uv

.PHONY: clean
clean: ## remove what the other targets made here
	rm -rf .venv-* dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage* examples/digits/run
