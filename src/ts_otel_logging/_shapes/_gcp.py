"""Google Cloud's structured logging: the JSON that its agents make log entries of.

https://cloud.google.com/logging/docs/structured-logging#special-payload-fields,
https://cloud.google.com/trace/docs/trace-log-integration and, for exceptions,
https://cloud.google.com/error-reporting/docs/formatting-error-messages.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from ts_otel_logging import _names
from ts_otel_logging._shapes._parts import CallersNames, UtcTime, exception_texts, fields_of
from ts_otel_logging._values import encode_plain, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_otel_logging._event import Event

_PREFIX: Final = "logging.googleapis.com/"
_FIELDS: Final = {
    _names.EVENT: "message",
    _names.SPAN_ID: f"{_PREFIX}spanId",
    _names.LOG_RECORD_UID: f"{_PREFIX}insertId",
}
# google/logging/type/log_severity.proto
_SEVERITIES: Final = frozenset(
    {"DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"}
)
_SEVERITIES_BY_LEVEL: Final = (
    (logging.CRITICAL, "CRITICAL"),
    (logging.ERROR, "ERROR"),
    (logging.WARNING, "WARNING"),
    (logging.INFO, "INFO"),
    (1, "DEBUG"),
)
_TAKEN: Final = frozenset(
    {
        # Special fields of the agents, and what they take for a time.
        "severity", "message", "log", "httpRequest", "time", "timestamp", "timestampSeconds", "timestampNanos",
        # Error Reporting's.
        "@type", "stack_trace", "exception", "serviceContext", "context", "eventTime",
        # Of an exception, below.
        "error",
    }
)  # fmt: skip


def _is_taken(name: str) -> bool:
    return name in _TAKEN or name.startswith(_PREFIX)


class GcpShape:
    """Renders an event for Google Cloud Logging.

    Args:
        resource: What the process is, as OpenTelemetry's resource attributes. With ``cloud.account.id``, the project's
            id, a trace has its full resource name, else its id alone.
    """

    def __init__(self, resource: Mapping[str, Any]) -> None:
        self._time = UtcTime()
        self._callers_name = CallersNames(_is_taken)
        project = resource.get("cloud.account.id")
        self._trace_prefix = f"projects/{project}/traces/" if project else ""
        service = {"service": resource.get("service.name"), "version": resource.get("service.version")}
        self._service_context = {key: str(value) for key, value in service.items() if value}

    def __call__(self, event: Event) -> str:
        """Return the event's line without its newline."""
        fields = fields_of(event)
        level = str(plain(fields.get(_names.LEVEL, event.level)))
        severity = level.upper()
        if severity not in _SEVERITIES:
            number = event.record.levelno
            severity = next((name for least, name in _SEVERITIES_BY_LEVEL if number >= least), "DEFAULT")
        line: dict[str, Any] = {"severity": severity, "time": self._time(event.time_micros), "message": ""}
        for key, value in fields.items():
            field = _FIELDS.get(key)
            if field is not None:
                line[field] = plain(value)
            elif key == _names.LEVEL:
                if level.upper() != severity:
                    line[key] = level
            elif key == _names.TRACE_ID:
                line[f"{_PREFIX}trace"] = f"{self._trace_prefix}{plain(value)}"
            elif key == _names.TRACE_FLAGS:
                # The last bit, "sampled": https://www.w3.org/TR/trace-context/#sampled-flag
                line[f"{_PREFIX}trace_sampled"] = str(value)[-1:] in "13579bdf"
            elif key == _names.EXCEPTION:
                self._add_exception(line, value)
            else:
                line[self._callers_name(key)] = plain(value)
        return encode_plain(line)

    def _add_exception(self, line: dict[str, Any], exception: Any) -> None:
        texts = exception_texts(exception)
        if "stacktrace" in texts:
            line["stack_trace"] = texts.pop("stacktrace")
        if texts:
            line["error"] = texts
        if self._service_context:
            line["serviceContext"] = self._service_context
