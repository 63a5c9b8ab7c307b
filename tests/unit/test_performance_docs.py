"""docs/performance.md: its tables are what was measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RESULT = {
    "what": "lines",
    "date": "2026-11-21",
    "python": "3.13.0",
    "machine": {"cpu": "a processor", "cores": 2, "kernel": "6.1"},
    "packages": {},
    "rounds": 1,
    "workloads": {"lines.two": {"ts-otel-logging": [1.25]}},
}


def check(results: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.docs", "--check", "--results", str(results)]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


def test_the_pages_tables_are_made_of_the_results() -> None:
    done = check(RESULTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_results_that_the_page_does_not_show_are_noticed(tmp_path: Path) -> None:
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    (tmp_path / "lines.json").write_text(json.dumps(RESULT), encoding="utf-8")
    done = check(tmp_path)
    assert (done.returncode, "make bench-docs" in done.stdout) == (1, True), done.stderr
