"""Failed requests are kept though the head decision was no: so many a second, marked, and with their flags as they are.

A request that is not sampled is recorded nevertheless, and its spans are held until it has ended: if it failed they
are exported, otherwise forgotten. Nobody downstream learns of it: the trace flags stay ``00``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Optional

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

from ts_otel_logging import _names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context

_HELD: Final = otel_context.create_key("ts_otel_logging-held-spans")
_MAX_HELD_SPANS: Final = 128
"""Of one request: what a handler's loop makes beyond them is forgotten."""


class ErrorSampling(SpanProcessor):
    """Holds the spans of requests that are not sampled until it is known how they end.

    Args:
        requests_per_second: The most failed requests to keep, on average; as many may come at once.
        clock: Seconds that only grow.
    """

    def __init__(self, requests_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = requests_per_second
        self._most = max(requests_per_second, 1.0)
        self._left = self._most
        self._clock = clock
        self._counted_at = clock()
        self._exports: tuple[Callable[[ReadableSpan], None], ...] = ()

    def export_with(self, exports: Sequence[Callable[[ReadableSpan], None]]) -> None:
        """Hand what is kept to these."""
        self._exports = tuple(exports)

    def recording(self, context: Context) -> Context:
        """Return a context below which spans are recorded also when they are not sampled.

        Args:
            context: What it holds besides.
        """
        return otel_context.set_value(_HELD, [], context)

    def admit(self) -> bool:
        """Return whether one more failed request may be kept now."""
        now = self._clock()
        self._left = min(self._left + (now - self._counted_at) * self._rate, self._most)
        self._counted_at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def keep(self, context: Context) -> None:
        """Export what was recorded below a context, as far as it has ended.

        Args:
            context: What `recording` returned, or a context below it.
        """
        held: Any = otel_context.get_value(_HELD, context)
        for span in held or ():
            if span.end_time is not None:
                for export in self._exports:
                    export(span)

    def on_start(self, span: Span, parent_context: Optional[Context] = None) -> None:
        """Hold a span that is recorded only."""
        if span.get_span_context().trace_flags.sampled:
            return
        held: Any = otel_context.get_value(_HELD, parent_context)
        if held is not None and len(held) < _MAX_HELD_SPANS:
            held.append(span)


class RecordingSampler(Sampler):
    """Decides as another sampler, but what that one drops of a request is recorded.

    Args:
        sampler: The other one.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(  # noqa: PLR0913, PLR0917 - the base class's
        self,
        parent_context: Optional[Context],
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """Return the other sampler's decision, or that the span is recorded and not sampled."""
        result = self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is not Decision.DROP or otel_context.get_value(_HELD, parent_context) is None:
            return result
        marked = {**(attributes or {}), _names.ATTR_SAMPLING_REASON: _names.SAMPLING_REASON_ERROR}
        return SamplingResult(Decision.RECORD_ONLY, marked, result.trace_state)

    def get_description(self) -> str:
        """Return what it is, for people."""
        return f"RecordingSampler{{{self._sampler.get_description()}}}"
