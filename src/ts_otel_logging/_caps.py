"""Events that are too long are cut to valid ones, marked as such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Final

from ts_otel_logging import _names
from ts_otel_logging._values import encode_plain, encode_string, plain

if TYPE_CHECKING:
    from ts_otel_logging._event import Event
    from ts_otel_logging._shapes import Shape

MAX_EXPORTED_BYTES: Final = 65_536
"""The most that an event may have outside the console: as an OTLP record or in a file."""

_MARK: Final = "…"
_TEXT_LIMITS: Final = (4_096, 1_024, 256, 64)
_ITEM_LIMITS: Final = (64, 32, 16, 8)
# What stays when nothing else helps.
_LAST: Final = frozenset({_names.TIMESTAMP, _names.LEVEL, _names.LOGGER, _names.EVENT, _names.TRUNCATED})
_BODY: Final = "\0body"


def cut_event(event: Event, shape: Shape, max_bytes: int) -> str:
    """Return the event's line within a limit, with ``truncated`` set.

    Long texts lose their end (a stack trace its start: its last frames say most), long collections their rest, and if
    that is not enough the caller's fields go, the largest first, then ours but for level, logger and event.

    Args:
        event: The event; it stays as it is.
        shape: Renders it.
        max_bytes: The most that the line may have, as UTF-8.
    """
    before = event.fields

    def excess(fields: dict[str, Any]) -> int:
        event.fields = fields
        return len(shape(event).encode("utf-8", "backslashreplace")) - max_bytes

    try:
        event.fields = _cut_fields(event.as_dict() if before is None else before, excess, _names.EVENT)
        return shape(event)
    finally:
        event.fields = before


def cut_record(body: str, attributes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return an OTLP record's body and attributes within `MAX_EXPORTED_BYTES`, marked if anything had to go.

    Args:
        body: A text.
        attributes: What `plain` returned, by name.
    """

    def excess(fields: dict[str, Any]) -> int:
        return len(encode_plain(fields).encode("utf-8")) - MAX_EXPORTED_BYTES

    fields = {_BODY: body, **attributes}
    if excess(fields) > 0:
        fields = _cut_fields(fields, excess, _BODY)
    return fields.pop(_BODY), fields


def _cut_fields(fields: dict[str, Any], excess: Callable[[dict[str, Any]], int], message: str) -> dict[str, Any]:
    fields = {key: plain(value) for key, value in fields.items()}
    cut = fields
    for text_limit, item_limit in zip(_TEXT_LIMITS, _ITEM_LIMITS):
        cut = {key: _cut(value, text_limit, item_limit, key) for key, value in fields.items()}
        cut[_names.TRUNCATED] = True
        if excess(cut) <= 0:
            return cut
    sizes = {key: len(encode_string(key)) + len(encode_plain(value)) for key, value in cut.items()}
    # Ours last.
    order = sorted(cut, key=lambda key: (key in _names.LINE_FIELDS, -sizes[key]))
    over = excess(cut)
    for key in order:
        if key in _LAST or key == message:
            continue
        del cut[key]
        over -= sizes[key]
        # Sizes are of the default shape: only rendering tells.
        if over <= 0:
            over = excess(cut)
            if over <= 0:
                return cut
    for text_limit in (32, 8, 1):
        cut = {key: _cut(value, text_limit, 0, key) for key, value in cut.items()}
        if excess(cut) <= 0:
            break
    return cut


def _cut(value: Any, text_limit: int, item_limit: int, key: str = "") -> Any:
    if isinstance(value, str):
        if len(value) <= text_limit:
            return value
        return _MARK + value[-text_limit:] if key.endswith("stacktrace") else value[:text_limit] + _MARK
    if isinstance(value, dict):
        items = list(value.items())[:item_limit]
        return {name[:text_limit]: _cut(item, text_limit, item_limit, name) for name, item in items}
    if isinstance(value, list):
        return [_cut(item, text_limit, item_limit) for item in value[:item_limit]]
    return value
