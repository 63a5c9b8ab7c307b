"""The histograms that this package records for every request, for a tenth of what the SDK's cost.

The SDK looks at a measurement's attributes anew each time: cleans, sorts and hashes them, and asks every view. These
know their attributes by the values as they are given. What is collected are the SDK's own data points, so exporters see
no difference. docs/adr/020-histograms-of-our-own.md
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from bisect import bisect_left
from time import time_ns
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from opentelemetry import metrics, trace
from opentelemetry.context import get_current
from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.metrics import Meter as SdkMeter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData

from ts_otel_logging import _names
from ts_otel_logging._model_metrics import MAX_ATTRIBUTE_SETS, OVERFLOW
from ts_otel_logging._sdk._request_spans import RequestSpan
from ts_otel_logging._spans import SPAN_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource

    from ts_otel_logging._sdk._processors import ThreadMetricReader

SpanOfExemplar = Callable[[Optional["Context"]], Optional[trace.SpanContext]]
"""Returns the span that a measurement's exemplar names, or None for no exemplar."""


def sampled_span(context: Optional[Context]) -> Optional[trace.SpanContext]:
    """Return the current span if it is sampled: the exemplar filter ``trace_based``."""
    span: Any = (get_current() if context is None else context).get(SPAN_KEY)
    if type(span) is RequestSpan:
        return span._context if span.is_sampled else None  # noqa: SLF001 - one room
    found = any_span(context)
    return found if found.trace_flags & trace.TraceFlags.SAMPLED else None


def any_span(context: Optional[Context]) -> trace.SpanContext:
    """Return the current span, be it none: the exemplar filter ``always_on``."""
    return trace.get_current_span(context).get_span_context()


def no_span(_context: Optional[Context]) -> Optional[trace.SpanContext]:
    """Return None: the exemplar filter ``always_off``."""
    return None


EXEMPLAR_FILTERS: Final[Mapping[str, SpanOfExemplar]] = {
    "trace_based": sampled_span,
    "always_on": any_span,
    "always_off": no_span,
}
"""By the values of ``OTEL_METRICS_EXEMPLAR_FILTER``."""


class _Point:
    """What was measured with one set of attributes."""

    __slots__ = ("attributes", "counts", "exemplars", "max", "min", "started_nanos", "sum")

    def __init__(self, attributes: Mapping[str, Any], buckets: int) -> None:
        self.attributes = attributes
        self.counts = [0] * buckets
        self.sum: float = 0
        self.min = math.inf
        self.max = -math.inf
        self.started_nanos = time_ns()
        # The last of each bucket, as the SDK's reservoir for histograms keeps it.
        self.exemplars: dict[int, tuple[float, int, trace.SpanContext]] = {}


_histograms: weakref.WeakSet[RequestHistogram] = weakref.WeakSet()


class RequestHistogram(metrics.Histogram):
    """A histogram with explicit buckets.

    Args:
        stock: The SDK's, which takes over when there is a reader that this one does not know.
        name: Its name.
        unit: Its unit.
        description: What it measures.
        boundaries: The upper bounds of its buckets, rising, the last one left out.
        span_of_exemplar: One of `EXEMPLAR_FILTERS`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - as the API's, and two more
        self,
        stock: metrics.Histogram,
        name: str,
        unit: str,
        description: str,
        boundaries: Sequence[float],
        span_of_exemplar: SpanOfExemplar,
    ) -> None:
        self._stock = stock
        self._name = name
        self._unit = unit
        self._description = description
        self._boundaries = tuple(boundaries)
        self._span_of_exemplar = span_of_exemplar
        self._is_handed_over = False
        self.renew()
        _histograms.add(self)

    def renew(self) -> None:
        """Start anew in the child of a fork: what was measured is the parent's, whose threads may hold the lock."""
        # Re-entrant: a finalizer or a signal's handler may log a latency while this thread holds it.
        self._lock = threading.RLock()
        self._points: dict[tuple[Any, ...], _Point] = {}
        self._collected_nanos = time_ns()

    def record(
        self, amount: float, attributes: Optional[Mapping[str, Any]] = None, context: Optional[Context] = None
    ) -> None:
        """Record a measurement, unless it is negative or not finite; the order of attributes tells sets apart."""
        if not 0 <= amount < math.inf:
            return
        if self._is_handed_over:
            self._stock.record(amount, attributes, context)
            return
        span = self._span_of_exemplar(context)
        bucket = bisect_left(self._boundaries, amount)
        key = tuple(attributes.items()) if attributes else ()
        with self._lock:
            point = self._points.get(key)
            if point is None:
                point = self._new_point(key)
            point.counts[bucket] += 1
            point.sum += amount
            if amount < point.min:  # noqa: PLR1730 - min() and max() take half as long as all the rest
                point.min = amount
            if amount > point.max:  # noqa: PLR1730
                point.max = amount
            if span is not None:
                point.exemplars[bucket] = amount, time_ns(), span

    def _new_point(self, key: tuple[Any, ...]) -> _Point:
        if len(self._points) >= MAX_ATTRIBUTE_SETS:
            key = tuple(OVERFLOW.items())
            if key in self._points:
                return self._points[key]
        # What interrupts may have made it meanwhile.
        return self._points.setdefault(key, _Point(dict(key), len(self._boundaries) + 1))

    def hand_over(self) -> None:
        """Let the SDK's own histogram take what comes from now on; its counts begin anew."""
        with self._lock:
            self._is_handed_over = True
            self._points = {}

    def collect(self, temporality: AggregationTemporality, now_nanos: int) -> Optional[Metric]:
        """Return what was measured: since the last time, or since ever, as the temporality says; None for nothing.

        Args:
            temporality: The reader's.
            now_nanos: When, in nanoseconds since the epoch.
        """
        is_delta = temporality is AggregationTemporality.DELTA
        with self._lock:
            points = list(self._points.values())
            if is_delta:
                self._points = {}
            since, self._collected_nanos = self._collected_nanos, now_nanos
            data_points = [
                HistogramDataPoint(
                    attributes=point.attributes,
                    start_time_unix_nano=since if is_delta else point.started_nanos,
                    time_unix_nano=now_nanos,
                    count=sum(point.counts),
                    sum=point.sum,
                    bucket_counts=tuple(point.counts),
                    explicit_bounds=self._boundaries,
                    min=point.min,
                    max=point.max,
                    exemplars=_taken_exemplars(point),
                )
                for point in points
            ]
        if not data_points:
            return None
        return Metric(self._name, self._description, self._unit, HistogramData(data_points, temporality))


def _after_fork_in_child() -> None:
    for histogram in list(_histograms):
        histogram.renew()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _taken_exemplars(point: _Point) -> list[Exemplar]:
    taken, point.exemplars = point.exemplars, {}
    return [
        Exemplar({}, amount, nanos, span.span_id, span.trace_id) if span.is_valid else Exemplar({}, amount, nanos)
        for amount, nanos, span in taken.values()
    ]


class RequestMeter(SdkMeter):
    """A meter of the SDK's whose histograms are `RequestHistogram`s.

    Args:
        meter: The SDK's.
        span_of_exemplar: One of `EXEMPLAR_FILTERS`.
    """

    def __init__(self, meter: SdkMeter, span_of_exemplar: SpanOfExemplar) -> None:
        vars(self).update(vars(meter))
        self._span_of_exemplar = span_of_exemplar
        self.histograms: list[RequestHistogram] = []

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Optional[Sequence[float]] = None,
    ) -> metrics.Histogram:
        """Create a histogram; without boundaries of its own it is the SDK's."""
        boundaries = explicit_bucket_boundaries_advisory
        stock = super().create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=boundaries)
        if not boundaries:
            return stock
        histogram = RequestHistogram(stock, name, unit, description, boundaries, self._span_of_exemplar)
        self.histograms.append(histogram)
        return histogram

    def collect(self, temporality: AggregationTemporality) -> Optional[ScopeMetrics]:
        """Return what its histograms have measured, or None."""
        now_nanos = time_ns()
        found = [histogram.collect(temporality, now_nanos) for histogram in self.histograms]
        collected = [metric for metric in found if metric is not None]
        scope = self._instrumentation_scope
        return ScopeMetrics(scope, collected, scope.schema_url or "") if collected else None


class RequestMeterProvider(MeterProvider):
    """The SDK's provider, whose meter for this package's own scope makes `RequestHistogram`s; all others are the SDK's.

    Args:
        reader: The one reader, which wants explicit buckets.
        resource: Who measures.
        span_of_exemplar: One of `EXEMPLAR_FILTERS`.
    """

    def __init__(self, reader: ThreadMetricReader, resource: Resource, span_of_exemplar: SpanOfExemplar) -> None:
        super().__init__([reader], resource, shutdown_on_exit=False)
        self._request_resource = resource
        self._span_of_exemplar = span_of_exemplar
        self._request_meters: dict[Any, RequestMeter] = {}
        self._temporality = reader.histogram_temporality
        reader.complete = self._with_histograms

    def get_meter(self, name: str, *args: Any, **kwargs: Any) -> metrics.Meter:
        """Return a meter."""
        meter = super().get_meter(name, *args, **kwargs)
        if name != _names.SCOPE_NAME or not isinstance(meter, SdkMeter):
            return meter
        return self._request_meters.setdefault(meter, RequestMeter(meter, self._span_of_exemplar))

    def add_metric_reader(self, metric_reader: MetricReader) -> None:
        """Add a reader; from now on all histograms are the SDK's."""
        # First, so that nothing changes where it is refused, or by a release whose readers are there from the start.
        super().add_metric_reader(metric_reader)
        for meter in self._request_meters.values():
            for histogram in meter.histograms:
                histogram.hand_over()

    def _with_histograms(self, data: Optional[MetricsData]) -> Optional[MetricsData]:
        found = [meter.collect(self._temporality) for meter in list(self._request_meters.values())]
        ours = {item.scope: item for item in found if item is not None}
        if not ours:
            return data
        scopes = []
        for item in (scope for resource in data.resource_metrics for scope in resource.scope_metrics) if data else ():
            own = ours.pop(item.scope, None)
            # OpenTelemetry's encoder keeps only the last of two entries for one scope.
            scopes.append(
                item if own is None else ScopeMetrics(item.scope, [*item.metrics, *own.metrics], own.schema_url)
            )
        # One provider has one resource.
        resource = self._request_resource
        return MetricsData([ResourceMetrics(resource, [*scopes, *ours.values()], resource.schema_url)])
