"""Spans that cost nothing but themselves when they fail: samplers and processors may be anybody's code. API only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Optional

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode

from ts_otel_logging import _names
from ts_otel_logging._diagnostics import shielded, swallowed
from ts_otel_logging._event import exception_fields, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.trace import Link, Span, Tracer

_FIRST_SERVER_ERROR = 500
# Where the API keeps a context's span.
(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())


def with_span(span: Span, context: Context) -> Context:
    """Return a context with a span, as `trace.set_span_in_context` does, which costs twice as much."""
    result = Context(context)
    # A context cannot be changed but by this: what it is made of is copied once, and not twice.
    dict.__setitem__(result, SPAN_KEY, span)
    return result


class Ended:
    """A block that a span was around.

    Args:
        name: The span's name.
        seconds: How long it took.
        error_type: The ``error.type`` of its failure, or None.
        context: The context that holds the span.
        started_nanos: When it began, in nanoseconds since the epoch.
        ended_nanos: When it was over.
    """

    __slots__ = ("context", "ended_nanos", "error_type", "name", "seconds", "started_nanos")

    def __init__(  # noqa: PLR0913, PLR0917 - one argument an attribute
        self,
        name: str,
        seconds: float,
        error_type: Optional[str],
        context: Context,
        started_nanos: int,
        ended_nanos: int,
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.error_type = error_type
        self.context = context
        self.started_nanos = started_nanos
        self.ended_nanos = ended_nanos


class Spans:
    """Starts and ends spans; nothing that it does raises.

    Args:
        tracer: OpenTelemetry's tracer.
        exception_events: Whether an exception is also an event of its span.
    """

    def __init__(self, tracer: Tracer, *, exception_events: bool) -> None:
        self._tracer = tracer
        self.exception_events = exception_events

    def start(  # noqa: PLR0913, PLR0917 - the tracer's
        self,
        name: str,
        context: Context,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Optional[Mapping[str, Any]] = None,
        links: Sequence[Link] = (),
        start_time: Optional[int] = None,
    ) -> Span:
        """Start a span; if that fails, what is returned has its parent's ids and records nothing."""
        try:
            return self._tracer.start_span(name, context, kind, attributes, links, start_time)
        except Exception as error:  # noqa: BLE001 - the shield
            swallowed("start of span", error)
            return trace.NonRecordingSpan(trace.get_current_span(context).get_span_context())

    def finished(  # noqa: PLR0913, PLR0917 - a whole span
        self,
        name: str,
        context: Context,
        started_nanos: int,
        ended_nanos: int,
        error_type: Optional[str] = None,
        attributes: Optional[Mapping[str, Any]] = None,
    ) -> Span:
        """Make a span of what is over already.

        Args:
            name: Its name.
            context: Holds its parent.
            started_nanos: When it began, in nanoseconds since the epoch.
            ended_nanos: When it was over.
            error_type: Its ``error.type``, when it failed.
            attributes: Its attributes.
        """
        span = self.start(name, context, start_time=started_nanos, attributes=attributes)
        self.end(span, error_type, end_time=ended_nanos)
        return span

    @shielded("exception event")
    def exception_event(self, error: Optional[BaseException]) -> Optional[dict[str, str]]:
        """Return the attributes of an exception's event; None when there is none, or events are left to the log."""
        if error is None or not self.exception_events:
            return None
        fields = exception_fields(error)
        return {
            _names.ATTR_EXCEPTION_TYPE: fields["type"],
            _names.ATTR_EXCEPTION_MESSAGE: fields["message"],
            _names.ATTR_EXCEPTION_STACKTRACE: fields["stacktrace"],
        }

    def end(
        self,
        span: Span,
        error_type: Optional[str] = None,
        exception_event: Optional[Mapping[str, str]] = None,
        end_time: Optional[int] = None,
    ) -> None:
        """End a span.

        Args:
            span: The span.
            error_type: Its ``error.type``, when it failed.
            exception_event: The attributes of an event for its exception, as `exception_event` returns them.
            end_time: In nanoseconds since the epoch; now, if absent.
        """
        try:
            if error_type is not None:
                span.set_status(Status(StatusCode.ERROR, error_type))
                span.set_attribute(_names.ATTR_ERROR_TYPE, error_type)
            if exception_event is not None:
                span.add_event("exception", exception_event)
        except Exception as failure:  # noqa: BLE001 - the shield
            swallowed("end of span", failure)
        try:
            span.end(end_time)
        except Exception as failure:  # noqa: BLE001 - the shield
            swallowed("end of span", failure)


class Around(Ended):
    """A block with a span that is current inside it; what the block raises is recorded and raised on.

    It is a context manager for one block, and tells of it when it is over. A generator with `contextmanager` would cost
    each phase half as much again.

    Args:
        spans: Starts and ends the span.
        name: The span's name.
        on_end: Called with this when the block is over.
        exception_event: Whether what the block raises is an event of this very span.
        on_error: Called when the block raised; False keeps the span from ending, so that nobody gets it.
        attributes: The span's attributes.
    """

    __slots__ = ("_attributes", "_exception_event", "_on_end", "_on_error", "_span", "_spans", "_started", "_token")

    def __init__(  # noqa: PLR0913 - what a block may need
        self,
        spans: Spans,
        name: str,
        on_end: Callable[[Ended], None],
        *,
        exception_event: bool = False,
        on_error: Optional[Callable[[Span], bool]] = None,
        attributes: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self._spans = spans
        self.name = name
        self._on_end = on_end
        self._exception_event = exception_event
        self._on_error = on_error
        self._attributes = attributes

    def __enter__(self) -> None:
        parent = otel_context.get_current()
        self.started_nanos = started_nanos = time.time_ns()
        self._span = span = self._spans.start(self.name, parent, SpanKind.INTERNAL, self._attributes, (), started_nanos)
        self.context = context = with_span(span, parent)
        self._token = otel_context.attach(context)
        self._started = time.perf_counter()

    def __exit__(self, _type: object, error: Optional[BaseException], _traceback: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.ended_nanos = ended_nanos = time.time_ns()
        otel_context.detach(self._token)
        if error is None:
            self.error_type = None
            self._spans.end(self._span, end_time=ended_nanos)
        else:
            self.error_type = None if is_client_error(error) else type_name(error)
            self._fail(error)
        try:
            self._on_end(self)
        except Exception as failure:  # noqa: BLE001 - the shield
            swallowed("measurement", failure)

    def _fail(self, error: BaseException) -> None:
        if self._on_error is None or shielded("failure")(self._on_error)(self._span) is not False:
            event = self._spans.exception_event(error) if self._exception_event else None
            self._spans.end(self._span, self.error_type, event, self.ended_nanos)


def is_client_error(error: BaseException) -> bool:
    """Return whether an exception says that the client is to blame."""
    # ts.utils.util.PredictionException carries the HTTP code that TorchServe answers with.
    code = getattr(error, "error_code", None)
    return isinstance(code, int) and code < _FIRST_SERVER_ERROR
