"""What was collected of measurements as an OTLP request, written as bytes at once (docs/adr/018-own-encoder.md).

The messages are those of
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/metrics/v1/metrics.proto.
"""

from __future__ import annotations

from struct import Struct, pack
from typing import TYPE_CHECKING, Any, Callable, Final, NamedTuple, Optional, Union

from opentelemetry.sdk.metrics.export import ExponentialHistogram, Gauge, Histogram, Sum

from ts_otel_logging._sdk._otlp_encoder import resource_items
from ts_otel_logging._sdk._otlp_values import attribute_fields, framed, number_field, text_field, varints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.metrics import Exemplar
    from opentelemetry.sdk.metrics._internal.point import Buckets
    from opentelemetry.sdk.metrics.export import (
        ExponentialHistogramDataPoint,
        HistogramDataPoint,
        Metric,
        MetricsData,
        NumberDataPoint,
    )

_INT: Final = Struct("<cq")
_DOUBLE: Final = Struct("<cd")
_TIME: Final = Struct("<cQ")
_TIMES: Final = Struct("<cQcQ")
_TIMES_AND_COUNT: Final = Struct("<cQcQcQ")


def encode_metrics(data: MetricsData) -> bytes:
    """Return an ExportMetricsServiceRequest.

    Raises:
        Exception: A metric cannot be encoded; an attribute that cannot be costs itself alone.
    """
    resources: dict[Any, dict[Any, list[bytes]]] = {}
    for of_resource in data.resource_metrics:
        scopes = resources.setdefault(of_resource.resource, {})
        for of_scope in of_resource.scope_metrics:
            scopes.setdefault(of_scope.scope, [b""]).extend(map(_metric, of_scope.metrics))
    return b"\x0a".join([b"", *(framed(resource_items(*entry)) for entry in resources.items())])


def _metric(metric: Metric) -> bytes:
    fields = (
        text_field(b"\x0a", metric.name) + text_field(b"\x12", metric.description) + text_field(b"\x1a", metric.unit)
    )
    data: Any = metric.data
    if not data.data_points:
        return framed(fields)
    tag, encode = _KINDS[type(data)]
    points = b"\x0a".join([b"", *(framed(encode(point)) for point in data.data_points)])
    points += number_field(b"\x10", getattr(data, "aggregation_temporality", None))
    points += number_field(b"\x18", getattr(data, "is_monotonic", None))
    return framed(fields + tag + framed(points))


def _gauge_point(point: NumberDataPoint) -> bytes:
    return _TIME.pack(b"\x19", point.time_unix_nano or 0) + _number_fields(point)


def _sum_point(point: NumberDataPoint) -> bytes:
    times = b"\x11", point.start_time_unix_nano or 0, b"\x19", point.time_unix_nano or 0
    return _TIMES.pack(*times) + _number_fields(point)


def _number_fields(point: NumberDataPoint) -> bytes:
    value = point.value
    number = _INT.pack(b"\x31", value) if isinstance(value, int) else _DOUBLE.pack(b"\x21", value)
    return number + _exemplars(b"\x2a", point.exemplars) + attribute_fields(b"\x3a", point.attributes)


def _histogram_point(point: HistogramDataPoint) -> bytes:
    counts, bounds = point.bucket_counts, point.explicit_bounds
    fields = (
        _times_and_count(point),
        _double(b"\x29", point.sum),
        b"\x32" + framed(pack(f"<{len(counts)}Q", *counts)),
        b"\x3a" + framed(pack(f"<{len(bounds)}d", *bounds)),
        _exemplars(b"\x42", point.exemplars),
        attribute_fields(b"\x4a", point.attributes),
        _double(b"\x59", point.min),
        _double(b"\x61", point.max),
    )
    return b"".join(fields)


def _exponential_point(point: ExponentialHistogramDataPoint) -> bytes:
    fields = (
        attribute_fields(b"\x0a", point.attributes),
        _times_and_count(point),
        _double(b"\x29", point.sum),
        b"\x30" + _zigzag(point.scale),
        _TIME.pack(b"\x39", point.zero_count),
        _buckets(b"\x42", point.positive),
        _buckets(b"\x4a", point.negative),
        number_field(b"\x50", point.flags),
        _exemplars(b"\x5a", point.exemplars),
        _double(b"\x61", point.min),
        _double(b"\x69", point.max),
    )
    return b"".join(fields)


def _times_and_count(point: Union[HistogramDataPoint, ExponentialHistogramDataPoint]) -> bytes:
    times = b"\x11", point.start_time_unix_nano or 0, b"\x19", point.time_unix_nano or 0
    return _TIMES_AND_COUNT.pack(*times, b"\x21", point.count)


def _double(tag: bytes, value: Optional[float]) -> bytes:
    return b"" if value is None else _DOUBLE.pack(tag, value)


def _zigzag(number: int) -> bytes:
    # https://protobuf.dev/programming-guides/encoding/#signed-ints
    return varints[2 * number if number >= 0 else -2 * number - 1]


def _buckets(tag: bytes, buckets: Buckets) -> bytes:
    if not buckets.bucket_counts:
        return b""
    counts = b"".join([varints[count] for count in buckets.bucket_counts])
    return tag + framed(b"\x08" + _zigzag(buckets.offset) + b"\x12" + framed(counts))


def _exemplars(tag: bytes, exemplars: Sequence[Exemplar]) -> bytes:
    return tag.join([b"", *(framed(_exemplar(exemplar)) for exemplar in exemplars)]) if exemplars else b""


def _exemplar(exemplar: Exemplar) -> bytes:
    value, span_id, trace_id = exemplar.value, exemplar.span_id, exemplar.trace_id
    fields = _TIME.pack(b"\x11", exemplar.time_unix_nano or 0)
    fields += _DOUBLE.pack(b"\x19", value) if isinstance(value, float) else _INT.pack(b"\x31", value)
    if span_id is not None and trace_id is not None:
        fields += b"\x22\x08" + span_id.to_bytes(8, "big") + b"\x2a\x10" + trace_id.to_bytes(16, "big")
    return fields + attribute_fields(b"\x3a", exemplar.filtered_attributes)


class _Kind(NamedTuple):
    tag: bytes
    encode: Callable[[Any], bytes]


_KINDS: Final[dict[type, _Kind]] = {
    Gauge: _Kind(b"\x2a", _gauge_point),
    Sum: _Kind(b"\x3a", _sum_point),
    Histogram: _Kind(b"\x4a", _histogram_point),
    ExponentialHistogram: _Kind(b"\x52", _exponential_point),
}
