"""TorchServe's real loader and service in this process, patched as in a worker."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import pytest

from in_memory_worker import Worker
from in_process import load_model
from ts_otel_logging import _diagnostics

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(autouse=True)
def _errors_of_ours_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_diagnostics, "reraise", True)


@pytest.fixture(scope="session", autouse=True)
def _torchserve_imported() -> None:
    """Import torch before anything is patched; its warnings are not ours."""
    load_model(
        "class Handler:\n    def initialize(self, context): pass\n    def handle(self, data, context): return []\n"
    )


@pytest.fixture
def worker() -> Worker:
    return Worker()
