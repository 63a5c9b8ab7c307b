"""The OTLP twin of a line: the same event as an OpenTelemetry log record. API only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Optional

from opentelemetry._logs import Logger, LoggerProvider, LogRecord, SeverityNumber

from ts_otel_logging import _names
from ts_otel_logging._values import plain, utf8
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from ts_otel_logging._event import Event

# What the exporter and its transport say about themselves would be exported, fail, and be said again.
_NOT_EXPORTED: Final = ("opentelemetry.", "urllib3.", "grpc.")
_MAX_LOGGERS: Final = 1_024


class EventLogRecord(LogRecord):
    """A log record made of an event: its secrets are masked already."""


class OtlpLogOutput:
    """Emits each event as a log record: time, severity and ids are the record's own, whatever processors did.

    Args:
        logger_provider: An OpenTelemetry LoggerProvider; the scope of a record is the logger's name.
    """

    def __init__(self, logger_provider: LoggerProvider) -> None:
        self._provider = logger_provider
        self._loggers: dict[str, Optional[Logger]] = {}
        self._severities: dict[int, SeverityNumber] = {}

    def __call__(self, event: Event) -> None:
        """Emit the event."""
        name = event.logger
        try:
            logger = self._loggers[name]
        except KeyError:
            logger = self._logger(name)
        if logger is None:
            return
        level = event.record.levelno
        severity = self._severities.get(level)
        if severity is None:
            severity = self._severities[level] = severity_of(level)
        time_nanos = event.time_micros * 1_000
        logger.emit(
            EventLogRecord(
                timestamp=time_nanos,
                observed_timestamp=time_nanos,
                severity_text=event.record.levelname,
                severity_number=severity,
                body=utf8(event.message),
                attributes=_attributes(event),
            )
        )

    def _logger(self, name: str) -> Optional[Logger]:
        if len(self._loggers) >= _MAX_LOGGERS:
            self._loggers.clear()
        logger = None if name.startswith(_NOT_EXPORTED) else self._provider.get_logger(name, __version__)
        self._loggers[name] = logger
        return logger


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


def _attributes(event: Event) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(event.scope.attributes)
    if event.uid is not None:
        attributes[_names.LOG_RECORD_UID] = event.uid
    exception: Any = event.exception
    if isinstance(exception, dict):
        for field, attribute in _EXCEPTION_ATTRIBUTES:
            if field in exception:
                attributes[attribute] = plain(exception[field])
    elif exception is not None:
        # A processor made it a text, as structlog's own formatters of exceptions do.
        attributes[_names.ATTR_EXCEPTION_STACKTRACE] = plain(exception)
    for key, value in event.extra.items():
        name = key if type(key) is str else str(plain(key))
        # A copy: what the caller does with the object after the call must not show.
        attributes[_names.EXTRA_PREFIX + name if name in attributes else utf8(name)] = plain(value)
    return attributes


_EXCEPTION_ATTRIBUTES: Final = (
    ("type", _names.ATTR_EXCEPTION_TYPE),
    ("message", _names.ATTR_EXCEPTION_MESSAGE),
    ("stacktrace", _names.ATTR_EXCEPTION_STACKTRACE),
)
