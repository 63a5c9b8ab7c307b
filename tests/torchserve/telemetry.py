"""What a server exported, in plain Python: spans, log records and histogram points out of the received protobuf."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otlp_receiver import OtlpReceiver

ARRIVAL_SECONDS = 15
_KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
_STATUSES = {0: "UNSET", 1: "OK", 2: "ERROR"}
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Caller:
    """A client's span, which a request continues."""

    trace_id: str
    span_id: str

    @property
    def headers(self) -> dict[str, str]:
        """The request headers that carry it: https://www.w3.org/TR/trace-context/#traceparent-header."""
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-01"}


def new_caller() -> Caller:
    """A caller with ids of its own."""
    return Caller(secrets.token_hex(16), secrets.token_hex(8))


@dataclass(frozen=True)
class Event:
    name: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Link:
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Span:
    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    attributes: dict[str, Any]
    events: list[Event]
    links: list[Link]
    resource: dict[str, Any]
    scope: tuple[str, str, str]

    @property
    def duration_seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class LogRecord:
    logger: str
    body: Any
    trace_id: str
    span_id: str
    trace_flags: int
    severity: tuple[int, str]
    time_ns: int
    event_name: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass(frozen=True)
class HistogramPoint:
    """One exported point of a histogram; counts and sums grow from export to export."""

    unit: str
    attributes: dict[str, Any]
    count: int
    sum_seconds: float
    bounds_seconds: list[float]
    exemplar_trace_ids: set[str]


class Telemetry:
    """What a receiver got, with waiting for what is still on its way."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def spans(self, trace_id: str) -> list[Span]:
        """The spans of a trace that have arrived, in the order of their start."""
        return sorted(
            (_span(item) for item in list(self._receiver.spans) if item.span.trace_id.hex() == trace_id),
            key=lambda span: span.start_ns,
        )

    def all_spans(self) -> list[Span]:
        """Every span that has arrived."""
        return [_span(item) for item in list(self._receiver.spans)]

    def log_records(self, trace_id: str) -> list[LogRecord]:
        """The log records of a trace that have arrived, in the order of their time."""
        return sorted(
            (_log_record(item) for item in list(self._receiver.log_records) if item.record.trace_id.hex() == trace_id),
            key=lambda record: record.time_ns,
        )

    def histogram_points(self, name: str) -> list[HistogramPoint]:
        """Every point of a histogram that has arrived, in the order of arrival."""
        return [
            _histogram_point(item.metric.unit, point)
            for item in list(self._receiver.metrics)
            if item.metric.name == name
            for point in item.metric.histogram.data_points
        ]

    def gauge_attributes(self, name: str) -> list[dict[str, Any]]:
        """The attributes of every point of a gauge that has arrived."""
        return [
            _attributes(point.attributes)
            for item in list(self._receiver.metrics)
            if item.metric.name == name
            for point in item.metric.gauge.data_points
        ]

    def wait_for(self, find: Callable[[], _Found | None]) -> _Found:
        """What ``find`` finds, once it finds something."""
        found: _Found = self._receiver.wait_for(lambda _: find(), timeout_seconds=ARRIVAL_SECONDS)
        return found

    def wait_for_trace(self, trace_id: str, *names: str) -> dict[str, Span]:
        """The spans of a trace by name, once all of ``names`` are there; no name may come twice."""

        def complete() -> list[Span] | None:
            spans = self.spans(trace_id)
            return spans if {span.name for span in spans} >= set(names) else None

        spans = self.wait_for(complete)
        by_name = {span.name: span for span in spans}
        assert len(by_name) == len(spans), f"a span twice: {[span.name for span in spans]}"
        return by_name

    def wait_for_log_record(self, trace_id: str, body: str) -> LogRecord:
        """The record of a trace with this body."""
        return self.wait_for(
            lambda: next((record for record in self.log_records(trace_id) if record.body == body), None)
        )

    def wait_for_exemplar(self, name: str, trace_id: str, attributes: dict[str, Any] | None = None) -> HistogramPoint:
        """The first point of a histogram with an exemplar from a trace and with these attributes."""
        wanted = attributes or {}
        return self.wait_for(
            lambda: next(
                (
                    point
                    for point in self.histogram_points(name)
                    if trace_id in point.exemplar_trace_ids and wanted.items() <= point.attributes.items()
                ),
                None,
            )
        )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    pairs = list(pairs)
    keys = [pair.key for pair in pairs]
    assert len(keys) == len(set(keys)), f"an attribute twice: {keys}"
    return {pair.key: _value(pair.value) for pair in pairs}


def _span(item: Any) -> Span:
    span = item.span
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        kind=_KINDS[span.kind],
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status=_STATUSES[span.status.code],
        attributes=_attributes(span.attributes),
        events=[Event(event.name, _attributes(event.attributes)) for event in span.events],
        links=[Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links],
        resource=_attributes(item.resource.attributes),
        scope=(item.scope.name, item.scope.version, item.schema_url),
    )


def _log_record(item: Any) -> LogRecord:
    record = item.record
    return LogRecord(
        logger=item.scope.name,
        body=_value(record.body),
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
        trace_flags=record.flags,
        severity=(record.severity_number, record.severity_text),
        time_ns=record.time_unix_nano,
        event_name=record.event_name,
        attributes=_attributes(record.attributes),
        resource=_attributes(item.resource.attributes),
    )


def _histogram_point(unit: str, point: Any) -> HistogramPoint:
    return HistogramPoint(
        unit=unit,
        attributes=_attributes(point.attributes),
        count=point.count,
        sum_seconds=point.sum,
        bounds_seconds=list(point.explicit_bounds),
        exemplar_trace_ids={exemplar.trace_id.hex() for exemplar in point.exemplars},
    )
