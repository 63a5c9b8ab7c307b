"""Every unit test starts from a clean root logger and structlog, and errors of ours raise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from lines import Lines
from ts_otel_logging import _diagnostics

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_diagnostics, "reraise", True)
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def lines() -> Lines:
    return Lines()
