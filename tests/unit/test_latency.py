"""A latency that a log record reports is a span and a measurement too."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lines import Lines
from ts_otel_logging import BridgeHandler, _scope
from ts_otel_logging._latency import LatencyOutput
from ts_otel_logging._metrics import Metrics


class Latencies:
    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self._reader = InMemoryMetricReader()
        metrics = Metrics(MeterProvider([self._reader], shutdown_on_exit=False))
        self.lines = Lines()
        self.handler = BridgeHandler(stream=self.lines)
        self.handler.add_output(LatencyOutput(("inference_latency", "queue_wait"), self.provider, metrics))

    def log(self, **extra: Any) -> None:
        record = logging.makeLogRecord({"name": "acme", "levelno": 20, "levelname": "INFO", "msg": "done", **extra})
        self.handler.handle(record)

    @property
    def points(self) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points


@pytest.fixture
def latencies() -> Latencies:
    return Latencies()


def test_it_is_a_child_span_that_ends_at_the_record(latencies: Latencies) -> None:
    with latencies.provider.get_tracer("t").start_as_current_span("inference") as parent:
        latencies.log(inference_latency=0.25, created=1_700_000_000.5)
    span = next(span for span in latencies.spans.get_finished_spans() if span.name == "inference_latency")
    assert span.parent.span_id == parent.get_span_context().span_id
    assert span.end_time == 1_700_000_000_500_000_000
    assert span.end_time - span.start_time == 250_000_000
    assert span.attributes["torchserve.span.source"] == "log"


def test_it_is_a_measurement_with_the_fields_name_and_the_model(latencies: Latencies) -> None:
    _scope.set_process("digits", "1.0", "9000")
    try:
        with latencies.provider.get_tracer("t").start_as_current_span("inference") as parent:
            latencies.log(queue_wait=2)
    finally:
        _scope.reset_process()
    (point,) = latencies.points
    assert point.sum == 2
    assert dict(point.attributes) == {
        "torchserve.reported.name": "queue_wait",
        "torchserve.model.name": "digits",
        "torchserve.model.version": "1.0",
    }
    assert point.exemplars[0].trace_id == parent.get_span_context().trace_id


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 3_600.1, "0.1", None, True, object(), [1]])
def test_what_is_no_latency_stays_a_field(latencies: Latencies, value: Any) -> None:
    latencies.log(inference_latency=value)
    assert "inference_latency" in latencies.lines.last
    assert latencies.spans.get_finished_spans() == ()
    assert latencies.points == []


def test_numpys_numbers_are_numbers(latencies: Latencies) -> None:
    import numpy as np

    latencies.log(inference_latency=np.float32(0.5))
    (span,) = latencies.spans.get_finished_spans()
    assert span.end_time - span.start_time == 500_000_000
