"""Events straight into the lanes, as the bytes that a request will hold of them (docs/adr/018-own-encoder.md).

Making the SDK's log record of an event, copying it, weighing it and encoding it later costs more than everything else
of a line. It is done where somebody may look at the record: another processor, or an exporter that takes no bytes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from opentelemetry.sdk._logs import Logger, LoggerProvider, LogRecordLimits

from ts_otel_logging._caps import MAX_EXPORTED_BYTES
from ts_otel_logging._names import LOG_RECORD_UID
from ts_otel_logging._otlp_log import log_record_of, severity_of, severity_text_of
from ts_otel_logging._sdk._otlp_encoder import (
    LOG_RECORD_TIMES,
    body_fields,
    encode_log_record,
    log_record_ids,
)
from ts_otel_logging._sdk._otlp_values import (
    Key,
    attribute_fields,
    number_field,
    strict_attribute_fields,
    text_field,
    varints,
)

if TYPE_CHECKING:
    from logging import LogRecord

    from opentelemetry.sdk._logs import LogRecordProcessor
    from opentelemetry.trace import SpanContext

    from ts_otel_logging._event import Event
    from ts_otel_logging._sdk._processors import LaneLogRecordProcessor

# Besides its bytes: the objects around them, and its place in the lane.
_RECORD_BYTES: Final = 250
_ATTRIBUTES: Final = b"\x32"
# An event's size is limited as JSON, in which a byte may become six.
_SURELY_FITS: Final = MAX_EXPORTED_BYTES // 8
_MAX_SEVERITIES: Final = 64

_before_uids: Final = Key(LOG_RECORD_UID).texts
_before_bodies: Final = body_fields.before_texts
# By the level's name: the level, and its fields.
_severities: Final[dict[str, tuple[int, bytes]]] = {}
_NO_SEVERITY: Final = (None, b"")
# A span's lines follow each other: of one span, its flags and the fields of its ids.
_last_span: tuple[Optional[SpanContext], int, bytes] = (None, 0, b"")


class LaneLoggerProvider(LoggerProvider):
    """The SDK's provider with the lanes' processors, which takes events too.

    Args:
        processors: Those of the lanes.
        takes_events: Whether all lanes' exporters take bytes, and nobody wants the SDK to count its records.
        **kwargs: What the SDK's takes.

    Attributes:
        max_attributes: The most that a log record may have, or None.
    """

    def __init__(self, *processors: LaneLogRecordProcessor, takes_events: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        limits = LogRecordLimits()
        # Their names differ from release to release.
        most = getattr(limits, "max_log_record_attributes", limits.max_attributes)
        longest = getattr(limits, "max_log_record_attribute_length", limits.max_attribute_length)
        self.max_attributes: Optional[int] = most
        for processor in processors:
            super().add_log_record_processor(processor)
        self._puts: tuple[Callable[[Any, int], None], ...] = ()
        # Where texts are cut, the SDK has to look at each.
        if takes_events and longest is None:
            self._puts = tuple(processor.put for processor in processors)

    def add_log_record_processor(self, log_record_processor: LogRecordProcessor) -> None:
        """Take one more, which gets every event as the SDK's log record."""
        self._puts = ()
        super().add_log_record_processor(log_record_processor)

    def emitter(self, logger: Any) -> Callable[[Event], None]:
        """Return what lets events wait for export, or emits them where somebody needs them as log records.

        Args:
            logger: One of this provider's. What is returned raises if an event cannot be encoded.
        """
        return partial(self._put if type(logger) is Logger else self._emit, logger)

    def _emit(self, logger: Any, event: Event) -> None:
        logger.emit(log_record_of(event, self.max_attributes))

    def _put(self, logger: Any, event: Event) -> None:
        puts = self._puts
        if not puts:
            self._emit(logger, event)
            return
        data = encode_event(event, self.max_attributes)
        for put in puts:
            put((data, logger), len(data) + _RECORD_BYTES)


def encode_event(event: Event, max_attributes: Optional[int] = None) -> bytes:
    """Return the LogRecord of an event, behind its length: the one that `log_record_of` returns.

    Args:
        event: The event.
        max_attributes: The most that it may have, or None.

    Raises:
        Exception: It cannot be encoded.
    """
    extra, scope, uid = event.extra, event.scope, event.uid
    taken = scope.attributes
    # An ordinary event needs no log record first. Whatever else is out of the ordinary raises, or is too large.
    if (
        event.exception is None
        and LOG_RECORD_UID not in extra
        and (max_attributes is None or len(extra) + len(taken) < max_attributes)
        and (not taken or taken.keys().isdisjoint(extra))
    ):
        shared = scope.encoded
        if shared is None:
            shared = scope.encoded = attribute_fields(_ATTRIBUTES, taken)
        level, severity = _severities.get(event.record.levelname) or _NO_SEVERITY
        if level != event.record.levelno:
            severity = _severity_fields(event.record)
        span_context, flags, ids = _last_span
        if span_context is not event.span_context:
            flags, ids = _span_fields(event.span_context)
        nanos = event.time_micros * 1_000
        try:
            body = event.message.encode()
            data = b"".join((
                LOG_RECORD_TIMES.pack(b"\x09", nanos, b"\x59", nanos, b"\x45", flags),
                severity,
                _before_bodies[len(body)],
                body,
                ids,
                shared,
                b"" if uid is None else _ATTRIBUTES + _before_uids[len(uid)] + uid.encode(),
                strict_attribute_fields(_ATTRIBUTES, extra, takes_any=False) if extra else b"",
            ))  # fmt: skip
        except (UnicodeEncodeError, OverflowError, TypeError):
            data = b""
        if 0 < len(data) <= _SURELY_FITS:
            return varints[len(data)] + data
    record = log_record_of(event, max_attributes)
    return encode_log_record(record, record.dropped_attributes)


def _severity_fields(record: LogRecord) -> bytes:
    if len(_severities) >= _MAX_SEVERITIES:
        _severities.clear()
    name, level = record.levelname, record.levelno
    number, text = severity_of(level)._value_, severity_text_of(name)
    fields = number_field(b"\x10", number) + text_field(b"\x1a", text)
    _severities[name] = level, fields
    return fields


def _span_fields(span_context: Optional[SpanContext]) -> tuple[int, bytes]:
    """Return a log record's flags and ids."""
    global _last_span  # noqa: PLW0603 - a cache of one, swapped whole
    flags, ids = 0, b""
    if span_context is not None:
        flags, ids = span_context.trace_flags, log_record_ids(span_context.trace_id, span_context.span_id)
    _last_span = span_context, flags, ids
    return flags, ids
