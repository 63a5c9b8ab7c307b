"""The Elastic Common Schema, as Elasticsearch, Filebeat and Kibana know it.

https://www.elastic.co/docs/reference/ecs/ecs-field-reference, in the order and with the dotted names of
https://github.com/elastic/ecs-logging/tree/main/spec. What ECS has no field for has OpenTelemetry's name, which begins
with a name of its own (``torchserve``) as ECS asks of custom fields; a caller's fields are ``labels``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ts_otel_logging import _names
from ts_otel_logging._shapes._parts import UtcTime, environment_of, exception_texts, fields_of
from ts_otel_logging._values import encode_plain, plain, unique_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_otel_logging._event import Event

# Every field here is in this version and has kept its type since.
ECS_VERSION: Final = "8.11.0"

_FIELDS: Final = {
    _names.LEVEL: "log.level",
    _names.EVENT: "message",
    _names.LOGGER: "log.logger",
    _names.TRACE_ID: "trace.id",
    _names.SPAN_ID: "span.id",
    _names.REQUEST_ID: _names.ATTR_REQUEST_ID,
    _names.REQUEST_IDS: _names.ATTR_REQUEST_IDS,
    _names.TRACE_IDS: _names.ATTR_TRACE_IDS,
    _names.CLIENT_REQUEST_ID: "http.request.id",
    _names.MODEL_NAME: _names.ATTR_MODEL_NAME,
    _names.MODEL_VERSION: _names.ATTR_MODEL_VERSION,
    _names.WORKER_ID: _names.ATTR_WORKER_ID,
    _names.LOG_RECORD_UID: "event.id",
}
_ERROR_FIELDS: Final = {"type": "error.type", "message": "error.message", "stacktrace": "error.stack_trace"}
# ecs-logging's specification ("sanitization"): a dot would make the label an object.
_LABEL_CHARACTERS: Final = str.maketrans({".": "_", "*": "_", "\\": "_"})
_SCALARS: Final = (str, int, float, bool, type(None))


class EcsShape:
    """Renders an event in the Elastic Common Schema.

    Args:
        resource: What the process is, as OpenTelemetry's resource attributes.
    """

    def __init__(self, resource: Mapping[str, Any]) -> None:
        self._time = UtcTime()
        name = resource.get("service.name")
        service = {
            "ecs.version": ECS_VERSION,
            "service.name": name,
            "service.version": resource.get("service.version"),
            "service.environment": environment_of(resource),
            "service.node.name": resource.get("service.instance.id"),
            # The name that ecs-logging's specification gives it.
            "event.dataset": f"{name}.log" if name else None,
        }
        self._service = {field: str(value) for field, value in service.items() if value}

    def __call__(self, event: Event) -> str:
        """Return the event's line without its newline."""
        line: dict[str, Any] = {
            "@timestamp": self._time(event.time_micros),
            "log.level": event.level,
            "message": "",
            **self._service,
        }
        labels: dict[str, Any] = {}
        for key, value in fields_of(event).items():
            field = _FIELDS.get(key)
            if field is not None:
                line[field] = plain(value)
            elif key == _names.EXCEPTION:
                line.update((_ERROR_FIELDS[part], text) for part, text in exception_texts(value).items())
            elif key == _names.TRUNCATED:
                line["tags"] = [_names.TRUNCATED]
            else:
                label = key.translate(_LABEL_CHARACTERS)
                shown = plain(value)
                labels[unique_name(label, labels) if label in labels else label] = (
                    shown if isinstance(shown, _SCALARS) else encode_plain(shown)
                )
        if labels:
            line["labels"] = labels
        return encode_plain(line)
