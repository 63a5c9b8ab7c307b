"""Starting Python processes of the environment under test, as the start-up file meets them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

_IMPORT_TIME_LINE = re.compile(r"import time:\s+\d+ \|\s+\d+ \|\s+(\S+)")


def torchserve_folder() -> Path:
    """Where the installed ``ts`` package is, without importing it (that takes seconds)."""
    spec = importlib.util.find_spec("ts")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def environment(**variables: str | None) -> dict[str, str]:
    """The environment of the tests without settings of telemetry, plus ``variables`` (None removes one)."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "TS_", "PYTHONPATH", "COVERAGE_", "COV_CORE_"))
    }
    environ.update({name: value for name, value in variables.items() if value is not None})
    return environ


def run(*arguments: str, timeout_seconds: float = 60, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run this environment's Python with ``arguments``."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(**variables),
        input="",
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout_seconds,
        check=False,
    )


def imported_modules(import_time_report: str) -> set[str]:
    """The modules that ``python -X importtime`` names on stderr."""
    return set(_IMPORT_TIME_LINE.findall(import_time_report))


def of_ours(modules: set[str]) -> set[str]:
    """Those that only this package brings into a process: itself and what it stands on."""
    return {name for name in modules if name.split(".")[0] in {"ts_otel_logging", "structlog", "opentelemetry"}}
