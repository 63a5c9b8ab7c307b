"""Shapes of a line: each module turns an event into the text of one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Final

from ts_otel_logging._shapes import _structlog

if TYPE_CHECKING:
    from ts_otel_logging._event import Event

Shape = Callable[["Event"], str]
"""Returns an event's line without the newline: one JSON object, safe within one line of UTF-8."""

SHAPES: Final[dict[str, Callable[[], Shape]]] = {"structlog": _structlog.StructlogShape}
