"""A latency that a log record reports is a span and a measurement too."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

from ts_otel_logging import _scope, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ts_otel_logging.testing import Captured

logger = logging.getLogger("acme")
FIELDS = ("inference_latency", "queue_wait")
tracer = trace.get_tracer("acme")


@pytest.fixture
def captured() -> Iterator[Captured]:
    with testing.capture(clock=testing.Clock(1_700_000_000_500_000_000), latency_fields=FIELDS) as captured:
        yield captured


def test_it_is_a_child_span_that_ends_at_the_record(captured: Captured) -> None:
    with tracer.start_as_current_span("inference") as parent:
        logger.info("done", extra={"inference_latency": 0.25})
    span = captured.span("inference_latency")
    assert span.parent.span_id == parent.get_span_context().span_id
    assert span.end_time == 1_700_000_000_500_000_000
    assert span.end_time - span.start_time == 250_000_000
    assert span.attributes["torchserve.span.source"] == "log"


def test_it_is_a_measurement_with_the_fields_name_and_the_model(captured: Captured) -> None:
    _scope.set_process("digits", "1.0", "9000")
    try:
        with tracer.start_as_current_span("inference") as parent:
            logger.info("done", extra={"queue_wait": 2})
    finally:
        _scope.reset_process()
    (point,) = captured.points("torchserve.reported.duration")
    assert point.sum == 2
    assert dict(point.attributes) == {
        "torchserve.reported.name": "queue_wait",
        "torchserve.model.name": "digits",
        "torchserve.model.version": "1.0",
    }
    assert point.exemplars[0].trace_id == parent.get_span_context().trace_id


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 3_600.1, "0.1", None, True, object(), [1]])
def test_what_is_no_latency_stays_a_field(captured: Captured, value: Any) -> None:
    logger.info("done", extra={"inference_latency": value})
    assert "inference_latency" in captured.events[0]
    assert captured.spans == []
    assert captured.points("torchserve.reported.duration") == []


def test_numpys_numbers_are_numbers(captured: Captured) -> None:
    import numpy as np

    logger.info("done", extra={"inference_latency": np.float32(0.5)})
    (span,) = captured.spans
    assert span.end_time - span.start_time == 500_000_000
