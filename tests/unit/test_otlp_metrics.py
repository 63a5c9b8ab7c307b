"""Our encoder of metrics against OpenTelemetry's own: the same messages for whatever the SDK collects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics as encode_officially
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics._internal.point import Buckets
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ts_otel_logging._sdk._otlp_metrics import encode_metrics

FIXED_64 = st.integers(0, 2**64 - 1)
COUNTS = st.integers(0, 300) | FIXED_64
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300) | st.floats()
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)
ATTRIBUTES = st.dictionaries(
    TEXT.filter(bool), st.sampled_from(["a", 1, -1, True, 0.5, ("a", "b"), (1, 2), ()]), max_size=3
)
EXEMPLARS = st.lists(
    st.builds(
        Exemplar,
        ATTRIBUTES,
        NUMBERS,
        FIXED_64,
        st.none() | st.integers(0, 2**64 - 1),
        st.none() | st.integers(0, 2**128 - 1),
    ),
    max_size=2,
)
NUMBER_POINTS = st.lists(st.builds(NumberDataPoint, ATTRIBUTES, FIXED_64, FIXED_64, NUMBERS, EXEMPLARS), max_size=3)
HISTOGRAM_POINTS = st.lists(
    st.builds(
        HistogramDataPoint,
        ATTRIBUTES,
        FIXED_64,
        FIXED_64,
        COUNTS,
        st.floats(),
        st.lists(COUNTS, max_size=20),
        st.lists(st.floats(), max_size=20),
        st.floats(),
        st.floats(),
        EXEMPLARS,
    ),
    max_size=3,
)
BUCKETS = st.builds(Buckets, st.integers(-(2**31), 2**31 - 1), st.lists(COUNTS, max_size=10))
EXPONENTIAL_POINTS = st.lists(
    st.builds(
        ExponentialHistogramDataPoint,
        ATTRIBUTES,
        FIXED_64,
        FIXED_64,
        COUNTS,
        st.floats(),
        st.integers(-10, 20),
        COUNTS,
        BUCKETS,
        BUCKETS,
        st.integers(0, 2**32 - 1),
        st.floats(),
        st.floats(),
        EXEMPLARS,
    ),
    max_size=3,
)
TEMPORALITIES = st.sampled_from(AggregationTemporality)
METRICS = st.builds(
    Metric,
    TEXT,
    st.none() | TEXT,
    st.none() | TEXT,
    st.one_of(
        st.builds(Gauge, NUMBER_POINTS),
        st.builds(Sum, NUMBER_POINTS, TEMPORALITIES, st.booleans()),
        st.builds(Histogram, HISTOGRAM_POINTS, TEMPORALITIES),
        st.builds(ExponentialHistogram, EXPONENTIAL_POINTS, TEMPORALITIES),
    ),
)
SCOPES = st.builds(InstrumentationScope, TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | ATTRIBUTES)
# The SDK has one entry a resource, and one a scope of it.
SCOPE_METRICS = st.lists(
    st.builds(ScopeMetrics, SCOPES, st.lists(METRICS, max_size=3), st.just("")),
    max_size=2,
    unique_by=lambda entry: entry.scope,
)
RESOURCES = st.builds(Resource, ATTRIBUTES, st.none() | TEXT)
DATA = st.builds(
    MetricsData,
    st.lists(
        st.builds(ResourceMetrics, RESOURCES, SCOPE_METRICS, st.just("")),
        max_size=2,
        unique_by=lambda entry: entry.resource,
    ),
)


@given(DATA)
def test_any_collection_is_the_message_that_the_official_encoder_makes(data: MetricsData) -> None:
    ours = ExportMetricsServiceRequest.FromString(encode_metrics(data))
    # As bytes, since no NaN is equal to itself.
    assert ours.SerializeToString(deterministic=True) == encode_officially(data).SerializeToString(deterministic=True)


def data_with(data: Any) -> MetricsData:
    metric = Metric("test", None, None, data)
    scope = ScopeMetrics(InstrumentationScope("test"), [metric], "")
    return MetricsData([ResourceMetrics(Resource({}), [scope], "")])


@pytest.mark.parametrize(
    "data", [Gauge([NumberDataPoint({}, 0, 0, 2**63)]), Gauge([NumberDataPoint({}, 0, 0, "many")]), object()]
)
def test_what_no_message_can_hold_is_an_error(data: Any) -> None:
    with pytest.raises(Exception, match=r".+"):
        encode_metrics(data_with(data))
