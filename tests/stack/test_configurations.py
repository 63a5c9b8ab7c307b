"""The shipped configurations: valid for the binaries that make builds, by their newest names, nothing built in vain."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from stack_servers import COLLECTOR, binary

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.stack

CONFIGURATIONS = {"agent.yaml": "otelcol", "console.yaml": "otelcol", "jaeger.yaml": "jaeger"}
# console.yaml is given after agent.yaml, whose components it uses.
BEFORE = {"console.yaml": ["agent.yaml"]}
DOCUMENT = COLLECTOR.parent / "docs" / "collector.md"
MANIFEST = COLLECTOR / "builder.yaml"
KINDS = ("receivers", "processors", "exporters", "connectors", "extensions")


def files(name: str) -> list[Path]:
    return [COLLECTOR / file for file in (*BEFORE.get(name, ()), name)]


def configuration(name: str) -> dict[str, Any]:
    """A configuration as the binary has it, merged with those before it: maps are, lists are replaced."""
    merged: dict[str, Any] = {}

    def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
        for key, value in more.items():
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                merge(into[key], value)
            else:
                into[key] = value

    for file in files(name):
        merge(merged, yaml.safe_load(file.read_text(encoding="utf-8")))
    return merged


def components(program: str) -> dict[str, Any]:
    """What a binary was built with, by its own word."""
    printed = subprocess.run([str(binary(program)), "components"], check=True, capture_output=True, text=True).stdout
    loaded: dict[str, Any] = yaml.safe_load(printed)
    return loaded


def types(loaded: dict[str, Any], kind: str) -> set[str]:
    """``otlp_grpc/traces`` is of the type ``otlp_grpc``."""
    return {component.partition("/")[0] for component in loaded.get(kind, {})}


def manifest_lines() -> dict[str, str]:
    """Every module of the manifest with the comment behind it."""
    lines = re.findall(r"^  - gomod: (\S+) v\S+(?: # (.+))?$", MANIFEST.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(lines)


def validate(program: str, *files: Path) -> subprocess.CompletedProcess[str]:
    options = [option for file in files for option in ("--config", str(file))]
    return subprocess.run([str(binary(program)), "validate", *options], check=False, capture_output=True, text=True)


def test_every_shipped_configuration_is_known_to_this_test():
    assert {path.name for path in COLLECTOR.glob("*.yaml")} == {*CONFIGURATIONS, MANIFEST.name}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_binary_accepts_the_configuration(name):
    validated = validate(CONFIGURATIONS[name], *files(name))
    assert validated.returncode == 0, validated.stderr
    assert "deprecated" not in validated.stderr


def test_the_binary_refuses_another(tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((COLLECTOR / "agent.yaml").read_text(encoding="utf-8").replace("limit_mib", "limit_mob"), "utf-8")
    assert "limit_mob" in validate("otelcol", wrong).stderr


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_component_is_called_by_its_newest_name(name):
    # A binary lists newest names only, and takes older ones with a warning when it starts.
    built = components(CONFIGURATIONS[name])
    loaded = configuration(name)
    for kind in KINDS:
        assert types(loaded, kind) <= {component["name"] for component in built[kind] or ()}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_component_that_is_configured_is_used(name):
    loaded = configuration(name)
    service = loaded["service"]
    assert set(loaded["extensions"]) == set(service["extensions"])
    for kind in ("receivers", "processors", "exporters"):
        used = {component for pipeline in service["pipelines"].values() for component in pipeline.get(kind, ())}
        assert used == set(loaded.get(kind, {}))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_its_head_lists_every_variable_with_its_default(name):
    text = (COLLECTOR / name).read_text(encoding="utf-8")
    used = dict(re.findall(r"\$\{env:(\w+):-([^}]+)\}", text))
    assert len(re.findall(r"\$\{", text)) == len(re.findall(r"\$\{env:\w+:-[^}]+\}", text))
    assert dict(re.findall(r"^#   ([A-Z][A-Z_]+) +(\S+)", text, re.MULTILINE)) == used


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_it_listens_on_loopback_alone(name):
    text = "".join(file.read_text(encoding="utf-8") for file in files(name))
    listening = re.findall(r"(?:endpoint|host): \$\{env:\w+:-([^:}]+)", text)
    assert set(listening) == {"127.0.0.1"}


def test_every_module_of_the_manifest_is_in_the_binary():
    built = components("otelcol")
    modules = {component["module"] for kind in (*KINDS, "providers") for component in built[kind] or ()}
    pins = re.findall(r"^  - gomod: (\S+ v\S+)", MANIFEST.read_text(encoding="utf-8"), re.MULTILINE)
    assert modules == set(pins)


def test_every_module_of_the_manifest_is_used_or_says_why_it_is_there():
    built = components("otelcol")
    loaded = configuration("console.yaml")
    used = {
        component["module"].split()[0]
        for kind in KINDS
        for component in built[kind] or ()
        if component["name"] in types(loaded, kind)
    }
    used |= {
        provider["module"].split()[0]
        for provider in built["providers"]
        # The agent's own file is read by one provider, its variables by another.
        if provider["scheme"] in {"file", "env"}
    }
    explained = {module for module, comment in manifest_lines().items() if comment.startswith("unused here: ")}
    assert explained == set(manifest_lines()) - used


@pytest.mark.parametrize("number", range(3))
def test_the_documents_examples_are_accepted_after_the_agents_file(number, tmp_path, monkeypatch):
    examples = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    example = tmp_path / "yours.yaml"
    example.write_text(examples[number], encoding="utf-8")
    monkeypatch.setenv("BACKEND_TOKEN", "a-token")
    validated = validate("otelcol", COLLECTOR / "agent.yaml", example)
    assert validated.returncode == 0, validated.stderr
