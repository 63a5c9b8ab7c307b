"""Datadog's reserved and standard attributes.

https://docs.datadoghq.com/logs/log_configuration/attributes_naming_convention/ and
https://docs.datadoghq.com/standard-attributes/. Ids as Datadog's own tracer writes them into logs (ddtrace 4.16,
``internal.utils.formats.format_trace_id`` and ``Tracer.get_log_correlation_context``): a trace id of more than 64 bits
as 32 hexadecimal digits, else decimal; a span id decimal.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ts_otel_logging import _names
from ts_otel_logging._shapes._parts import CallersNames, UtcTime, environment_of, exception_texts, fields_of
from ts_otel_logging._values import encode_plain, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_otel_logging._event import Event

_ERROR_FIELDS: Final = {"type": "kind", "message": "message", "stacktrace": "stack"}
# Reserved attributes, and what Datadog takes for one when it reads JSON
# (https://docs.datadoghq.com/logs/log_configuration/pipelines/#preprocessing).
_TAKEN: Final = frozenset(
    {
        "host", "hostname", "device", "source", "ddsource", "ddtags", "service", "dd", "env", "version",
        "status", "severity", "level", "message", "msg", "log", "trace_id", "span_id",
        "timestamp", "@timestamp", "_timestamp", "Timestamp", "date", "eventTime", "published_date",
        "syslog", "named_tags", "contextMap", "logger", "error",
    }
)  # fmt: skip


def _is_taken(name: str) -> bool:
    # A dot is a path for Datadog: error.kind is the kind of error.
    return name.partition(".")[0] in _TAKEN


class DatadogShape:
    """Renders an event for Datadog.

    Args:
        resource: What the process is, as OpenTelemetry's resource attributes.
    """

    def __init__(self, resource: Mapping[str, Any]) -> None:
        self._time = UtcTime()
        self._callers_name = CallersNames(_is_taken)
        # https://docs.datadoghq.com/getting_started/tagging/unified_service_tagging/
        service = {
            "service": resource.get("service.name"),
            "dd.env": environment_of(resource),
            "dd.version": resource.get("service.version"),
        }
        self._service = {key: str(value) for key, value in service.items() if value}

    def __call__(self, event: Event) -> str:
        """Return the event's line without its newline."""
        line: dict[str, Any] = {
            "timestamp": self._time(event.time_micros),
            "status": event.level,
            "message": "",
            **self._service,
        }
        for key, value in fields_of(event).items():
            if key == _names.LEVEL:
                line["status"] = plain(value)
            elif key == _names.EVENT:
                line["message"] = plain(value)
            elif key == _names.LOGGER:
                line["logger"] = {"name": plain(value)}
            elif key == _names.TRACE_ID:
                line["dd.trace_id"] = _trace_id(str(value))
            elif key == _names.SPAN_ID:
                line["dd.span_id"] = _decimal(str(value))
            elif key == _names.TRACE_FLAGS:
                continue  # Datadog has its own sampling, and no attribute for OpenTelemetry's.
            elif key == _names.EXCEPTION:
                line["error"] = {_ERROR_FIELDS[part]: text for part, text in exception_texts(value).items()}
            elif key in _names.LINE_FIELDS and key != _names.TIMESTAMP:
                line[key] = plain(value)
            else:
                line[self._callers_name(key)] = plain(value)
        return encode_plain(line)


def _trace_id(digits: str) -> str:
    return _decimal(digits) if digits.startswith("0" * 16) else digits


def _decimal(digits: str) -> str:
    with suppress(ValueError):
        return str(int(digits, 16))
    return digits
