"""Shared by every level: the process's logging is as it was after each test."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _logging_is_restored() -> Iterator[None]:
    """Put the root logger's handlers, filters and level back, and the standard streams."""
    root = logging.getLogger()
    handlers, filters, level, disabled = root.handlers[:], root.filters[:], root.level, logging.root.manager.disable
    streams = sys.stdout, sys.stderr
    yield
    root.handlers[:], root.filters[:] = handlers, filters
    root.setLevel(level)
    logging.disable(disabled)
    sys.stdout, sys.stderr = streams
