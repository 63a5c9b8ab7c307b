"""From the requests of a batch to spans and measurements. API only; knows nothing of TorchServe's classes.

One `Call` stands for one call of the model's handler: one request, or a batch of several. It is made when the worker
gets the batch and ended when the answer is known; phases in between are children of its live span.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Optional

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, SpanKind
from structlog.contextvars import bind_contextvars, get_contextvars, unbind_contextvars

from ts_otel_logging import _names, _scope
from ts_otel_logging._diagnostics import shielded
from ts_otel_logging._event import trace_fields, type_name
from ts_otel_logging._spans import Ended, Spans, is_client_error
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, TracerProvider

    from ts_otel_logging._metrics import Metrics

_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
_FIRST_SERVER_ERROR: Final = 500

_current_call: ContextVar[Optional[Call]] = ContextVar("ts_otel_logging_call", default=None)


class IncomingRequest(NamedTuple):
    """A request as the worker got it.

    Attributes:
        request_id: TorchServe's id.
        headers: The HTTP headers, names in lower case.
    """

    request_id: str
    headers: Mapping[str, str]


class Outcome(NamedTuple):
    """How one request ended: its HTTP status code, and the exception that its handler raised, if one did."""

    status_code: int
    error: Optional[BaseException] = None

    @property
    def error_type(self) -> Optional[str]:
        """The ``error.type`` of a failure on the server's side; None for success and for a client's mistake."""
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
    """

    name: str
    version: Optional[str]
    device: str
    worker_id: Optional[str]

    @property
    def metric_attributes(self) -> dict[str, str]:
        """What every measurement of the model carries."""
        attributes = {_names.ATTR_MODEL_NAME: self.name}
        if self.version is not None:
            attributes[_names.ATTR_MODEL_VERSION] = self.version
        return attributes

    @property
    def span_attributes(self) -> dict[str, str]:
        """What every span of the model carries."""
        attributes = {**self.metric_attributes, _names.ATTR_DEVICE: self.device}
        if self.worker_id is not None:
            attributes[_names.ATTR_WORKER_ID] = self.worker_id
        return attributes


class Tracing:
    """Makes the spans of loads and calls.

    Args:
        tracer_provider: An OpenTelemetry TracerProvider.
        metrics: Our instruments, or None when metrics are off.
        exception_events: Whether an exception is also an event of its span.
        response_headers: Which of ``server-timing``, ``traceresponse`` and ``traceparent`` answers shall carry.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider,
        metrics: Optional[Metrics],
        *,
        exception_events: bool = True,
        response_headers: tuple[str, ...] = (),
    ) -> None:
        tracer = tracer_provider.get_tracer(_names.SCOPE_NAME, __version__, _SCHEMA_URL)
        self.spans = Spans(tracer, exception_events=exception_events)
        self.tracer = tracer
        self.metrics = metrics
        self.response_headers = response_headers

    def load(self, model: Model) -> AbstractContextManager[None]:
        """Wrap the load of a model in its span; what the block raises is recorded and raised on."""

        def measure(ended: Ended) -> None:
            if self.metrics is not None:
                self.metrics.load(ended.seconds, model.metric_attributes, ended.error_type, ended.context)

        name = f"{_names.SPAN_LOAD} {model.name}"
        return self.spans.around(name, measure, exception_event=True, attributes=model.span_attributes)


class Call:
    """One call of a handler. `begin` and `end` belong on the thread that calls it.

    Args:
        tracing: Makes the spans.
        model: The model.
        requests: The batch's requests, at least one.
    """

    def __init__(self, tracing: Tracing, model: Model, requests: Sequence[IncomingRequest]) -> None:
        self._model = model
        self.tracing = tracing
        self.phases: list[tuple[str, float]] = []
        self.error: Optional[BaseException] = None
        self.handler_window: Optional[tuple[int, int]] = None
        attributes = {**model.span_attributes, _names.ATTR_BATCH_SIZE: len(requests)}
        self._members = [_Member(tracing, model, request, attributes) for request in requests]
        if len(requests) == 1:
            member = self._members[0]
            self._batch_span: Optional[Span] = None
            self.context, self._scope = member.context, member.scope
        else:
            self._batch_span = self._start_batch(attributes)
            self.context = trace.set_span_in_context(self._batch_span)
            self._scope = _scope.of_batch(
                [request.request_id for request in requests],
                [trace_fields(member.span.get_span_context())[_names.TRACE_ID] for member in self._members],
                tuple(member.scope for member in self._members),
            )
        self._started = time.perf_counter()
        self._bound = get_contextvars()
        self._tokens: Optional[tuple[Any, Any, Any]] = (
            otel_context.attach(self.context),
            _scope.enter(self._scope),
            _current_call.set(self),
        )

    def _start_batch(self, attributes: Mapping[str, Any]) -> Span:
        # A root of its own: its members belong to as many traces. The links are there from the start, so that a
        # sampler sees them.
        links = [
            Link(
                member.span.get_span_context(),
                {_names.ATTR_REQUEST_ID: member.request_id, _names.ATTR_BATCH_INDEX: index},
            )
            for index, member in enumerate(self._members)
        ]
        span = self.tracing.spans.start(
            f"{_names.SPAN_BATCH} {self._model.name}",
            context=otel_context.Context(),
            links=links,
            attributes=attributes,
        )
        for member in self._members:
            member.span.add_link(span.get_span_context())
        return span

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Wrap one phase of the handler in its span; what the block raises is recorded and raised on.

        Args:
            name: ``preprocess``, ``inference``, ``postprocess``, ``explain``, ``describe`` or ``handle``.
        """
        # The exception is an event of the request's span, in whose context TorchServe logs it: once, not here too.
        return self.tracing.spans.around(name, partial(self._phase_ended, name), exception_event=False)

    def _phase_ended(self, name: str, ended: Ended) -> None:
        self.phases.append((name, ended.seconds))
        metrics = self.tracing.metrics
        if metrics is not None:
            metrics.phase(name, ended.seconds, self._model.metric_attributes, ended.error_type, ended.context)

    def response_headers(self, index: int) -> dict[str, str]:
        """Return what the user asked to have on a request's answer.

        Args:
            index: The request's position in the batch.
        """
        wanted = self.tracing.response_headers
        if not wanted:
            return {}
        ids = trace_fields(self._members[index].span.get_span_context())
        parent = f"00-{ids[_names.TRACE_ID]}-{ids[_names.SPAN_ID]}-{ids[_names.TRACE_FLAGS]}"
        # https://www.w3.org/TR/server-timing/ wants milliseconds.
        timings = [f'trace;desc="{parent}"', *(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in self.phases)]
        values = {"server-timing": ", ".join(timings), "traceresponse": parent, "traceparent": parent}
        return {name: values[name] for name in wanted}

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """End every span of the call and record its measurements.

        Args:
            outcomes: How each request ended, in the batch's order.
        """
        seconds = time.perf_counter() - self._started
        shielded("handle span")(self._add_missing_phase)()
        spans, metrics, model = self.tracing.spans, self.tracing.metrics, self._model.metric_attributes
        if metrics is not None:
            metrics.batch(len(self._members), model)
        for member, outcome in zip(self._members, outcomes):
            member.span.set_attribute(_names.ATTR_RESPONSE_STATUS_CODE, outcome.status_code)
            spans.end(member.span, outcome.error_type, outcome.error)
            if metrics is not None:
                metrics.request(seconds, model, outcome.error_type, member.context)
        if self._batch_span is not None:
            failures = [outcome.error_type for outcome in outcomes if outcome.error_type is not None]
            spans.end(self._batch_span, failures[0] if failures else None)

    def leave(self) -> None:
        """Restore what was current before the call, also structlog's context. A second time does nothing."""
        if self._tokens is None:
            return
        context_token, scope_token, call_token = self._tokens
        self._tokens = None
        _current_call.reset(call_token)
        _scope.leave(scope_token)
        otel_context.detach(context_token)
        # What a handler bound for this request must not stand on the next caller's lines.
        bound = get_contextvars()
        if bound != self._bound:
            unbind_contextvars(*(bound.keys() - self._bound.keys()))
            bind_contextvars(**self._bound)

    def _add_missing_phase(self) -> None:
        # A handler that overrides `handle` without using the phases' methods: its whole run is the one phase.
        if self.phases or self.handler_window is None:
            return
        start, end = self.handler_window
        span = self.tracing.spans.start("handle", self.context, start_time=start)
        failed = self.error is not None and not is_client_error(self.error)
        error_type = type_name(self.error) if self.error is not None and failed else None
        self.tracing.spans.end(span, error_type, end_time=end)
        context = trace.set_span_in_context(span, self.context)
        self._phase_ended("handle", Ended((end - start) / 1e9, error_type, context))


class _Member:
    """One request of a call: its span in its caller's trace."""

    def __init__(self, tracing: Tracing, model: Model, request: IncomingRequest, attributes: Mapping[str, Any]) -> None:
        self.request_id = request.request_id
        parent = propagate.extract(request.headers, otel_context.Context(), _HEADERS)
        self.span = tracing.spans.start(
            f"{_names.SPAN_PREDICT} {model.name}",
            parent,
            kind=SpanKind.SERVER,
            attributes={**attributes, _names.ATTR_REQUEST_ID: request.request_id},
        )
        self.context = trace.set_span_in_context(self.span, parent)
        self.scope = _scope.of_request(request.request_id, request.headers.get("x-request-id"))


class _HeaderGetter(Getter[Mapping[str, str]]):
    """Finds a header however a propagator spells it: names of HTTP headers have no case."""

    def get(self, carrier: Mapping[str, str], key: str) -> Optional[list[str]]:
        value = carrier.get(key.lower())
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_HEADERS: Final = _HeaderGetter()


def current_call() -> Optional[Call]:
    """Return the call that the running code belongs to, or None outside one."""
    return _current_call.get()


@contextmanager
def span(name: str, attributes: Optional[Mapping[str, Any]] = None) -> Iterator[Span]:
    """Wrap a block in a child span of the current phase; what the block raises is recorded and raised on.

    When off, or outside a request, it does nothing.

    Args:
        name: The span's name.
        attributes: OpenTelemetry attributes.

    Yields:
        The span, for further attributes.
    """
    call = current_call()
    if call is None:
        yield trace.INVALID_SPAN
        return
    tracing = call.tracing
    with tracing.tracer.start_as_current_span(
        name, attributes=attributes, record_exception=tracing.spans.exception_events
    ) as child:
        yield child
