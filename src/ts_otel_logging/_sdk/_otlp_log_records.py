"""Log records as the bytes of OTLP's LogRecord, each behind its length (docs/adr/018-own-encoder.md).

The message is that of
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/logs/v1/logs.proto. A record of the
SDK's, an event, and what was kept of a plain event all become the same bytes.
"""

from __future__ import annotations

from logging import makeLogRecord
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Optional

from ts_otel_logging._caps import MAX_EXPORTED_BYTES
from ts_otel_logging._event import Event
from ts_otel_logging._names import LOG_RECORD_UID
from ts_otel_logging._otlp_log import log_record_of, severity_of, severity_text_of
from ts_otel_logging._scope import Scope
from ts_otel_logging._sdk._otlp_values import (
    Key,
    TextFields,
    ValueFields,
    attribute_fields,
    framed,
    number_field,
    strict_attribute_fields,
    text_field,
    varints,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry._logs import LogRecord
    from opentelemetry.trace import SpanContext

# Fields of one length, with their tags.
_TIMES: Final = Struct("<cQcQcI")
_ATTRIBUTES: Final = b"\x32"
# An event's size is limited as JSON, in which a byte may become six.
_SURELY_FITS: Final = MAX_EXPORTED_BYTES // 8
_MAX_SEVERITIES: Final = 64

_severity_texts: Final = TextFields(b"\x1a")
_body_fields: Final = ValueFields(b"\x2a")
_before_uids: Final = Key(LOG_RECORD_UID).texts
# By the level's name: the level, and its fields.
_severities: Final[dict[str, tuple[int, bytes]]] = {}
_NO_SEVERITY: Final = (None, b"")
# A span's lines follow each other: of one span, its flags and the fields of its ids.
_last_span: tuple[Optional[SpanContext], int, bytes] = (None, 0, b"")

PlainParts = tuple[
    int, str, int, str, "Optional[SpanContext]", "Mapping[str, Any]", bytes, "Mapping[str, Any]", "Optional[str]"
]
"""What the log record of a plain event is made of, and nothing changes any more: time in microseconds, the level's name
and number, message, span, the scope's attributes and their fields, the caller's own attributes, uid."""


def encode_log_record(record: LogRecord, dropped_attributes: int = 0) -> bytes:
    """Return a LogRecord behind its length.

    Args:
        record: What it is made of.
        dropped_attributes: How many attributes it had besides.

    Raises:
        Exception: It cannot be encoded; an attribute that cannot be costs itself alone.
    """
    times = b"\x09", record.timestamp or 0, b"\x59", record.observed_timestamp or 0
    fields = (
        _TIMES.pack(*times, b"\x45", record.trace_flags),
        number_field(b"\x10", getattr(record.severity_number, "_value_", None)),
        _severity_texts[record.severity_text],
        _body_fields(record.body),
        attribute_fields(_ATTRIBUTES, record.attributes),
        number_field(b"\x38", dropped_attributes),
        _ids(record.trace_id, record.span_id),
        text_field(b"\x62", record.event_name),
    )
    return framed(b"".join(fields))


def _ids(trace_id: int, span_id: int) -> bytes:
    trace = b"\x4a\x10" + trace_id.to_bytes(16, "big") if trace_id != 0 else b""
    return trace + b"\x52\x08" + span_id.to_bytes(8, "big") if span_id != 0 else trace


def encode_event(event: Event, max_attributes: Optional[int] = None) -> bytes:
    """Return the LogRecord of an event: the one that `log_record_of` returns.

    Args:
        event: The event.
        max_attributes: The most that it may have, or None.

    Raises:
        Exception: It cannot be encoded.
    """
    # An ordinary event needs no log record first.
    if event.exception is None and has_room(event, max_attributes):
        data = _encode_ordinary(plain_parts(event))
        if data:
            return data
    record = log_record_of(event, max_attributes)
    return encode_log_record(record, record.dropped_attributes)


def has_room(event: Event, max_attributes: Optional[int]) -> bool:
    """Return whether an event without an exception has no more attributes than it may, its uid included."""
    return max_attributes is None or len(event.extra) + len(event.scope.attributes) < max_attributes


def plain_parts(event: Event) -> PlainParts:
    """Return what to keep of a plain event; its scope and context, with the spans in them, are not."""
    record, scope = event.record, event.scope
    shared = scope.encoded
    if shared is None:
        shared = scope.encoded = attribute_fields(_ATTRIBUTES, scope.attributes)
    return (
        event.time_micros,
        record.levelname,
        record.levelno,
        event.message,
        event.span_context,
        scope.attributes,
        shared,
        event.extra,
        event.uid,
    )


def encode_plain_parts(parts: PlainParts) -> bytes:
    """Return the LogRecord of a plain event.

    Raises:
        Exception: It cannot be encoded.
    """
    data = _encode_ordinary(parts)
    if data:
        return data
    time_micros, level_name, level, message, span_context, taken, _, extra, uid = parts
    record = makeLogRecord({"levelname": level_name, "levelno": level, "msg": message})
    moment = time_micros, level_name, "", span_context, Scope({}, taken)
    event = Event.of_plain(record, moment, message, dict(extra), uid)
    log_record = log_record_of(event)
    # This is another thread than that of the span.
    log_record.trace_id = log_record.span_id = 0
    if span_context is not None:
        log_record.trace_id, log_record.span_id = span_context.trace_id, span_context.span_id
        log_record.trace_flags = span_context.trace_flags
    return encode_log_record(log_record)


def _encode_ordinary(parts: PlainParts) -> bytes:
    """Return a LogRecord, or nothing if anything is out of the ordinary: a key that is taken, a value, the size."""
    time_micros, level_name, level, message, span_context, taken, shared, extra, uid = parts
    if LOG_RECORD_UID in extra or (taken and not taken.keys().isdisjoint(extra)):
        return b""
    known_level, severity = _severities.get(level_name) or _NO_SEVERITY
    if known_level != level:
        severity = _severity_fields(level_name, level)
    known_span, flags, ids = _last_span
    if known_span is not span_context:
        flags, ids = _span_fields(span_context)
    nanos = time_micros * 1_000
    try:
        body = message.encode()
        data = b"".join((
            _TIMES.pack(b"\x09", nanos, b"\x59", nanos, b"\x45", flags),
            severity,
            _body_fields.before_texts[len(body)],
            body,
            ids,
            shared,
            b"" if uid is None else _ATTRIBUTES + _before_uids[len(uid)] + uid.encode(),
            strict_attribute_fields(_ATTRIBUTES, extra, takes_any=False) if extra else b"",
        ))  # fmt: skip
    except (UnicodeEncodeError, OverflowError, TypeError):
        return b""
    return varints[len(data)] + data if len(data) <= _SURELY_FITS else b""


def _severity_fields(name: str, level: int) -> bytes:
    if len(_severities) >= _MAX_SEVERITIES:
        _severities.clear()
    number, text = severity_of(level)._value_, severity_text_of(name)
    fields = number_field(b"\x10", number) + text_field(b"\x1a", text)
    _severities[name] = level, fields
    return fields


def _span_fields(span_context: Optional[SpanContext]) -> tuple[int, bytes]:
    """Return a log record's flags and ids."""
    global _last_span  # noqa: PLW0603 - a cache of one, swapped whole
    flags, ids = 0, b""
    if span_context is not None:
        flags, ids = span_context.trace_flags, _ids(span_context.trace_id, span_context.span_id)
    _last_span = span_context, flags, ids
    return flags, ids
