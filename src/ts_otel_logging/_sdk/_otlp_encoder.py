"""Batches of spans and of log records as OTLP requests, written as bytes at once (docs/adr/018-own-encoder.md).

The messages are those of
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto and of
logs/v1/logs.proto beside it. Parsed, the bytes are what OpenTelemetry's own encoder makes of the same batch; the order
of fields does not matter to a parser.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Callable, Final, Optional, Union

from opentelemetry.trace.span import DEFAULT_TRACE_STATE

from ts_otel_logging._sdk._otlp_log_records import PlainParts, encode_log_record, encode_plain_parts
from ts_otel_logging._sdk._otlp_values import (
    TextFields,
    attribute_fields,
    framed,
    number_field,
    text_field,
)
from ts_otel_logging._sdk._request_spans import NOTHING_DROPPED, UNSET, RequestSpan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk._logs import Logger, ReadableLogRecord
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, Status

# SpanFlags; the lowest eight bits, the trace flags, are left out as OpenTelemetry's own encoder does.
_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200

# Fields of one length, with their tags.
_ROOT: Final = Struct("<2s16s2s8scQcQ2sI")
_CHILD: Final = Struct("<2s16s2s8s2s8scQcQ2sI")
_EVENT: Final = Struct("<cQ")
_LINK: Final = Struct("<2s16s2s8scI")

# By the values of SpanKind, which are one less than OTLP's, and of StatusCode.
_KINDS: Final = tuple(number_field(b"\x30", number) for number in range(1, 6))
_STATUSES: Final = tuple(b"\x7a" + framed(number_field(b"\x18", number)) for number in range(3))
_names: Final = TextFields(b"\x2a")


EventRecord = tuple["Logger", Union[bytes, PlainParts]]
"""A log record of an event: the SDK's logger of its scope, and the record as bytes or what they are made of."""


def encode_spans(batch: Sequence[ReadableSpan]) -> bytes:
    """Return an ExportTraceServiceRequest.

    Raises:
        Exception: A span cannot be encoded; an attribute that cannot be costs itself alone.
    """
    return _request(batch, _span)


def encode_log_records(batch: Sequence[Union[ReadableLogRecord, EventRecord]]) -> bytes:
    """Return an ExportLogsServiceRequest.

    Raises:
        Exception: A log record cannot be encoded; an attribute that cannot be costs itself alone.
    """
    return _request(batch, _log_record)


def _log_record(item: Union[ReadableLogRecord, EventRecord]) -> bytes:
    if not isinstance(item, tuple):
        return encode_log_record(item.log_record, item.dropped_attributes)
    what = item[1]
    return what if isinstance(what, bytes) else encode_plain_parts(what)


def _request(batch: Sequence[Any], encode: Callable[[Any], bytes]) -> bytes:
    # The fields around spans have the same numbers as those around log records.
    resources: dict[Resource, dict[Optional[InstrumentationScope], list[bytes]]] = {}
    # By identity first: a resource's hash is that of its JSON. What has an id in here is kept alive by it.
    seen: dict[tuple[int, int], tuple[list[bytes], Any, Any]] = {}
    items: list[bytes] = []
    last_origin: Any = seen
    last_resource: Any = seen
    last_scope: Any = seen
    for item in batch:
        origin: Any = item[0] if type(item) is tuple else item
        if origin is not last_origin:
            last_origin = origin
            resource, scope = origin.resource, origin.instrumentation_scope
            if resource is not last_resource or scope is not last_scope:
                found = seen.get((id(resource), id(scope)))
                if found is None:
                    items = resources.setdefault(resource, {}).setdefault(scope or None, [b""])
                    found = seen[id(resource), id(scope)] = items, resource, scope
                items, last_resource, last_scope = found
        items.append(encode(item))
    return b"\x0a".join([b"", *(framed(resource_items(*entry)) for entry in resources.items())])


def resource_items(resource: Resource, scopes: Mapping[Optional[InstrumentationScope], list[bytes]]) -> bytes:
    """Return a ResourceSpans, or the like of another signal: these fields have the same numbers in each.

    Args:
        resource: Who made them.
        scopes: By what part of a program made them: an empty part, and spans, each behind its length.
    """
    fields = [b"\x0a" + framed(attribute_fields(b"\x0a", resource.attributes))]
    fields += [b"\x12" + framed(_scope(scope) + b"\x12".join(items)) for scope, items in scopes.items()]
    fields.append(text_field(b"\x1a", resource.schema_url))
    return b"".join(fields)


def _scope(scope: Optional[InstrumentationScope]) -> bytes:
    if scope is None:
        return b"\x0a\x00"
    fields = text_field(b"\x0a", scope.name) + text_field(b"\x12", scope.version)
    fields += attribute_fields(b"\x1a", scope.attributes)
    return b"\x0a" + framed(fields) + text_field(b"\x1a", scope.schema_url)


def _span(span: ReadableSpan) -> bytes:
    (
        trace_id, span_id, state, parent_id, is_remote, name, kind, start_time, end_time, status, attributes, events,
        links, dropped,
    ) = span.parts() if type(span) is RequestSpan else _parts(span)  # fmt: skip
    if parent_id is not None:
        head = _CHILD.pack(
            b"\x0a\x10", trace_id.to_bytes(16, "big"), b"\x12\x08", span_id.to_bytes(8, "big"),
            b"\x22\x08", parent_id.to_bytes(8, "big"), b"\x39", start_time or 0, b"\x41", end_time or 0,
            b"\x85\x01", _HAS_IS_REMOTE | _IS_REMOTE if is_remote else _HAS_IS_REMOTE,
        )  # fmt: skip
    else:
        head = _ROOT.pack(
            b"\x0a\x10", trace_id.to_bytes(16, "big"), b"\x12\x08", span_id.to_bytes(8, "big"),
            b"\x39", start_time or 0, b"\x41", end_time or 0, b"\x85\x01", _HAS_IS_REMOTE,
        )  # fmt: skip
    fields = [head, _names[name], _KINDS[kind._value_]]
    if attributes:
        fields.append(attribute_fields(b"\x4a", attributes))
    # The status of nearly every span; its parts are properties.
    if status is UNSET:
        fields.append(_STATUSES[0])
    elif status is not None:
        fields.append(_status(status) if status.description else _STATUSES[status.status_code._value_])
    if state is not DEFAULT_TRACE_STATE and state:
        fields.append(text_field(b"\x1a", ",".join([f"{key}={value}" for key, value in state.items()])))
    if events:
        fields += [b"\x5a" + framed(_event(event)) for event in events]
    if links:
        fields += [b"\x6a" + framed(_link(link)) for link in links]
    if dropped is not NOTHING_DROPPED and any(dropped):
        fields += map(number_field, (b"\x50", b"\x60", b"\x70"), dropped)
    return framed(b"".join(fields))


def _parts(span: ReadableSpan) -> tuple[Any, ...]:
    """Return of any span what `RequestSpan.parts` returns of its own."""
    context: Any = span.get_span_context()
    parent = span.parent
    # The public properties wrap or copy, which makes looking at them five times as slow; most spans have no events.
    attributes = getattr(span, "_attributes", None)
    return (
        context.trace_id,
        context.span_id,
        context.trace_state,
        parent.span_id if parent else None,
        parent.is_remote if parent else False,
        span.name,
        span.kind,
        span.start_time,
        span.end_time,
        span.status,
        span.attributes if attributes is None else attributes,
        span.events if getattr(span, "_events", True) else (),
        span.links if getattr(span, "_links", True) else (),
        (span.dropped_attributes, span.dropped_events, span.dropped_links),
    )


def _flags(context: SpanContext) -> int:
    return _HAS_IS_REMOTE | _IS_REMOTE if context.is_remote else _HAS_IS_REMOTE


def _status(status: Status) -> bytes:
    fields = text_field(b"\x12", status.description) + number_field(b"\x18", status.status_code._value_)
    return b"\x7a" + framed(fields)


def _event(event: Event) -> bytes:
    fields = _EVENT.pack(b"\x09", event.timestamp or 0) + text_field(b"\x12", event.name)
    return fields + attribute_fields(b"\x1a", event.attributes) + number_field(b"\x20", event.dropped_attributes)


def _link(link: Link) -> bytes:
    # Without the trace state, as OpenTelemetry's own encoder has it.
    context = link.context
    ids = b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big")
    fields = _LINK.pack(*ids, b"\x35", _flags(context))
    return fields + attribute_fields(b"\x22", link.attributes) + number_field(b"\x28", link.dropped_attributes)
