"""Events that are too long for a line are cut to a valid one, marked as such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ts_otel_logging import _names
from ts_otel_logging._values import plain

if TYPE_CHECKING:
    from ts_otel_logging._event import Event
    from ts_otel_logging._shapes import Shape

_MARK: Final = "…"
_TEXT_LIMITS: Final = (4_096, 1_024, 256, 64)
_ITEM_LIMITS: Final = (64, 32, 16, 8)


def cut_event(event: Event, shape: Shape, max_bytes: int) -> str:
    """Return the event's line within a limit, with ``truncated`` set.

    Long texts lose their end (a stack trace its start: its last frames say most), long collections their rest, and if
    that is not enough the caller's fields go, the largest first.

    Args:
        event: The event; it stays as it is.
        shape: Renders it.
        max_bytes: The most that the line may have, as UTF-8.
    """
    before = event.fields
    try:
        return _cut_event(event, shape, max_bytes)
    finally:
        event.fields = before


def _cut_event(event: Event, shape: Shape, max_bytes: int) -> str:
    fields = event.as_dict() if event.fields is None else event.fields
    fields = {key: plain(value) for key, value in fields.items()}
    ours = {key: fields[key] for key in fields if key in _names.LINE_FIELDS}
    for text_limit, item_limit in zip(_TEXT_LIMITS, _ITEM_LIMITS):
        event.fields = {key: _cut(value, text_limit, item_limit) for key, value in fields.items()}
        event.fields[_names.TRUNCATED] = True
        line = shape(event)
        if len(line.encode("utf-8")) <= max_bytes:
            return line
    cut = event.fields or {}
    for key in sorted((key for key in cut if key not in ours), key=lambda key: len(str(cut[key])), reverse=True):
        del cut[key]
        line = shape(event)
        if len(line.encode("utf-8")) <= max_bytes:
            return line
    return shape(event)


def _cut(value: Any, text_limit: int, item_limit: int, key: str = "") -> Any:
    if isinstance(value, str):
        if len(value) <= text_limit:
            return value
        return _MARK + value[-text_limit:] if key == "stacktrace" else value[:text_limit] + _MARK
    if isinstance(value, dict):
        items = list(value.items())[:item_limit]
        return {name[:text_limit]: _cut(item, text_limit, item_limit, name) for name, item in items}
    if isinstance(value, list):
        return [_cut(item, text_limit, item_limit) for item in value[:item_limit]]
    return value
