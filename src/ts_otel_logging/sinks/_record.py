"""What the handlers read from a record: its time, and the span that it was logged in."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

TRACE_FIELDS: Final = ("trace_id", "span_id", "trace_flags")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


def timestamp(record: logging.LogRecord) -> str:
    """Return the record's time in ISO 8601: UTC, microseconds, ``Z``; the same digits as in its line."""
    time = _EPOCH + timedelta(microseconds=int(record.created * 1_000_000))
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def trace_fields(record: logging.LogRecord) -> Mapping[str, str]:
    """Return the ids of the span that the record was logged in, or nothing outside a span.

    Behind the queue they are the record's attributes. Alone the handler runs where the record was logged, so the
    current span is the one; a program that has not imported OpenTelemetry has none.
    """
    fields = vars(record)
    if TRACE_FIELDS[0] in fields:
        return {name: str(fields[name]) for name in TRACE_FIELDS if fields.get(name)}
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return dict(
        zip(TRACE_FIELDS, (f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{context.trace_flags:02x}"))
    )
