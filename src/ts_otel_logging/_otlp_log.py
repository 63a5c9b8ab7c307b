"""The OTLP twin of a line: the same event as an OpenTelemetry log record. API only."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber

from ts_otel_logging import _names
from ts_otel_logging._caps import MAX_EXPORTED_BYTES, cut_record
from ts_otel_logging._config import max_log_attributes
from ts_otel_logging._diagnostics import EXPORT_LOGGER_NAME
from ts_otel_logging._values import plain, unique_name, utf8
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from ts_otel_logging._event import Event

# What the exporter and its transport say about themselves would be exported, fail, and be said again.
NOT_EXPORTED: Final = ("opentelemetry.", "urllib3.", "grpc.", EXPORT_LOGGER_NAME)
_MAX_LOGGERS: Final = 1_024
_MAX_NAME_CHARACTERS: Final = 1_024


class EventLogRecord(LogRecord):
    """A log record made of an event: its secrets are masked already.

    Attributes:
        dropped_attributes: How many of the caller's fields were too many.
    """

    dropped_attributes = 0


class OtlpLogOutput:
    """Emits each event as a log record: time, severity and ids are the record's own, whatever processors did.

    Args:
        logger_provider: An OpenTelemetry LoggerProvider; the scope of a record is the logger's name.
    """

    def __init__(self, logger_provider: LoggerProvider) -> None:
        self._provider = logger_provider
        # Ours takes events as they are. Asked of the type: a stand-in object has every attribute.
        self._takes_events = hasattr(type(logger_provider), "emitter")
        self._max_attributes = None if self._takes_events else max_log_attributes(os.environ)
        self._emitters: dict[str, Callable[[Event], None]] = {}

    def __call__(self, event: Event) -> None:
        """Emit the event."""
        emit = self._emitters.get(event.logger) or self._emitter(event.logger)
        emit(event)

    def _emitter(self, name: str) -> Callable[[Event], None]:
        if len(self._emitters) >= _MAX_LOGGERS:
            self._emitters.clear()
        emitter = self._emitters[name] = self._build_emitter(name)
        return emitter

    def _build_emitter(self, name: str) -> Callable[[Event], None]:
        if name.startswith(NOT_EXPORTED):
            return _ignore
        provider: Any = self._provider
        logger = provider.get_logger(utf8(name)[:_MAX_NAME_CHARACTERS], __version__)
        if self._takes_events:
            emitter: Callable[[Event], None] = provider.emitter(logger)
            return emitter
        return lambda event: logger.emit(log_record_of(event, self._max_attributes))


def _ignore(_event: Event) -> None:
    pass


def log_record_of(event: Event, max_attributes: Optional[int] = None) -> EventLogRecord:
    """Return an event as OpenTelemetry's API has it, within `MAX_EXPORTED_BYTES`.

    Args:
        event: The event.
        max_attributes: The most that it may have, or None. The caller's last ones go: the SDK would drop the oldest,
            which are ours, and warn of each.
    """
    time_nanos = event.time_micros * 1_000
    body = utf8(event.message)
    attributes, characters = _attributes(event)
    # A character has at most four bytes of UTF-8.
    if 4 * (len(body) + characters) > MAX_EXPORTED_BYTES:
        body, attributes = cut_record(body, attributes)
    dropped = 0
    if max_attributes is not None and len(attributes) > max_attributes:
        attributes.pop(_names.TRUNCATED, None)
        kept = max(max_attributes - 1, 0)
        dropped = len(attributes) - kept
        attributes = {**dict(islice(attributes.items(), kept)), **({_names.TRUNCATED: True} if max_attributes else {})}
    record = EventLogRecord(
        timestamp=time_nanos,
        observed_timestamp=time_nanos,
        severity_text=severity_text_of(event.record.levelname),
        severity_number=severity_of(event.record.levelno),
        body=body,
        attributes=attributes,
    )
    if dropped:
        record.dropped_attributes = dropped
    return record


def severity_text_of(level_name: str) -> str:
    """Return a level's name as the text of a severity."""
    return utf8(level_name)[:_MAX_NAME_CHARACTERS]


@lru_cache(maxsize=256)
def severity_of(level: int) -> SeverityNumber:
    """Return a level of `logging` as OpenTelemetry's SDK maps it: DEBUG 5, INFO 9, WARNING 13, ERROR 17, CRITICAL 21.

    Levels in between are the finer steps of their range, at most three above; levels below DEBUG are TRACE.
    """
    if level <= 0:
        return SeverityNumber.UNSPECIFIED
    if level < logging.DEBUG:
        return SeverityNumber.TRACE
    tens, ones = divmod(min(level, logging.CRITICAL + 3), 10)
    return SeverityNumber(4 * tens + 1 + min(ones, 3))


def _attributes(event: Event) -> tuple[dict[str, Any], int]:
    """Return the attributes and about how many characters they have, which is seldom too few."""
    attributes: dict[str, Any] = dict(event.scope.attributes)
    if event.uid is not None:
        attributes[_names.LOG_RECORD_UID] = event.uid
    characters = 256
    exception: Any = event.exception
    if exception is not None:
        # A processor may have made it a text, as structlog's own formatters of exceptions do.
        members = exception if isinstance(exception, dict) else {"stacktrace": exception}
        for field, attribute in _EXCEPTION_ATTRIBUTES:
            if field in members:
                value = attributes[attribute] = plain(members[field])
                characters += _characters(value)
    for key, value in event.extra.items():
        # A copy: what the caller does with the object after the call must not show.
        copy = _within_64_bits(plain(value))
        attributes[unique_name(_names.EXTRA_PREFIX + key, attributes) if key in attributes else key] = copy
        characters += 32 + (len(copy) if type(copy) is str else _characters(copy) if type(copy) in _COLLECTIONS else 0)
    return attributes, characters


_COLLECTIONS: Final = (dict, list)
_MAX_INT_64: Final = 2**63


def _within_64_bits(value: Any) -> Any:
    """Return a value of `plain`'s with the integers as text that OTLP cannot hold."""
    kind = type(value)
    if kind is int:
        return value if -_MAX_INT_64 <= value < _MAX_INT_64 else str(value)
    if kind is list:
        return [_within_64_bits(item) for item in value]
    return {key: _within_64_bits(item) for key, item in value.items()} if kind is dict else value


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(32 + len(key) + _characters(item) for key, item in value.items())
    return sum(8 + _characters(item) for item in value) if isinstance(value, list) else 8


_EXCEPTION_ATTRIBUTES: Final = (
    ("type", _names.ATTR_EXCEPTION_TYPE),
    ("message", _names.ATTR_EXCEPTION_MESSAGE),
    ("stacktrace", _names.ATTR_EXCEPTION_STACKTRACE),
)
