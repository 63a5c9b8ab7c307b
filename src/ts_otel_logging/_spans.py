"""Spans that cost nothing but themselves when they fail: samplers and processors may be anybody's code. API only."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from ts_otel_logging import _names
from ts_otel_logging._diagnostics import shielded, swallowed
from ts_otel_logging._event import exception_fields, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

_FIRST_SERVER_ERROR = 500


class Ended(NamedTuple):
    """A block that a span was around.

    Attributes:
        seconds: How long it took.
        error_type: The ``error.type`` of its failure, or None.
        context: The context that holds the span.
        started_nanos: When it began, in nanoseconds since the epoch.
        ended_nanos: When it was over.
    """

    seconds: float
    error_type: Optional[str]
    context: Context
    started_nanos: int
    ended_nanos: int


class Spans:
    """Starts and ends spans; nothing that it does raises.

    Args:
        tracer: OpenTelemetry's tracer.
        exception_events: Whether an exception is also an event of its span.
    """

    def __init__(self, tracer: Tracer, *, exception_events: bool) -> None:
        self._tracer = tracer
        self.exception_events = exception_events

    def start(self, name: str, context: Optional[Context] = None, **options: Any) -> Span:
        """Start a span; if that fails, what is returned has its parent's ids and records nothing."""
        try:
            return self._tracer.start_span(name, context=context, **options)
        except Exception as error:  # noqa: BLE001 - the shield
            swallowed("start of span", error)
            return trace.NonRecordingSpan(trace.get_current_span(context).get_span_context())

    @contextmanager
    def around(
        self,
        name: str,
        on_end: Callable[[Ended], None],
        *,
        exception_event: bool,
        on_error: Optional[Callable[[Span], bool]] = None,
        **options: Any,
    ) -> Iterator[None]:
        """Wrap a block in a span that is current inside it; what the block raises is recorded and raised on.

        Args:
            name: The span's name.
            on_end: Called when the block is over.
            exception_event: Whether what the block raises is an event of this very span.
            on_error: Called when the block raised; False keeps the span from ending, so that nobody gets it.
            **options: Further arguments of the span.

        Yields:
            Nothing.
        """
        started_nanos = time.time_ns()
        span = self.start(name, start_time=started_nanos, **options)
        context = trace.set_span_in_context(span)
        token = otel_context.attach(context)
        started = time.perf_counter()
        error: Optional[BaseException] = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            seconds = time.perf_counter() - started
            ended_nanos = time.time_ns()
            otel_context.detach(token)
            error_type = None if error is None or is_client_error(error) else type_name(error)
            if error is None or on_error is None or shielded("failure")(on_error)(span) is not False:
                event = self.exception_event(error) if exception_event else None
                self.end(span, error_type, event, ended_nanos)
            shielded("measurement")(on_end)(Ended(seconds, error_type, context, started_nanos, ended_nanos))

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
        finally:
            shielded("end of span")(span.end)(end_time)


def is_client_error(error: BaseException) -> bool:
    """Return whether an exception says that the client is to blame."""
    # ts.utils.util.PredictionException carries the HTTP code that TorchServe answers with.
    code = getattr(error, "error_code", None)
    return isinstance(code, int) and code < _FIRST_SERVER_ERROR
