"""What a caller's headers may say about a request: which trace it belongs to, and when it arrived. API only."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Optional

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.context import Context

# Whoever sends more is not heard, before anything is parsed or told: OpenTelemetry's propagators warn of every single
# member that they cannot use. A `traceparent` of today has 55 characters, later versions may have more
# (https://www.w3.org/TR/trace-context/#versioning-of-traceparent). The members are those of
# https://www.w3.org/TR/trace-context/#list and of OpenTelemetry's W3CBaggagePropagator.
_MAX_CHARACTERS: Final = {"traceparent": 512}
_MAX_MEMBERS: Final = {"tracestate": 32, "baggage": 180}
# https://www.w3.org/TR/baggage/#limits, and more than any other propagator's header needs.
_MOST_CHARACTERS: Final = 8_192

# What most callers send, and nothing beside it: reading this alone takes half as long as asking the propagators.
_USUAL_TRACEPARENT: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_USUAL_PROPAGATORS: Final = (TraceContextTextMapPropagator, W3CBaggagePropagator)

_REQUEST_START: Final = "x-request-start"
_REQUEST_START_FORM: Final = re.compile(r"(?:t=)?(\d{10,16})(?:\.(\d{1,9})\d*)?", re.ASCII)
_MAX_START_CHARACTERS: Final = 64
# nginx writes seconds (`t=${msec}`), Heroku's router milliseconds, Envoy's and New Relic's examples microseconds:
# the number of digits tells, from 2001 to 2286. Nanoseconds for one of them:
_NANOS_BY_DIGITS: Final = {10: 10**9, 13: 10**6, 16: 10**3}
_MAX_QUEUE_NANOS: Final = 600 * 10**9


class Origin(NamedTuple):
    """Where a request comes from, as far as its caller is trusted.

    Attributes:
        context: Holds the caller's span, if the request continues its trace, and the caller's baggage.
        links: The caller's span, if the request has a trace of its own.
        arrived_nanos: When a proxy in front of TorchServe got it, in nanoseconds since the epoch; None if unknown.
    """

    context: Context
    links: tuple[Link, ...] = ()
    arrived_nanos: Optional[int] = None


class Callers:
    """Reads the headers of requests.

    Args:
        trust: ``parent``: a request continues its caller's trace; ``link``: it has its own, which links to the
            caller's span, and the caller's baggage is dropped; ``ignore``: no header is looked at.
    """

    def __init__(self, trust: str = "parent") -> None:
        self._trust = trust
        self._propagator: Any = None
        self._is_usual = False

    def origin(self, headers: Mapping[str, str]) -> Origin:
        """Return where a request comes from; what is malformed counts as absent.

        Args:
            headers: Its HTTP headers, names in lower case.
        """
        if self._trust == "ignore":
            return Origin(_NOTHING)
        context = self._usual(headers)
        if context is None:
            context = propagate.extract(headers, _NOTHING, _HEADERS)
        if self._trust == "link":
            caller = trace.get_current_span(context).get_span_context()
            return Origin(_NOTHING, (Link(caller),) if caller.is_valid else ())
        return Origin(context, (), _arrived_nanos(headers.get(_REQUEST_START)))

    def _usual(self, headers: Mapping[str, str]) -> Optional[Context]:
        """Return what the propagators would, if they are the usual ones and the headers are; otherwise None."""
        propagator = propagate.get_global_textmap()
        # Whoever sets another one does so before the first request, or later.
        if propagator is not self._propagator:
            parts = getattr(propagator, "_propagators", ())
            is_usual = type(propagator) is CompositePropagator and tuple(map(type, parts)) == _USUAL_PROPAGATORS
            self._propagator, self._is_usual = propagator, is_usual
        if not self._is_usual or "tracestate" in headers or "baggage" in headers:
            return None
        traceparent = headers.get("traceparent")
        if traceparent is None:
            return _NOTHING
        if _USUAL_TRACEPARENT.fullmatch(traceparent) is None:
            return None
        trace_id, span_id, flags = int(traceparent[3:35], 16), int(traceparent[36:52], 16), int(traceparent[53:], 16)
        caller = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
        return trace.set_span_in_context(NonRecordingSpan(caller), _NOTHING) if caller.is_valid else None


def _arrived_nanos(text: Optional[str]) -> Optional[int]:
    if text is None or len(text) > _MAX_START_CHARACTERS:
        return None
    form = _REQUEST_START_FORM.fullmatch(text.strip())
    if form is None:
        return None
    whole, fraction = form[1], form[2] or ""
    unit = _NANOS_BY_DIGITS.get(len(whole))
    if unit is None:
        return None
    nanos = int(whole) * unit + int(fraction.ljust(9, "0")) * unit // 10**9
    # A clock that is ahead of ours, or a value from somewhere else, says nothing about a queue.
    return nanos if 0 <= time.time_ns() - nanos <= _MAX_QUEUE_NANOS else None


class _HeaderGetter(Getter[Mapping[str, str]]):
    """Finds a header however a propagator spells it: names of HTTP headers have no case. What is hostile is absent."""

    def get(self, carrier: Mapping[str, str], key: str) -> Optional[list[str]]:
        name = key.lower()
        value = carrier.get(name)
        return None if value is None or not _is_usable(name, value) else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


def _is_usable(name: str, value: str) -> bool:
    return (
        len(value) <= _MAX_CHARACTERS.get(name, _MOST_CHARACTERS)
        and value.isascii()
        # Tabs are white space around members, not more.
        and value.replace("\t", "").isprintable()
        and (name not in _MAX_MEMBERS or value.count(",") < _MAX_MEMBERS[name])
    )


_NOTHING: Final = otel_context.Context()
_HEADERS: Final = _HeaderGetter()
