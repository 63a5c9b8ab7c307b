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


def span_bytes(span: ReadableSpan) -> int:
    """Return the weight of an ended span, its events with their stack traces included."""
    size = SPAN_BYTES + _mapping_bytes(span.attributes)
    for event in span.events:
        size += _EVENT_BYTES + _mapping_bytes(event.attributes)
    for link in span.links:
        size += _EVENT_BYTES + _mapping_bytes(link.attributes)
    return size


def log_record_bytes(record: LogRecord) -> int:
    """Return the weight of a log record."""
    return LOG_RECORD_BYTES + _value_bytes(record.body) + _mapping_bytes(record.attributes)


def _mapping_bytes(mapping: Mapping[str, Any] | None) -> int:
    if not mapping:
        return 0
    size = 0
    for value in mapping.values():
        size += _ATTRIBUTE_BYTES + (len(value) if type(value) is str else _value_bytes(value))
    return size


def _value_bytes(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        return _mapping_bytes(value)
    if isinstance(value, (list, tuple)):
        return sum(_ATTRIBUTE_BYTES + _value_bytes(item) for item in value)
    return 0
