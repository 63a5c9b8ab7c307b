"""A worker's spans, measurements and lines, kept in memory."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lines import Lines
from ts_otel_logging import BridgeHandler, _scope
from ts_otel_logging._metrics import Metrics
from ts_otel_logging._model_metrics import ModelMetrics
from ts_otel_logging._sdk import tracer_for_batch
from ts_otel_logging._sdk._request_spans import RequestTracerProvider
from ts_otel_logging._torchserve._seams import patch_worker
from ts_otel_logging._tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider


class Worker:
    """A worker whose spans, measurements and lines can be looked at."""

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self.lines = Lines()
        self.loads = 0
        self._spans = InMemorySpanExporter()
        self.tracer_provider = tracer_provider or RequestTracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans, meter_provider=NoOpMeterProvider()))
        self._reader = InMemoryMetricReader()
        self._meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self._collected: Any = None
        self.metrics = Metrics(self._meter_provider)

    @contextlib.contextmanager
    def patched(self, **options: Any) -> Iterator[None]:
        """Patch TorchServe's classes; `options` are those of `Tracing`."""
        tracing = Tracing(self.tracer_provider, self.metrics, tracer_for_batch=tracer_for_batch, **options)
        patches = patch_worker(tracing, "9000", self._count_load, on_metric=ModelMetrics(self._meter_provider).record)
        root = logging.getLogger()
        handler = BridgeHandler(stream=self.lines)
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.setLevel(level)
            root.removeHandler(handler)
            patches.undo()
            _scope.reset_process()

    def _count_load(self) -> None:
        self.loads += 1

    @property
    def spans(self) -> list[ReadableSpan]:
        """Every span that has ended, in the order of their ends."""
        return list(self._spans.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        """The one span of this name."""
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def children(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """The spans below another, in the order of their starts."""
        return sorted(
            (span for span in self.spans if span.parent and span.parent.span_id == parent.context.span_id),
            key=lambda span: span.start_time,
        )

    def points(self, metric: str) -> list[Any]:
        """The data points of a metric, all of one collection: exemplars are handed out only once."""
        return [point for found in self._metrics(metric) for point in found.data.data_points]

    def unit(self, metric: str) -> str:
        """The unit of a metric."""
        (found,) = self._metrics(metric)
        return str(found.unit)

    def _metrics(self, name: str) -> list[Any]:
        data = self._collected = self._collected or self._reader.get_metrics_data()
        return [
            found
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == name
        ]
