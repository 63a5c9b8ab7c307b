"""Providers that keep what they get, for tests: the SDK's own, with its exporters and readers in memory."""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Optional

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from ts_otel_logging import _names
from ts_otel_logging._sdk._providers import Providers
from ts_otel_logging._sdk._request_spans import RequestTracerProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan


class _Ids(IdGenerator):
    def __init__(self) -> None:
        self.trace_ids: Iterator[int] = itertools.count(1)
        self.span_ids: Iterator[int] = itertools.count(1)

    def generate_trace_id(self) -> int:
        return next(self.trace_ids)

    def generate_span_id(self) -> int:
        return next(self.span_ids)


class InMemoryProviders(Providers):
    """Providers of spans and measurements that stay in this process; every span is sampled."""

    tracer_provider: RequestTracerProvider

    def __init__(self) -> None:
        super().__init__()
        self._ids = _Ids()
        resource = Resource({"service.name": _names.SERVICE_NAME})
        self._exporter = InMemorySpanExporter()
        # The SDK counts what it does in the API's provider otherwise, which may be one that was shut down.
        uncounted = NoOpMeterProvider()
        self.tracer_provider = RequestTracerProvider(
            sampler=ALWAYS_ON,
            resource=resource,
            id_generator=self._ids,
            shutdown_on_exit=False,
            meter_provider=uncounted,
        )
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter, meter_provider=uncounted))
        # What was measured since the last look: nothing of an earlier test.
        delta: dict[type, AggregationTemporality] = dict.fromkeys(
            (sdk_metrics.Counter, sdk_metrics.Histogram, sdk_metrics.ObservableCounter), AggregationTemporality.DELTA
        )
        self._reader = InMemoryMetricReader(preferred_temporality=delta)
        self.meter_provider = MeterProvider([self._reader], resource=resource, shutdown_on_exit=False)

    def start(self, trace_ids: Iterator[int], span_ids: Iterator[int]) -> None:
        """Forget what was kept, and take these ids."""
        self._ids.trace_ids, self._ids.span_ids = trace_ids, span_ids
        self._exporter.clear()
        self.points()

    def spans(self) -> list[ReadableSpan]:
        """Return the spans that have ended, as they would leave: with secrets masked."""
        return [self._export_redaction.span(span) for span in self._exporter.get_finished_spans()]

    def points(self) -> list[tuple[str, Any]]:
        """Return what was measured since the last call: a metric's name and a data point for each set of attributes."""
        data = self._reader.get_metrics_data()
        return [
            (metric.name, point)
            for resource in ([] if data is None else data.resource_metrics)
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        ]


@contextmanager
def clock_replaced(now_nanos: Callable[[], int]) -> Iterator[None]:
    """Let the process's wall clock, and the SDK's references to it, be another in a block.

    Args:
        now_nanos: Gives the time in nanoseconds since the epoch.
    """
    real_time, real_time_ns = time.time, time.time_ns
    holders = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("opentelemetry.") and getattr(module, "time_ns", None) is real_time_ns
    ]

    def set_clock(seconds: Callable[[], float], nanos: Callable[[], int]) -> None:
        time.time, time.time_ns = seconds, nanos
        for module in holders:
            module.time_ns = nanos  # type: ignore[attr-defined]

    set_clock(lambda: now_nanos() / 1e9, now_nanos)
    try:
        yield
    finally:
        set_clock(real_time, real_time_ns)


_providers: Optional[InMemoryProviders] = None


def in_memory_providers() -> InMemoryProviders:
    """Return the process's one set of providers in memory: tracers and meters that know them go on working."""
    global _providers  # noqa: PLW0603 - see above
    if _providers is None:
        _providers = InMemoryProviders()
    return _providers
