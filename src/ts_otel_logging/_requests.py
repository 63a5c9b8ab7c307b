"""One request: what the worker got, how it ended, and its span in its caller's trace. API only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Optional, Protocol

from opentelemetry.trace import SpanKind

from ts_otel_logging import _names, _scope
from ts_otel_logging._event import type_name
from ts_otel_logging._spans import is_client_error, with_span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.context import Context

    from ts_otel_logging._callers import Callers
    from ts_otel_logging._metrics import Metrics
    from ts_otel_logging._spans import Ended, Spans

_FIRST_SERVER_ERROR: Final = 500
# It is on every line of the request, and a client may send anything.
_MAX_CLIENT_ID_CHARACTERS: Final = 256
_SHARED_ATTRIBUTES: Final = {_names.ATTR_BATCH_SHARED: True}


class IncomingRequest(NamedTuple):
    """A request as the worker got it.

    Attributes:
        request_id: TorchServe's id.
        headers: The HTTP headers, names in lower case; for gRPC the trace context alone.
        shown_headers: What `ShownHeaders` made of them.
    """

    request_id: str
    headers: Mapping[str, str]
    shown_headers: Mapping[str, str] = {}


class ShownHeaders:
    """Picks the headers that a request's lines and span shall have.

    Args:
        names: The headers' names, in lower case.
        mask: Returns fields with the secrets of their values masked.
    """

    def __init__(
        self, names: Iterable[str] = (), mask: Callable[[dict[str, str]], Mapping[str, str]] = lambda fields: fields
    ) -> None:
        self._fields = {name: _names.REQUEST_HEADER_PREFIX + name for name in names}
        self._mask = mask

    def __call__(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers by the name of their field and attribute, each value of at most 256 bytes of UTF-8.

        Args:
            headers: A request's headers, names in lower case.
        """
        if not self._fields:
            return _NOTHING
        shown = {field: headers[name] for name, field in self._fields.items() if name in headers}
        # Cut last: of a secret that the cut goes through no half must be left.
        return {field: _cut(value) for field, value in self._mask(shown).items()}


def _cut(value: str) -> str:
    # A character has one byte to four.
    head = value[:_MAX_HEADER_BYTES].encode("utf-8", "replace")[:_MAX_HEADER_BYTES]
    return head.decode("utf-8", "ignore")


_NOTHING: Final[Mapping[str, str]] = {}
_MAX_HEADER_BYTES: Final = 256


class Outcome(NamedTuple):
    """How one call ended for one request.

    Attributes:
        status_code: The HTTP status code of its answer; None where nothing is answered, as by a rank above 0.
        error: The exception that its handler raised, if one did.
        more: None, or for a part of a stream whether TorchServe goes on with the request after it.
    """

    status_code: Optional[int]
    error: Optional[BaseException] = None
    more: Optional[bool] = None

    @property
    def error_type(self) -> Optional[str]:
        """The ``error.type`` of a failure on the server's side; None for success and for a client's mistake."""
        if self.status_code is None:
            return None if self.error is None or is_client_error(self.error) else type_name(self.error)
        if self.status_code < _FIRST_SERVER_ERROR:
            return None
        return str(self.status_code) if self.error is None else type_name(self.error)


@dataclass(frozen=True)
class Model:
    """The model that a worker serves.

    Attributes:
        name: Its name.
        version: Its version, if the archive names one.
        device: ``cpu`` or ``cuda:<index>``.
        worker_id: The worker's port.
        rank: Which of several processes that run the model together this is, from 0; None for the only one.
        is_workflow_node: Whether a workflow calls it, and no client.
    """

    name: str
    version: Optional[str]
    device: str
    worker_id: Optional[str]
    rank: Optional[int] = None
    is_workflow_node: bool = False

    @cached_property
    def answers(self) -> bool:
        """Whether this process answers requests, and so counts them: the only one, or rank 0."""
        return not self.rank

    @cached_property
    def span_kind(self) -> SpanKind:
        """The kind of a request's span: SERVER where it is the answer to a client."""
        return SpanKind.SERVER if self.answers and not self.is_workflow_node else SpanKind.INTERNAL

    @cached_property
    def request_span_name(self) -> str:
        """The name of a request's span."""
        return f"{_names.SPAN_PREDICT} {self.name}"

    @cached_property
    def batch_span_name(self) -> str:
        """The name of the span of a batch of several requests."""
        return f"{_names.SPAN_BATCH} {self.name}"

    @cached_property
    def metric_attributes(self) -> Mapping[str, str]:
        """What every measurement of the model carries."""
        attributes = {_names.ATTR_MODEL_NAME: self.name}
        if self.version is not None:
            attributes[_names.ATTR_MODEL_VERSION] = self.version
        return attributes

    @cached_property
    def span_attributes(self) -> Mapping[str, Any]:
        """What every span of the model carries."""
        attributes: dict[str, Any] = {**self.metric_attributes, _names.ATTR_DEVICE: self.device}
        if self.worker_id is not None:
            attributes[_names.ATTR_WORKER_ID] = self.worker_id
        if self.rank is not None:
            attributes[_names.ATTR_WORKER_RANK] = self.rank
        return attributes


class Moment(NamedTuple):
    """One moment on both clocks."""

    perf_seconds: float
    epoch_nanos: int


def now() -> Moment:
    """Return this moment."""
    return Moment(time.perf_counter(), time.time_ns())


class ErrorSampling(Protocol):
    """Keeps the spans of failed requests that are not sampled, so many a second."""

    def recording(self, context: Context) -> Context:
        """Return a context below which spans are recorded also when they are not sampled."""

    def admit(self) -> bool:
        """Return whether one more failed request may be kept now."""

    def keep(self, context: Context) -> None:
        """Export what was recorded below a context."""


class Member:
    """One request of a call, or of several one after the other: its span in its caller's trace.

    Args:
        spans: Starts and ends spans.
        callers: Reads the request's headers.
        errors: Keeps the spans of failed requests that are not sampled, or None.
        model: The model.
        request: The request.
        attributes: What its span carries besides its id.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each from another hand
        self,
        spans: Spans,
        callers: Callers,
        errors: Optional[ErrorSampling],
        model: Model,
        request: IncomingRequest,
        attributes: Mapping[str, Any],
    ) -> None:
        self._spans = spans
        self._errors = errors
        self._is_kept_error = False
        self._started = time.perf_counter()
        self._parts = 0
        self._first_part_seconds: Optional[float] = None
        self.paused_at: Optional[Moment] = None
        self.request_id = request.request_id
        parent, links, arrived_nanos = callers.origin(request.headers)
        if errors is not None:
            parent = errors.recording(parent)
        if model.span_kind is not SpanKind.SERVER:
            # What a proxy says is about the client's request, not about a workflow's node.
            arrived_nanos = None
        received_nanos = time.time_ns()
        attributes = {**attributes, _names.ATTR_REQUEST_ID: request.request_id}
        if request.shown_headers:
            attributes.update(_scope.header_attributes(request.shown_headers))
        self.span = spans.start(
            model.request_span_name,
            parent,
            model.span_kind,
            attributes,
            links,
            received_nanos if arrived_nanos is None else arrived_nanos,
        )
        self.span_context = self.span.get_span_context()
        self.context = with_span(self.span, parent)
        self._queue_seconds: Optional[float] = None
        if arrived_nanos is not None:
            self._queue_seconds = (received_nanos - arrived_nanos) / 1e9
            spans.finished(_names.SPAN_QUEUE, self.context, arrived_nanos, received_nanos)
        client_request_id = request.headers.get("x-request-id")
        self.scope = _scope.of_request(
            request.request_id,
            client_request_id and client_request_id[:_MAX_CLIENT_ID_CHARACTERS],
            request.shown_headers,
            self.context,
        )

    def part_sent(self, perf_seconds: Optional[float] = None) -> None:
        """Count one part of its answer.

        Args:
            perf_seconds: When it was sent, as `time.perf_counter` has it; now, if absent.
        """
        self._parts += 1
        if self._first_part_seconds is None:
            self._first_part_seconds = (perf_seconds or time.perf_counter()) - self._started

    def is_kept(self, outcome: Outcome) -> bool:
        """Return whether its spans will leave: it is sampled, or it failed and may be kept for that. Ask only once.

        Args:
            outcome: How it ended.
        """
        if self.span_context.trace_flags.sampled:
            return self.span.is_recording()
        if self._errors is None or outcome.error_type is None:
            return False
        self._is_kept_error = self._errors.admit()
        return self._is_kept_error

    def add_phase(self, ended: Ended) -> None:
        """Show a phase of the whole batch in its trace too.

        Args:
            ended: When it was, and how it ended.
        """
        self._spans.finished(
            ended.name, self.context, ended.started_nanos, ended.ended_nanos, ended.error_type, _SHARED_ATTRIBUTES
        )

    def end(
        self,
        model: Model,
        metrics: Optional[Metrics],
        outcome: Outcome,
        moment: Moment,
        exception_event: Optional[Mapping[str, str]] = None,
    ) -> None:
        """End its span and record its measurements.

        Args:
            model: The model.
            metrics: Our instruments, or None when it is not measured.
            outcome: How it ended.
            moment: When.
            exception_event: The attributes of an event of its span for the exception, if it shall have one.
        """
        seconds = moment.perf_seconds - self._started
        if outcome.status_code is not None:
            self.span.set_attribute(_names.ATTR_RESPONSE_STATUS_CODE, outcome.status_code)
        if self._first_part_seconds is not None:
            self.span.set_attribute(_names.ATTR_STREAM_CHUNK_COUNT, self._parts)
            self.span.set_attribute(_names.ATTR_STREAM_TIME_TO_FIRST_CHUNK, self._first_part_seconds)
        error_type = outcome.error_type
        self._spans.end(self.span, error_type, exception_event, moment.epoch_nanos)
        if self._is_kept_error and self._errors is not None:
            self._errors.keep(self.context)
        if metrics is not None:
            metrics.request(seconds, model.metric_attributes, error_type, self.context)
            if self._queue_seconds is not None:
                metrics.queue(self._queue_seconds, model.metric_attributes, self.context)
            if self._first_part_seconds is not None:
                metrics.first_chunk(self._first_part_seconds, model.metric_attributes, error_type, self.context)
