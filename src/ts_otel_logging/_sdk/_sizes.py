"""What an item that waits for the collector weighs, cheaply estimated on the caller's thread.

The estimate is of the memory that the item keeps alive, to within a factor of two: a flat charge for the SDK's objects
(measured with `tracemalloc` on CPython 3.9 and 3.13), plus the length of every text, which is what can be large.
A text counts one byte a character; collections are charged for what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord
    from opentelemetry.sdk.trace import ReadableSpan

SPAN_BYTES: Final = 1_000
LOG_RECORD_BYTES: Final = 800
_ATTRIBUTE_BYTES: Final = 64
_EVENT_BYTES: Final = 400
_FLAT: Final = frozenset({int, float, bool, type(None)})


def span_bytes(span: ReadableSpan) -> int:
    """Return the weight of an ended span, its events with their stack traces included."""
    # The public property wraps the mapping, which makes looking at it five times as slow.
    attributes = getattr(span, "_attributes", None)
    size = SPAN_BYTES
    if type(attributes) is dict:
        # A `RequestSpan`'s: texts, numbers and truth values.
        for value in attributes.values():
            size += _ATTRIBUTE_BYTES + len(value) if type(value) is str else _ATTRIBUTE_BYTES
    else:
        size += _mapping_bytes(span.attributes if attributes is None else attributes)
    # The properties copy; most spans have neither.
    if getattr(span, "_events", True):
        for event in span.events:
            size += _EVENT_BYTES + _mapping_bytes(event.attributes)
    if getattr(span, "_links", True):
        for link in span.links:
            size += _EVENT_BYTES + _mapping_bytes(link.attributes)
    return size


def log_record_bytes(record: LogRecord) -> int:
    """Return the weight of a log record."""
    body = record.body
    size = LOG_RECORD_BYTES + (len(body) if type(body) is str else _value_bytes(body))
    return size + _mapping_bytes(record.attributes)


def _mapping_bytes(mapping: Mapping[str, Any] | None) -> int:
    if mapping is None:
        return 0
    # The SDK's mapping is written in Python, with a lock; the dict in it is not. Any other mapping works, slower.
    values = getattr(mapping, "_dict", mapping).values()
    size = 0
    for value in values:
        kind = type(value)
        size += _ATTRIBUTE_BYTES
        if kind is str:
            size += len(value)
        elif kind not in _FLAT:
            size += _value_bytes(value)
    return size


def _value_bytes(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        return _mapping_bytes(value)
    if isinstance(value, (list, tuple)):
        return sum(_ATTRIBUTE_BYTES + _value_bytes(item) for item in value)
    return 0
