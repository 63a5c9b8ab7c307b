"""OTLP JSON: one line is what an OTLP exporter would send of one event.

A line is a whole ``ExportLogsServiceRequest``, the form of OpenTelemetry's file exporter
(https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/), because that is what is read: by the collector's
``otlp_json_file`` receiver, and by its connector for OTLP JSON in the bodies of other log records. Nothing reads a bare
log record, and that would lose its resource and scope. Encoding:
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ts_otel_logging import _names
from ts_otel_logging._otlp_log import severity_of
from ts_otel_logging._shapes._parts import CallersNames, exception_texts, fields_of
from ts_otel_logging._values import encode_plain, plain, utf8
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_otel_logging._event import Event

_ATTRIBUTES: Final = {
    _names.REQUEST_ID: _names.ATTR_REQUEST_ID,
    _names.REQUEST_IDS: _names.ATTR_REQUEST_IDS,
    _names.TRACE_IDS: _names.ATTR_TRACE_IDS,
    _names.MODEL_NAME: _names.ATTR_MODEL_NAME,
    _names.MODEL_VERSION: _names.ATTR_MODEL_VERSION,
    _names.WORKER_ID: _names.ATTR_WORKER_ID,
    _names.LOG_RECORD_UID: _names.LOG_RECORD_UID,
    _names.TRUNCATED: _names.TRUNCATED,
}
_EXCEPTION_ATTRIBUTES: Final = {
    "type": _names.ATTR_EXCEPTION_TYPE,
    "message": _names.ATTR_EXCEPTION_MESSAGE,
    "stacktrace": _names.ATTR_EXCEPTION_STACKTRACE,
}
# Top-level fields of a log record.
_ELSEWHERE: Final = frozenset({_names.LEVEL, _names.EVENT, _names.LOGGER, _names.TRACE_ID, _names.SPAN_ID}) | {
    _names.TRACE_FLAGS
}
_TAKEN: Final = frozenset(
    {*_ATTRIBUTES.values(), *_EXCEPTION_ATTRIBUTES.values(), _names.ATTR_CLIENT_REQUEST_ID, _names.TIMESTAMP}
)
_MOST_INTEGER: Final = 2**63


class OtelShape:
    """Renders an event as OTLP JSON; time, severity and ids are the record's own, whatever processors did.

    Args:
        resource: What the process is, as OpenTelemetry's resource attributes.
    """

    def __init__(self, resource: Mapping[str, Any]) -> None:
        self._callers_name = CallersNames(_TAKEN.__contains__)
        self._resource = {"attributes": _key_values({key: plain(value) for key, value in resource.items()})}

    def __call__(self, event: Event) -> str:
        """Return the event's line without its newline."""
        fields = fields_of(event)
        time_nanos = str(event.time_micros * 1_000)
        record: dict[str, Any] = {
            "timeUnixNano": time_nanos,
            "observedTimeUnixNano": time_nanos,
            "severityNumber": severity_of(event.record.levelno).value,
            "severityText": utf8(event.record.levelname),
            "body": _any_value(plain(fields.get(_names.EVENT, ""))),
            "attributes": _key_values(self._attributes(fields)),
        }
        span_context = event.span_context
        if span_context is not None:
            record["flags"] = int(span_context.trace_flags)
            record["traceId"] = f"{span_context.trace_id:032x}"
            record["spanId"] = f"{span_context.span_id:016x}"
        scope = {"name": plain(fields.get(_names.LOGGER, event.logger)), "version": __version__}
        return encode_plain(
            {"resourceLogs": [{"resource": self._resource, "scopeLogs": [{"scope": scope, "logRecords": [record]}]}]}
        )

    def _attributes(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        for key, value in fields.items():
            name = _ATTRIBUTES.get(key)
            if name is not None:
                attributes[name] = plain(value)
            elif key == _names.CLIENT_REQUEST_ID:
                attributes[_names.ATTR_CLIENT_REQUEST_ID] = [plain(value)]
            elif key == _names.EXCEPTION:
                attributes.update((_EXCEPTION_ATTRIBUTES[part], text) for part, text in exception_texts(value).items())
            elif key not in _ELSEWHERE:
                attributes[self._callers_name(key)] = plain(value)
        return attributes


def _key_values(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any_value(value)} for key, value in attributes.items()]


def _any_value(value: Any) -> dict[str, Any]:  # noqa: PLR0911 - one return a kind of value
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        # 64-bit integers are decimal text in protobuf's JSON; a larger one is a text of its own.
        return {"intValue" if -_MOST_INTEGER <= value < _MOST_INTEGER else "stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_any_value(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": _key_values(value)}}
    return {}
