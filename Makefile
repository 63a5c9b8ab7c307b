# `make help` lists the targets. Everything that a target needs, it installs; environments are `.venv-*` folders here.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

OLDEST := 3.9
NEWEST := 3.13
UV = $$(tools/uv)
SOURCES := $(shell find src -type f -not -name '*.pyc') pyproject.toml README.md LICENSE
FAST := tests/unit tests/worker tests/install
PYTEST = bin/python -m pytest -q

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: ## serve handwritten digits with traces, and show them (Python and Java are enough)
	@tools/environment .venv-demo requirements/demo.txt
	@$(UV) pip install --quiet --no-deps --reinstall-package ts-otel-logging --python .venv-demo/bin/python .
	@.venv-demo/bin/python examples/digits/demo.py

.PHONY: test
test: ## every check and test, on the oldest and the newest Python
	@$(MAKE) environments
	@$(MAKE) lint
	@$(MAKE) unit
	@$(MAKE) torchserve

.PHONY: environments
environments: ## the two test environments with the wheel in them
	@tools/environment .venv-$(NEWEST) requirements/test.txt $(NEWEST)
	@tools/environment .venv-$(OLDEST) requirements/test.txt $(OLDEST)
	@$(MAKE) dist/.built

# One wheel, built once, is what both environments test: the start-up file is part of it.
dist/.built: $(SOURCES) requirements/test.txt
	rm -rf dist
	$(UV) build --quiet --wheel --out-dir dist .
	for version in $(NEWEST) $(OLDEST); do \
	    $(UV) pip install --quiet --no-deps --reinstall --python .venv-$$version/bin/python dist/*.whl; \
	done
	touch $@

.PHONY: lint
lint: environments ## formatting, lint, types, import rules, docstrings, spelling
	.venv-$(NEWEST)/bin/ruff check --quiet .
	.venv-$(NEWEST)/bin/ruff format --quiet --check .
	.venv-$(NEWEST)/bin/mypy
	PYTHONPATH=src .venv-$(NEWEST)/bin/lint-imports --no-cache
	.venv-$(NEWEST)/bin/interrogate --quiet src
	.venv-$(NEWEST)/bin/codespell src tests docs examples benchmarks tools *.md Makefile

.PHONY: unit
unit: environments ## the fast tests: no server
	for version in $(NEWEST) $(OLDEST); do .venv-$$version/$(PYTEST) $(FAST); done

.PHONY: torchserve
torchserve: environments ## the tests on a real TorchServe
	for version in $(NEWEST) $(OLDEST); do .venv-$$version/$(PYTEST) tests/torchserve; done

.PHONY: bench
bench: environments ## a caller's time for a line, beside the peers
	.venv-$(NEWEST)/bin/python benchmarks/lines.py

.PHONY: lock
lock: ## renew requirements/*.txt from pyproject.toml
	compile="$(UV) pip compile --quiet --upgrade --universal --python-version $(OLDEST) --fork-strategy requires-python \
	    --generate-hashes --no-annotate --no-emit-index-url --custom-compile-command 'make lock' --extra json-file"; \
	eval "$$compile --group demo -o requirements/demo.txt pyproject.toml"; \
	eval "$$compile --group test --group bench --group lint -o requirements/test.txt pyproject.toml"

.PHONY: clean
clean: ## remove what the other targets made here
	rm -rf .venv-* dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage* examples/digits/run
