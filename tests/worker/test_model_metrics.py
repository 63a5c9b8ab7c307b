"""TorchServe's own metrics, the handler's among them, as OpenTelemetry's."""

from __future__ import annotations

import math

import pytest

from in_process import load_model, make_request, predict

HANDLER = """
class Handler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        metrics = context.metrics
        metrics.add_counter("Labels found", 2, None)
        metrics.add_counter("Labels found", 3, None)
        metrics.add_time("Tokenizing", 12.5)
        metrics.add_time("Tokenizing", 7.5)
        metrics.add_size("Picture", 3, unit="MB")
        metrics.add_percent("Full", {percent})
        metrics.add_metric("Tokens", 5, unit="count", metric_type=HISTOGRAM)
        return [b"ok" for _ in data]

from ts.metrics.metric_type_enum import MetricTypes
HISTOGRAM = MetricTypes.HISTOGRAM
"""


def serve(worker, *, percent="50.0", requests=1):
    with worker.patched():
        service = load_model(HANDLER.format(percent=percent))
        for _ in range(requests):
            predict(service, make_request(b"{}"))


def only(worker, name):
    [point] = worker.points(name)
    return point


def test_each_kind_is_an_instrument_of_that_kind(worker):
    serve(worker, requests=2)
    assert only(worker, "torchserve.labels_found").value == 10
    assert only(worker, "torchserve.tokenizing").value == 7.5
    assert only(worker, "torchserve.picture").value == 3
    tokens = only(worker, "torchserve.tokens")
    assert (tokens.count, tokens.sum) == (2, 10)
    assert only(worker, "torchserve.prediction_time").value > 0


def test_units_are_opentelemetrys(worker):
    serve(worker)
    expected = {"labels_found": "1", "tokenizing": "ms", "picture": "MBy", "full": "%", "tokens": "1"}
    assert {name: worker.unit(f"torchserve.{name}") for name in expected} == expected


def test_dimensions_are_attributes_and_the_request_is_none(worker):
    serve(worker, requests=3)
    point = only(worker, "torchserve.tokenizing")
    assert dict(point.attributes) == {"ModelName": "tiny", "Level": "Model"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_left_out(worker, value):
    serve(worker, percent=f"float('{value}')")
    assert worker.points("torchserve.full") == []
    assert only(worker, "torchserve.picture").value == 3


def test_dimensions_without_end_share_one_series_in_the_end(worker):
    handler = """
    class Handler:
        def initialize(self, context):
            pass

        def handle(self, data, context):
            metric = context.metrics.add_metric_to_cache("Seen", "count", ["user"])
            for number in range(3_000):
                metric.add_or_update(1, [f"user {number}, or so"])
            return [b"ok" for _ in data]
    """
    with worker.patched():
        predict(load_model(handler), make_request(b"{}"))
    points = worker.points("torchserve.seen")
    assert len(points) == 2_001
    overflow = [point.value for point in points if point.attributes == {"otel.metric.overflow": True}]
    assert overflow == [1_000]
    assert {"user": "user 7, or so"} in [dict(point.attributes) for point in points]
