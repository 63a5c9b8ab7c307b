"""From the requests of a batch to spans and measurements. API only; knows nothing of TorchServe's classes.

One `Call` stands for one call of the model's handler: one request, or a batch of several. It is made when the worker
gets the batch and ended when the answer is known; phases in between are children of its live span.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Optional

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link

from ts_otel_logging import _names, _scope
from ts_otel_logging._bound import bound_contextvars, restore_contextvars
from ts_otel_logging._callers import Callers
from ts_otel_logging._diagnostics import shielded
from ts_otel_logging._event import trace_fields, type_name
from ts_otel_logging._requests import Member, Moment, Outcome, ShownHeaders, now
from ts_otel_logging._spans import Around, Ended, Spans, is_client_error
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, SpanContext, Tracer, TracerProvider

    from ts_otel_logging._metrics import Metrics
    from ts_otel_logging._requests import ErrorSampling, IncomingRequest, Model

_HTTP_OK: Final = 200
# Beyond, the copies would cost more than the batch's own spans tell.
_MAX_SHARING_MEMBERS: Final = 64

_current_call: ContextVar[Optional[Call]] = ContextVar("ts_otel_logging_call", default=None)


class Tracing:
    """Makes the spans of loads and calls.

    Args:
        tracer_provider: An OpenTelemetry TracerProvider.
        metrics: Our instruments, or None when metrics are off.
        exception_events: Whether an exception is also an event of its span.
        response_headers: Which of ``server-timing``, ``traceresponse`` and ``traceparent`` answers shall carry.
        shown_headers: Picks the headers that a request's lines and span shall have.
        trust: What a caller's headers may do, as `Callers` has it.
        errors: Keeps the spans of failed requests that are not sampled, or None.
        tracer_for_batch: Returns the tracer for the span of a batch, for our tracer and the spans of its members.

    Attributes:
        enabled: Whether requests are looked at; changed by `switch`.
    """

    def __init__(  # noqa: PLR0913 - keywords
        self,
        tracer_provider: TracerProvider,
        metrics: Optional[Metrics],
        *,
        exception_events: bool = True,
        response_headers: tuple[str, ...] = (),
        shown_headers: Optional[ShownHeaders] = None,
        trust: str = "parent",
        errors: Optional[ErrorSampling] = None,
        tracer_for_batch: Callable[[Tracer, Sequence[SpanContext]], Tracer] = lambda tracer, _members: tracer,
    ) -> None:
        tracer = tracer_provider.get_tracer(_names.SCOPE_NAME, __version__, _names.SCHEMA_URL)
        self.spans = Spans(tracer, exception_events=exception_events)
        self.tracer = self._own_tracer = tracer
        self.metrics = self._own_metrics = metrics
        self.enabled = True
        self.response_headers = response_headers
        self.shown_headers = shown_headers or ShownHeaders()
        self.callers = Callers(trust)
        self.errors = self._own_errors = errors
        self._tracer_for_batch = tracer_for_batch
        # By request id: those of the running calls, and those that will be in the next call again.
        self.under_way: dict[str, Member] = {}
        self.waiting: dict[str, Member] = {}

    def switch(self, *, enabled: bool, traces: bool) -> None:
        """Let what begins from now on become spans and measurements, or not.

        Args:
            enabled: Whether requests are looked at.
            traces: Whether they become spans; without, the caller's span is current in the handler.
        """
        self.tracer = self._own_tracer if enabled and traces else trace.NoOpTracer()
        self.spans = Spans(self.tracer, exception_events=self.spans.exception_events)
        self.errors = self._own_errors if enabled and traces else None
        self.metrics = self._own_metrics if enabled else None
        self.enabled = enabled

    def part_sent(self, request_ids: Iterable[str]) -> None:
        """Count one part of a streamed answer.

        Args:
            request_ids: The requests that got one each.
        """
        for request_id in request_ids:
            member = self.under_way.get(request_id)
            if member is not None:
                member.part_sent()

    def start_batch(self, name: str, members: Sequence[Member], attributes: Mapping[str, Any]) -> Span:
        """Start the span of a batch, linked with those of its members.

        Args:
            name: Its name.
            members: The batch's requests.
            attributes: Its attributes.
        """
        contexts = [member.span_context for member in members]
        # Made with the span, so that processors see them; nobody sees those of a batch that is not sampled.
        is_sampled = any(context.trace_flags.sampled for context in contexts)
        links = [
            Link(context, {_names.ATTR_REQUEST_ID: member.request_id, _names.ATTR_BATCH_INDEX: index})
            for index, (member, context) in enumerate(zip(members, contexts))
            if is_sampled
        ]
        spans = Spans(self._tracer_for_batch(self.tracer, contexts), exception_events=self.spans.exception_events)
        # A root of its own: its members belong to as many traces.
        span = spans.start(name, otel_context.Context(), links=links, attributes=attributes)
        if span.is_recording():
            for member in members:
                member.span.add_link(span.get_span_context())
        return span

    def load(self, model: Model, failures_to_tell: Callable[[], int]) -> AbstractContextManager[None]:
        """Wrap the load of a model in its span; what the block raises is recorded and raised on.

        Args:
            model: The model.
            failures_to_tell: Called when the load fails; how many failures its span stands for, 0 for no span.
        """

        def tell(span: Span) -> bool:
            count = failures_to_tell()
            span.set_attribute(_names.ATTR_LOAD_FAILURE_COUNT, count)
            return count > 0

        def measure(ended: Ended) -> None:
            if self.metrics is not None:
                self.metrics.load(ended.seconds, model.metric_attributes, ended.error_type, ended.context)

        name = f"{_names.SPAN_LOAD} {model.name}"
        return Around(self.spans, name, measure, exception_event=True, on_error=tell, attributes=model.span_attributes)


class Call:
    """One call of a handler. `begin` and `end` belong on the thread that calls it.

    Args:
        tracing: Makes the spans.
        model: The model.
        requests: The batch's requests, at least one.
        resumable: Whether a request whose answer says that there is more comes again in the next call. Then that call
            has every such request, but for those whose client has left.
    """

    def __init__(
        self, tracing: Tracing, model: Model, requests: Sequence[IncomingRequest], *, resumable: bool = True
    ) -> None:
        self._model = model
        self._resumable = resumable
        self.tracing = tracing
        self.metrics = tracing.metrics if model.answers else None
        self.phases: list[Ended] = []
        self._has_ended = False
        self.error: Optional[BaseException] = None
        self.handler_window: Optional[tuple[int, int]] = None
        self.handler_context: Any = None
        attributes = {**model.span_attributes, _names.ATTR_BATCH_SIZE: len(requests)}
        waiting = tracing.waiting
        self._members = [
            waiting.pop(request.request_id)
            if request.request_id in waiting
            else Member(tracing.spans, tracing.callers, tracing.errors, model, request, attributes)
            for request in requests
        ]
        if resumable and waiting:
            self._end_left()
        if len(requests) == 1:
            member = self._members[0]
            self._batch_span: Optional[Span] = None
            self.context, self._scope = member.context, member.scope
        else:
            self._batch_span = tracing.start_batch(model.batch_span_name, self._members, attributes)
            self.context = trace.set_span_in_context(self._batch_span)
            self._scope = _scope.of_batch(
                [request.request_id for request in requests],
                [trace_fields(member.span_context)[_names.TRACE_ID] for member in self._members],
                tuple(member.scope for member in self._members),
            )
        for member in self._members:
            tracing.under_way[member.request_id] = member
        self._bound = bound_contextvars()
        self._tokens: Optional[tuple[Any, Any, Any]] = (
            otel_context.attach(self.context),
            _scope.enter(self._scope),
            _current_call.set(self),
        )

    @property
    def answers(self) -> bool:
        """Whether this process answers the call's requests."""
        return self._model.answers

    @shielded("end of a stream")
    def _end_left(self) -> None:
        # TorchServe's frontend sends every request that is not done in each call: these are not coming back.
        waiting = self.tracing.waiting
        while waiting:
            _, member = waiting.popitem()
            member.span.set_attribute(_names.ATTR_STREAM_CLIENT_LEFT, True)  # noqa: FBT003 - an attribute's value
            member.end(self._model, self.metrics, Outcome(_HTTP_OK), member.paused_at or now())

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Wrap one phase of the handler in its span; what the block raises is recorded and raised on.

        Args:
            name: ``preprocess``, ``inference``, ``postprocess``, ``explain``, ``describe`` or ``handle``.
        """
        # The exception is an event of the request's span, in whose context TorchServe logs it: once, not here too.
        return Around(self.tracing.spans, name, self._phase_ended)

    def _phase_ended(self, ended: Ended) -> None:
        self.phases.append(ended)
        # Those of the call are measured when it ends, after the answer; this one is late.
        if self._has_ended:
            self._measure_phase(ended)

    def _measure_phase(self, ended: Ended) -> None:
        if self.metrics is not None:
            self.metrics.phase(
                ended.name, ended.seconds, self._model.metric_attributes, ended.error_type, ended.context
            )

    def response_headers(self, index: int) -> dict[str, str]:
        """Return what the user asked to have on a request's answer.

        Args:
            index: The request's position in the batch.
        """
        wanted = self.tracing.response_headers
        if not wanted:
            return {}
        # https://www.w3.org/TR/server-timing/ wants milliseconds.
        timings = [f"{ended.name};dur={ended.seconds * 1e3:.3f}" for ended in self.phases]
        values: dict[str, str] = {}
        span_context = self._members[index].span_context
        # Without an SDK, a request without a caller's context has no trace to name.
        if span_context.is_valid:
            ids = trace_fields(span_context)
            parent = f"00-{ids[_names.TRACE_ID]}-{ids[_names.SPAN_ID]}-{ids[_names.TRACE_FLAGS]}"
            timings.insert(0, f'trace;desc="{parent}"')
            values = {"traceresponse": parent, "traceparent": parent}
        if timings:
            values["server-timing"] = ", ".join(timings)
        return {name: values[name] for name in wanted if name in values}

    def end(self, outcomes: Sequence[Outcome], moment: Optional[Moment] = None) -> None:
        """End every span of the call and record its measurements.

        Args:
            outcomes: How each request ended, in the batch's order.
            moment: When; now, if absent.
        """
        moment = moment or now()
        if not self.phases:
            self._add_missing_phase()
        self._has_ended = True
        for ended in tuple(self.phases):
            self._measure_phase(ended)
        if self.metrics is not None:
            self.metrics.batch(len(self._members), self._model.metric_attributes, self.context)
        kept = [member for member, outcome in zip(self._members, outcomes) if member.is_kept(outcome)]
        if self._batch_span is not None:
            self._share_phases(kept, outcomes)
        # One text for all of a batch's members.
        error = outcomes[0].error
        exception_event = self.tracing.spans.exception_event(error) if kept and error is not None else None
        for member, outcome in zip(self._members, outcomes):
            if outcome.more is not None:
                member.part_sent(moment.perf_seconds)
            if outcome.more and self._resumable:
                member.paused_at = moment
                self.tracing.waiting[member.request_id] = member
            else:
                member.end(self._model, self.metrics, outcome, moment, exception_event)
        if self._batch_span is not None:
            failures = [outcome.error_type for outcome in outcomes if outcome.error_type is not None]
            # A member that its handler answers with a failure of its own is no failure of the others.
            error_type = failures[0] if len(failures) == len(outcomes) else None
            self.tracing.spans.end(self._batch_span, error_type, end_time=moment.epoch_nanos)

    @shielded("phases of a batch")
    def _share_phases(self, members: Sequence[Member], outcomes: Sequence[Outcome]) -> None:
        """Copy the batch's phases into the traces of its members.

        A phase that ran several times ran for a part of them each: it is the batch's alone. So are the phases of a
        batch that goes on in the next call, which may be one of hundreds.
        """
        if not 0 < len(members) <= _MAX_SHARING_MEMBERS:
            return
        if any(outcome.more is not None for outcome in outcomes):
            return
        times = Counter(ended.name for ended in self.phases)
        for ended in self.phases:
            if times[ended.name] == 1:
                for member in members:
                    member.add_phase(ended)

    def leave(self) -> None:
        """Restore what was current before the call, also structlog's context. A second time does nothing."""
        if self._tokens is None:
            return
        context_token, scope_token, call_token = self._tokens
        self._tokens = None
        for member in self._members:
            self.tracing.under_way.pop(member.request_id, None)
        _current_call.reset(call_token)
        _scope.leave(scope_token)
        otel_context.detach(context_token)
        # What a handler bound for this request must not stand on the next caller's lines.
        restore_contextvars(self._bound)

    @shielded("handle span")
    def _add_missing_phase(self) -> None:
        # A handler that overrides `handle` without using the phases' methods: its whole run is the one phase.
        if self.handler_window is None:
            return
        start, end = self.handler_window
        failed = self.error is not None and not is_client_error(self.error)
        error_type = type_name(self.error) if self.error is not None and failed else None
        span = self.tracing.spans.finished("handle", self.context, start, end, error_type)
        context = trace.set_span_in_context(span, self.context)
        self._phase_ended(Ended("handle", (end - start) / 1e9, error_type, context, start, end))


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
