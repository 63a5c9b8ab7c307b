"""The values of TorchServe's own metrics, on their way to stdout."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Callable

from ts_otel_logging._diagnostics import shielded

if TYPE_CHECKING:
    from ts_otel_logging._tracing import Tracing

OnMetric = Callable[[str, str, str, float, str], None]
"""``on_metric(kind, name, unit, value, dimensions)``, as `ModelMetrics.record`."""


def wrap_emit(emit: Callable[..., None], tracing: Tracing, on_metric: OnMetric) -> Callable[..., None]:
    """Wrap ``CachingMetric.emit_metrics`` (ts/metrics/caching_metric.py), which every value that is taken passes.

    Args:
        emit: Prints the line that the frontend reads.
        tracing: Knows whether requests are measured now.
        on_metric: Gets each value, without the request's id: it would make a time series of every request.
    """
    record = shielded("metric of TorchServe")(on_metric)

    @functools.wraps(emit)
    def emit_metrics(metric: Any, request_id: Any, value: Any, dimension_string: str) -> None:
        emit(metric, request_id, value, dimension_string)
        if tracing.metrics is not None:
            record(metric.metric_type.name, metric.metric_name, metric.unit, value, dimension_string)

    return emit_metrics
