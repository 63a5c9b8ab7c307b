"""The SDK's ends of the lanes: what providers call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional

from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import TraceFlags

from ts_otel_logging._otlp_log import EventLogRecord
from ts_otel_logging._sdk._request_spans import RequestSpan
from ts_otel_logging._sdk._sizes import log_record_bytes, span_bytes

if TYPE_CHECKING:
    from ts_otel_logging._sdk._lanes import Lane

Flush = Callable[[float], bool]
"""Exports what waits, within so many seconds; returns whether all went out."""

_NO_CONTEXT = Context()


class LaneSpanProcessor(SpanProcessor):
    """Puts every sampled span that ends into a lane."""

    def __init__(self, lane: Lane, flush: Flush) -> None:
        self._put = lane.put
        self._flush = flush

    def on_end(self, span: ReadableSpan) -> None:
        """Take an ended span; the caller pays for a size estimate and an append."""
        if type(span) is RequestSpan:
            if span.is_sampled:
                self._put(span, span_bytes(span))
        elif span.context is not None and span.context.trace_flags & TraceFlags.SAMPLED:
            self._put(span, span_bytes(span))

    def put(self, span: ReadableSpan) -> None:
        """Take an ended span, sampled or not."""
        self._put(span, span_bytes(span))

    def shutdown(self) -> None:
        """Export what waits."""
        self._flush(_SHUTDOWN_SECONDS)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what waits."""
        return self._flush(timeout_millis / 1e3)


class LaneLogRecordProcessor(LogRecordProcessor):
    """Puts every log record into a lane.

    Attributes:
        put: Lets an item of so many bytes wait there.
    """

    def __init__(self, lane: Lane, flush: Flush) -> None:
        self.put = lane.put
        self._flush = flush

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Take a log record; the caller pays for a size estimate, a shallow copy and an append."""
        given = log_record.log_record
        if type(given) is EventLogRecord and given.dropped_attributes:
            # The SDK has counted none: it got no more than the limit.
            attributes: Any = given.attributes
            attributes.dropped = given.dropped_attributes
        # The context, with the spans it holds, and the exception, with its frames, must not live as long as the queue.
        # They stay on the given record, for other processors. `copy.copy` takes four times as long.
        record = given.__class__.__new__(given.__class__)
        record.__dict__.update(given.__dict__, context=_NO_CONTEXT, exception=None)
        resource: Any = log_record.resource
        self.put(
            ReadableLogRecord(record, resource, log_record.instrumentation_scope, log_record.limits),
            log_record_bytes(record),
        )

    def shutdown(self) -> None:
        """Export what waits."""
        self._flush(_SHUTDOWN_SECONDS)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what waits."""
        return self._flush(timeout_millis / 1e3)


class ThreadMetricReader(MetricReader):
    """A reader that starts no thread of its own: the export thread calls `collect`.

    Args:
        exporter: Its temporality and aggregation are the reader's.
        receive: Gets what was collected, on the thread that collects.
        flush: Lets the export thread collect now.

    Attributes:
        complete: Returns what was collected with what the SDK does not know of.
        histogram_temporality: Whether histograms count since the last collection or since ever.
        has_explicit_buckets: Whether histograms have the boundaries that they were created with.
    """

    def __init__(self, exporter: MetricExporter, receive: Callable[[MetricsData], None], flush: Flush) -> None:
        # The SDK's own PeriodicExportingMetricReader reads the same two.
        super().__init__(
            preferred_temporality=exporter._preferred_temporality,  # noqa: SLF001
            preferred_aggregation=exporter._preferred_aggregation,  # noqa: SLF001
        )
        self._receive = receive
        self._flush = flush
        self.complete: Callable[[Optional[MetricsData]], Optional[MetricsData]] = lambda data: data
        temporality = exporter._preferred_temporality or {}  # noqa: SLF001 - as above
        self.histogram_temporality = temporality.get(Histogram, AggregationTemporality.CUMULATIVE)
        aggregation = (exporter._preferred_aggregation or {}).get(Histogram)  # noqa: SLF001 - as above
        self.has_explicit_buckets = aggregation is None or type(aggregation) is ExplicitBucketHistogramAggregation
        self._has_received = False

    def collect_everything(self, timeout_millis: float) -> None:
        """Collect what the SDK knows of, and the rest even if that is nothing.

        Args:
            timeout_millis: The most that the instruments' callbacks may take.
        """
        self._has_received = False
        self.collect(timeout_millis=timeout_millis)
        # The SDK hands nothing on where it has nothing.
        if not self._has_received:
            self._receive_metrics(None)

    def _receive_metrics(
        self, metrics_data: Optional[MetricsData], timeout_millis: float = 10_000, **_kwargs: Any
    ) -> None:
        del timeout_millis  # the sender has its own
        self._has_received = True
        data = self.complete(metrics_data)
        if data is not None and data.resource_metrics:
            self._receive(data)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Collect and export now, on the export thread."""
        return self._flush(timeout_millis / 1e3)

    def shutdown(self, timeout_millis: float = 30_000, **_kwargs: Any) -> None:
        """Collect and export a last time."""
        self._flush(timeout_millis / 1e3)


_SHUTDOWN_SECONDS = 5.0
