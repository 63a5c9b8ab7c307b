"""Reading a TorchServe console that should be JSON."""

from __future__ import annotations

import json
import re
from typing import Any

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LEVELS = {"debug", "info", "warning", "error", "critical"}
# The loggers of TorchServe's frontend; everything else on the console comes from a worker or the launcher.
_FRONTEND = re.compile(r"ACCESS_LOG|MODEL_LOG|MODEL_METRICS|TS_METRICS|TELEMETRY_METRICS|(org|io|com|jvm)\..*|root|")
# Some of these are ends of line for the Java reader of a worker's stdout, all break terminals or parsers.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"a key twice: {keys}"
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def parse(line: str) -> dict[str, Any]:
    """Read a line as strict JSON: one object, no key twice, no NaN, nothing unescaped that splits lines."""
    assert not _FORBIDDEN.search(line), f"unescaped control character: {line!r}"
    try:
        parsed = json.loads(line, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except ValueError as error:
        raise AssertionError(f"not JSON ({error}): {line!r}") from error
    assert isinstance(parsed, dict), f"not an object: {line!r}"
    return parsed


def events(lines: list[str]) -> list[dict[str, Any]]:
    """The JSON events among console lines; strict for every line that starts like one."""
    return [parse(line) for line in lines if line.startswith("{")]


def is_from_frontend(event: dict[str, Any]) -> bool:
    """Whether TorchServe's Java side logged ``event``, be it about a raw line of a worker."""
    return _FRONTEND.fullmatch(str(event.get("logger", ""))) is not None
