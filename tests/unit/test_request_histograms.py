"""The histograms of requests: what is collected is what the SDK's own would have."""

from __future__ import annotations

import math
import signal
import sys
import threading
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, ConsoleMetricExporter, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from forked import in_forked_child
from otlp_receiver import OtlpReceiver
from sdk_room import room
from ts_otel_logging import _names
from ts_otel_logging._metrics import Metrics
from ts_otel_logging._model_metrics import ModelMetrics
from ts_otel_logging._sdk._processors import ThreadMetricReader
from ts_otel_logging._sdk._request_histograms import EXEMPLAR_FILTERS, RequestHistogram, RequestMeterProvider

BOUNDARIES = (0.001, 0.5, 1.0, 10.0)
NAME = "torchserve.request.duration"
COUNTING = tuple(AggregationTemporality.__members__.values())[1:]

measurements = st.tuples(
    st.one_of(st.sampled_from((0, 1, *BOUNDARIES)), st.floats(min_value=0, max_value=1e300)),
    st.sampled_from(({"model": "a"}, {"model": "b"}, {"model": "a", "error.type": "ValueError"}, {}, None)),
    st.sampled_from(("sampled", "unsampled", "none")),
)
COLLECT = "collect"


def context_of(span: str) -> Context:
    if span == "none":
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if span == "sampled" else TraceFlags.DEFAULT)
    return trace.set_span_in_context(NonRecordingSpan(SpanContext(7, 9, is_remote=False, trace_flags=flags)), Context())


class Side(NamedTuple):
    """A provider with what its reader collects."""

    provider: MeterProvider
    reader: ThreadMetricReader
    collected: list[Any]

    def collect(self) -> list[dict[str, Any]]:
        """The points of the next collection; their times are left out."""
        self.collected.clear()
        self.reader.collect_everything(10_000)
        points = [
            (metric, point)
            for data in self.collected
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
            if scope.scope.name == _names.SCOPE_NAME
        ]
        found = [
            {
                "metric": (metric.name, metric.unit, metric.description, metric.data.aggregation_temporality),
                "attributes": dict(point.attributes or {}),
                "values": (point.count, point.min, point.max, point.bucket_counts, point.explicit_bounds),
                "sum": point.sum,
                "exemplars": sorted((e.value, e.trace_id or 0, e.span_id or 0) for e in point.exemplars),
            }
            for metric, point in points
        ]
        return sorted(found, key=lambda point: sorted(point["attributes"].items()))


def side(temporality: AggregationTemporality, *, ours: bool = True, exemplars: str = "trace_based") -> Side:
    exporter = ConsoleMetricExporter(preferred_temporality={Histogram: temporality})
    collected: list[Any] = []
    reader = ThreadMetricReader(exporter, collected.append, lambda _: True)
    resource = Resource({"service.name": "digits"})
    if ours:
        return Side(RequestMeterProvider(reader, resource, EXEMPLAR_FILTERS[exemplars]), reader, collected)
    return Side(MeterProvider([reader], resource, shutdown_on_exit=False), reader, collected)


def histogram(provider: MeterProvider) -> Any:
    return provider.get_meter(_names.SCOPE_NAME).create_histogram(
        NAME, "s", "how long", explicit_bucket_boundaries_advisory=BOUNDARIES
    )


@pytest.mark.parametrize("temporality", COUNTING)
@given(steps=st.lists(st.one_of(measurements, st.just(COLLECT)), max_size=30))
def test_what_is_collected_is_what_the_sdks_own_histogram_would_have(temporality, steps):
    sides = [side(temporality, ours=ours) for ours in (True, False)]
    instruments = [histogram(each.provider) for each in sides]
    for step in [*steps, COLLECT]:
        if step == COLLECT:
            ours, stock = (each.collect() for each in sides)
            for point in stock:
                # The SDK adds up each interval by itself: the last digits may differ.
                point["sum"] = pytest.approx(point["sum"], rel=1e-9)
            assert ours == stock
        else:
            amount, attributes, span = step
            for instrument in instruments:
                instrument.record(amount, attributes, context_of(span))


@pytest.mark.parametrize("amount", [-1.0, math.inf, math.nan])
def test_what_no_histogram_takes_is_left_out(amount):
    ours = side(AggregationTemporality.CUMULATIVE)
    instrument = histogram(ours.provider)
    instrument.record(amount)
    instrument.record(2.0)
    [point] = ours.collect()
    assert (point["values"][0], point["sum"]) == (1, 2.0)


@pytest.mark.parametrize(
    ("name", "span", "expected"),
    [
        ("always_on", "unsampled", [(2.0, 7, 9)]),
        ("always_on", "none", [(2.0, 0, 0)]),
        ("always_off", "sampled", []),
        ("trace_based", "sampled", [(2.0, 7, 9)]),
        ("trace_based", "unsampled", []),
    ],
)
def test_the_exemplar_filter_is_the_users(name, span, expected):
    ours = side(AggregationTemporality.CUMULATIVE, exemplars=name)
    histogram(ours.provider).record(2.0, {}, context_of(span))
    [point] = ours.collect()
    assert point["exemplars"] == expected


@pytest.mark.parametrize("name", EXEMPLAR_FILTERS)
def test_a_context_whose_span_is_none_is_one_without_a_span(name):
    # As some leave the current span.
    nothing: Any = None
    ours = side(AggregationTemporality.CUMULATIVE, exemplars=name)
    histogram(ours.provider).record(2.0, {}, trace.set_span_in_context(nothing, Context()))
    [point] = ours.collect()
    assert point["exemplars"] == ([(2.0, 0, 0)] if name == "always_on" else [])


def test_attributes_without_end_share_one_point_in_the_end():
    ours = side(AggregationTemporality.CUMULATIVE)
    instrument = histogram(ours.provider)
    for number in range(2_500):
        instrument.record(1.0, {"error.type": f"Error{number}"})
    points = ours.collect()
    assert len(points) == 2_001
    [overflow] = [point for point in points if point["attributes"] == {"otel.metric.overflow": True}]
    assert overflow["values"][0] == 500


@pytest.mark.parametrize("temporality", COUNTING)
def test_what_many_threads_measure_is_counted_once_each(temporality):
    ours = side(temporality)
    instrument = histogram(ours.provider)
    collected = []

    def measure():
        for _ in range(1_000):
            instrument.record(0.25, {"model": "a"}, context_of("sampled"))

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        collected += ours.collect()
    collected += ours.collect()
    counts = [point["values"][0] for point in collected]
    assert (sum(counts) if temporality is AggregationTemporality.DELTA else counts[-1]) == 4_000


def while_measuring(instrument, call):
    """Measure in a thread of its own, and make a call in the middle of it; return the thread."""
    called = []

    def interrupt(frame, event, _function):
        if event == "c_return" and frame.f_code is RequestHistogram.record.__code__ and frame.f_locals.get("key") == ():
            called.append(True)
            if len(called) == 1:
                call()

    def measure():
        sys.setprofile(interrupt)
        instrument.record(1.0)
        sys.setprofile(None)

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    return thread


def test_a_finalizer_may_measure_in_the_middle_of_a_measurement():
    ours = side(AggregationTemporality.CUMULATIVE)
    instrument = histogram(ours.provider)
    thread = while_measuring(instrument, lambda: instrument.record(2.0))
    thread.join(10)
    assert not thread.is_alive()
    [point] = ours.collect()
    assert (point["values"][0], point["sum"]) == (2, 3.0)


def test_a_child_that_was_forked_in_the_middle_of_one_measures_its_own():
    ours = side(AggregationTemporality.CUMULATIVE)
    instrument = histogram(ours.provider)
    reached, forked = threading.Event(), threading.Event()
    thread = while_measuring(instrument, lambda: (reached.set(), forked.wait(10)))
    assert reached.wait(10)

    def measure():
        # Who waits for ever for the parent's thread is ended.
        signal.alarm(10)
        instrument.record(4.0)
        return [point["sum"] for point in ours.collect()]

    try:
        assert in_forked_child(measure) == [4.0]
    finally:
        forked.set()
        thread.join(10)
    assert [point["sum"] for point in ours.collect()] == [1.0]


def test_a_point_begins_no_later_than_its_first_measurement():
    ours = side(AggregationTemporality.CUMULATIVE)
    instrument = histogram(ours.provider)
    instrument.record(0.25, {}, context_of("sampled"))
    ours.collect()
    [data] = ours.collected
    [point] = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert point.start_time_unix_nano <= point.exemplars[0].time_unix_nano <= point.time_unix_nano


def test_a_reader_that_comes_later_gets_them_and_none_counts_twice():
    ours = side(AggregationTemporality.CUMULATIVE)
    instrument = histogram(ours.provider)
    instrument.record(1.0)
    later = InMemoryMetricReader()
    if not hasattr(MeterProvider, "add_metric_reader"):
        # This SDK's readers are there from the start: what is asked in vain changes nothing.
        with pytest.raises(AttributeError):
            ours.provider.add_metric_reader(later)
        instrument.record(2.0)
        [point] = ours.collect()
        assert (point["values"][0], point["sum"]) == (2, 3.0)
        return
    ours.provider.add_metric_reader(later)
    instrument.record(2.0)
    [point] = ours.collect()
    data = later.get_metrics_data()
    [metric] = data.resource_metrics[0].scope_metrics[0].metrics
    assert (point["values"][0], point["sum"]) == (1, 2.0)
    assert (metric.name, metric.data.data_points[0].sum) == (NAME, 2.0)


class TestInTheExportRoom:
    def test_other_instruments_of_the_same_scope_arrive_beside_them(self):
        with OtlpReceiver() as receiver, room({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}) as sdk:
            meter_provider = sdk.providers.meter_provider
            Metrics(meter_provider).request(0.25, {"torchserve.model.name": "m"}, None, Context())
            ModelMetrics(meter_provider).record("GAUGE", "HandlerTime", "ms", 5.0, "Level:Model")
            sdk.measure()
            assert sdk.flush()
            names = {item.metric.name for item in receiver.metrics}
        assert names >= {NAME, "torchserve.handler_time", "test.duration", "otel.sdk.processor.span.queue.size"}

    @pytest.mark.parametrize(
        ("environ", "kind"),
        [
            ({}, "histogram"),
            ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, "histogram"),
            (
                {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"},
                "exponential_histogram",
            ),
            ({"OTEL_METRICS_EXPORTER": "otlp,otlp_json_file"}, "histogram"),
        ],
    )
    def test_a_requests_duration_arrives_as_the_user_wants_it(self, environ, kind, monkeypatch, tmp_path):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with OtlpReceiver() as receiver:
            endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
            with room({**endpoint, **environ}, file_dir=str(tmp_path)) as sdk:
                Metrics(sdk.providers.meter_provider).request(0.25, {"torchserve.model.name": "m"}, None, Context())
                assert sdk.flush()
            found = [item.metric for item in receiver.metrics if item.metric.name == NAME]
        assert {metric.WhichOneof("data") for metric in found} == {kind}
        assert [point.sum for point in getattr(found[0], kind).data_points] == [0.25]
