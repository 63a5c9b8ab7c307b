"""docs/fields.md: its program runs, its examples are what it prints, and its table has every field."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

from lines import Lines
from ts_otel_logging import BridgeHandler, _names, _scope
from ts_otel_logging._config import SHAPE_NAMES
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fields.md").read_text(encoding="utf-8")
SPAN = trace.SpanContext(
    0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=False, trace_flags=trace.TraceFlags(1)
)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def in_the_pages_request() -> Iterator[None]:
    _scope.set_process("digits", "1.0", "9000")
    token = _scope.enter(_scope.of_request("1c27fcf7-99e6-442b-9a39-cef3ba4999ba", "order-66"))
    with trace.use_span(trace.NonRecordingSpan(SPAN)):
        yield
    _scope.leave(token)
    _scope.reset_process()


def render(shape: str) -> str:
    """What a shape makes of the event that every example shows."""
    (resource,) = blocks(PAGE.partition("\n## ")[0], "shell")
    environ = dict(re.findall(r"(OTEL_\w+)=(\S+)", resource))
    lines = Lines()
    handler = BridgeHandler(
        renderer=shape,
        stream=lines,
        resource={
            **dict(item.split("=") for item in environ["OTEL_RESOURCE_ATTRIBUTES"].split(",")),
            "service.name": environ["OTEL_SERVICE_NAME"],
        },
    )
    handler.handle(
        logging.makeLogRecord(
            {
                "name": "acme.model",
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "Low confidence",
                "created": 1_767_225_600.25,
                "exc_info": (ValueError, ValueError("unreadable"), None),
                "digit": 7,
                "host": "gpu-1",
            }
        )
    )
    return lines.getvalue()


@pytest.mark.parametrize("shape", [name for name in SHAPE_NAMES if name != "console"])
def test_an_example_is_what_the_shape_makes_of_the_event(shape: str, in_the_pages_request: None) -> None:
    (example,) = blocks(section(f"`{shape}`"), "json")
    assert json.loads(example) == json.loads(render(shape).replace(f'"version":"{__version__}"', '"version":"0.1.0"'))


def test_the_example_for_people_is_what_the_shape_makes_of_the_event(in_the_pages_request: None) -> None:
    (example,) = blocks(section("`console`"), "text")
    assert example == render("console")


def test_the_table_has_every_field_and_every_shape() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section("Our field, their field").splitlines()
        if line.startswith("|")
    ]
    head, _, *body = rows
    assert head[1:] == [f"`{shape}`" for shape in SHAPE_NAMES if shape not in {"structlog", "console"}]
    named = {name for row in body for name in re.findall(r"`([^`]+)`", row[0])}
    assert named >= _names.LINE_FIELDS


@pytest.mark.parametrize("source", ["README.md", "docs/fields.md"])
def test_the_handler_works_alone_in_three_lines(source: str) -> None:
    (block,) = (
        block
        for block in blocks((ROOT / source).read_text(encoding="utf-8"), "python")
        if "logging.basicConfig(handlers=[ts_otel_logging.BridgeHandler(" in block
    )
    assert len(re.findall(r"^\S", block, re.MULTILINE)) == 3
    program = f"""{block}
import sys
logging.getLogger("acme").info("ready", extra={{"answer": 42}})
logging.getLogger("acme").info("sdk", extra={{"imported": "opentelemetry.sdk" in sys.modules}})
"""
    environ: dict[str, Any] = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    first, second = (json.loads(line) for line in run.stdout.splitlines())
    assert "ready" in {first.get("event"), first.get("message")}
    assert {**first, **first.get("labels", {})}["answer"] == 42
    assert {**second, **second.get("labels", {})}["imported"] is False
