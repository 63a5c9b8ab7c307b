"""The spans that this package makes by itself, for a third of what the SDK's cost (docs/adr/017-spans-of-our-own.md).

A `RequestSpan` is one of the SDK's and does what those do. It only leaves out what an ordinary span never uses: until
an attribute is anything but a text, a number or a truth value, its attributes are a plain dict; until it has an event
or a link, it has no list for them. With the first that is out of the ordinary it takes the SDK's own parts and rules.
"""

from __future__ import annotations

import copy
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Span, SpanProcessor, SynchronousMultiSpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, Sampler
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import DEFAULT_TRACE_STATE

from ts_otel_logging import _names
from ts_otel_logging._sdk._ids import SystemIdGenerator
from ts_otel_logging._spans import SPAN_KEY

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Link

# What the SDK takes as it is; whatever else, also a subclass of these, it shall look at itself.
_PLAIN: Final = frozenset({str, int, float, bool})
_SAMPLED: Final = 0x01
# https://www.w3.org/TR/trace-context-2/#random-trace-id-flag, which older SDKs do not know.
_RANDOM: Final = 0x02 if hasattr(IdGenerator, "is_trace_id_random") else 0x00
_KEPT_FLAGS: Final = _SAMPLED | _RANDOM
_FLAGS: Final = tuple(TraceFlags(flags) for flags in range(4))
UNSET: Final = Status(StatusCode.UNSET)
NOTHING_DROPPED: Final = (0, 0, 0)
# Of the parts of a span's context, which are a tuple: `_has_known_parts` compares.
_FLAGS_PART: Final = 3


class RequestSpan(Span):
    """A span of the SDK's. Use `RequestTracer`, which knows whether this release of the SDK allows for it.

    Args:
        tracer: Whose span it is.
        resource: Who makes it.
        name: Its name.
        context: Its ids.
        parent: Its parent's, or None.
        kind: Its kind.
        attributes: Its attributes.
        links: Its links.
        start_time: When it began, in nanoseconds since the epoch.
        record_exception: Whether an exception that leaves its ``with`` block becomes an event.
        set_status_on_exception: Whether that becomes its status.

    Attributes:
        is_sampled: Whether its ids say that it leaves.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - as the SDK's
        self,
        tracer: RequestTracer,
        resource: Resource,
        name: str,
        context: SpanContext,
        parent: Optional[SpanContext],
        kind: SpanKind,
        attributes: Optional[Mapping[str, Any]],
        links: Sequence[Link],
        start_time: int,
        record_exception: bool,  # noqa: FBT001 - as the SDK's
        set_status_on_exception: bool,  # noqa: FBT001 - as the SDK's
    ) -> None:
        # Every part that a span of the SDK has: `_has_known_parts` compares. The base classes' constructors would make
        # half of them for nothing.
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._resource = resource
        self._instrumentation_info = tracer.instrumentation_info
        self._instrumentation_scope = tracer._instrumentation_scope  # noqa: SLF001 - one room
        self._sampler = tracer.sampler
        self._span_processor = tracer.span_processor
        self._limits = tracer._span_limits  # noqa: SLF001 - one room
        self._trace_config = None
        self._record_exception = record_exception
        self._set_status_on_exception = set_status_on_exception
        self._record_end_metrics = None
        self._start_time = start_time
        self._end_time = None
        self._status = UNSET
        self._lock = threading.Lock()
        self._events: Any = ()
        self._links: Any = self._new_links(links) if links else ()
        parts: Any = context
        self.is_sampled = parts[_FLAGS_PART] & _SAMPLED != 0
        self._max_plain_attributes = tracer.max_plain_attributes
        self._attributes: Any = dict(attributes) if attributes else {}
        if attributes and not self._is_plain(self._attributes):
            self._attributes = self._bounded(attributes)

    def _is_plain(self, attributes: dict[str, Any]) -> bool:
        if len(attributes) > self._max_plain_attributes:
            return False
        for key, value in attributes.items():
            if type(value) not in _PLAIN or type(key) is not str or not key:
                return False
        return True

    def _bounded(self, attributes: Mapping[str, Any]) -> BoundedAttributes:
        limits = self._limits
        return BoundedAttributes(
            limits.max_span_attributes, attributes, immutable=False, max_value_len=limits.max_span_attribute_length
        )

    def _bound_attributes(self) -> None:
        with self._lock:
            if self._end_time is None and type(self._attributes) is dict:
                self._attributes = self._bounded(self._attributes)

    def get_span_context(self) -> SpanContext:
        """Return its ids."""
        # The base class's asks a type checker's function to look at them.
        context: Any = self._context
        found: SpanContext = context
        return found

    @property
    def attributes(self) -> Any:
        """Its attributes; those of a live span show what is set later, and may be looked at while it is."""
        if self._end_time is None:
            self._bound_attributes()
        return super().attributes

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute."""
        with self._lock:
            attributes = self._attributes
            if (
                type(attributes) is dict
                and self._end_time is None
                and type(value) in _PLAIN
                and type(key) is str
                and key
                and len(attributes) < self._max_plain_attributes
            ):
                # As the SDK's mapping: what is set again becomes the youngest.
                attributes.pop(key, None)
                attributes[key] = value
                return
        self._bound_attributes()
        super().set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes."""
        self._bound_attributes()
        super().set_attributes(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: Optional[int] = None) -> None:
        """Add an event."""
        with self._lock:
            if type(self._events) is tuple:
                self._events = BoundedList(self._limits.max_events)
        super().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Add a link."""
        with self._lock:
            if type(self._links) is tuple:
                self._links = BoundedList(self._limits.max_links)
        super().add_link(context, attributes)

    def end(self, end_time: Optional[int] = None) -> None:
        """End it; its processors get the span itself, which nothing changes any more."""
        with self._lock:
            is_plain = self._end_time is None and type(self._attributes) is dict
            if is_plain:
                self._end_time = time.time_ns() if end_time is None else end_time
        if is_plain:
            processors = self._span_processor
            if type(processors) is not SpanProcessors or processors.ending:
                processors._on_ending(self)  # noqa: SLF001 - as the SDK's
            processors.on_end(self)
        else:
            super().end(end_time)

    def parts(self) -> tuple[Any, ...]:
        """Return what it is made of, for those to whom twenty calls of properties are dear.

        Returns:
            Its trace id, span id and trace state; its parent's span id and whether that is remote, None and False
            without one; its name, kind, start, end, status, attributes, events and links; and how many attributes,
            events and links were dropped.
        """
        context: Any = self._context
        parent: Any = self._parent
        trace_id, span_id, _, _, trace_state, _ = context
        parent_id, is_remote = None, False
        if parent is not None:
            _, parent_id, is_remote, _, _, _ = parent
        attributes, events, links = self._attributes, self._events, self._links
        dropped = NOTHING_DROPPED
        if type(attributes) is not dict or type(events) is not tuple or type(links) is not tuple:
            dropped = self.dropped_attributes, self.dropped_events, self.dropped_links
        return (
            trace_id, span_id, trace_state, parent_id, is_remote, self._name, self._kind, self._start_time,
            self._end_time, self._status, attributes, events, links, dropped,
        )  # fmt: skip

    def is_clean(self, clean: Container[str], hidden: Mapping[str, bool], masked: Callable[[str], str]) -> bool:
        """Return whether it is an ordinary span, without an event, a link or a status, that has no secrets.

        Args:
            clean: Texts that have none.
            hidden: Whether a key hides its value.
            masked: Returns a text with its secrets masked; the same object if there are none.
        """
        name, attributes = self._name, self._attributes
        if self._events or self._links or self._status is not UNSET or type(attributes) is not dict:
            return False
        if name not in clean and masked(name) is not name:
            return False
        for key, value in attributes.items():
            if hidden[key]:
                return False
            if type(value) is str and value not in clean and masked(value) is not value:
                return False
        return True


class SpanProcessors(SynchronousMultiSpanProcessor):
    """Calls what the provider's processors have of their own: most do nothing when a span starts or is about to end.

    Attributes:
        starting: Those that do something when a span starts.
        ending: Those that do something when a span is about to end.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.starting: tuple[SpanProcessor, ...] = ()
        self.ending: tuple[SpanProcessor, ...] = ()

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Take one more."""
        super().add_span_processor(span_processor)
        with self._lock:
            self.starting = tuple(known for known in self._span_processors if _has_own(known, "on_start"))
            self.ending = tuple(known for known in self._span_processors if _has_own(known, "_on_ending"))

    def on_start(self, span: Span, parent_context: Optional[Context] = None) -> None:
        """Tell who wants to know."""
        for processor in self.starting:
            processor.on_start(span, parent_context=parent_context)

    def _on_ending(self, span: Span) -> None:
        for processor in self.ending:
            processor._on_ending(span)  # noqa: SLF001 - as the base class


def _has_own(processor: SpanProcessor, method: str) -> bool:
    # A processor of a class of its own may have none at all: the SDK would raise into the code around the span.
    found = getattr(processor, method, None)
    return found is not None and getattr(found, "__func__", None) is not getattr(SpanProcessor, method)


class RequestTracer(Tracer):
    """A tracer of the SDK's that makes `RequestSpan`s, by the same sampler, ids, limits and processors.

    Args:
        tracer: The SDK's.
    """

    def __init__(self, tracer: Tracer) -> None:
        vars(self).update(vars(tracer))
        # A provider tells only its own tracers that they are off, or that the resource has changed.
        self._known = tracer
        self._follower = tracer.sampler if _follows_parents(tracer.sampler) else None
        # The default sampler's; what it adds to a span is nothing.
        self._keeps_roots = getattr(self._follower, "_root", None) is ALWAYS_ON
        self._root_flags = _SAMPLED | _random_flag(tracer.id_generator)
        limits = tracer._span_limits  # noqa: SLF001 - a tracer has no other way to its provider's
        count = limits.max_span_attributes
        # Where texts are cut, the SDK has to look at each.
        self.max_plain_attributes = 0 if limits.max_span_attribute_length is not None else sys.maxsize
        if count is not None:
            self.max_plain_attributes = min(self.max_plain_attributes, count)

    def start_span(  # noqa: PLR0913, PLR0917 - the base class's
        self,
        name: str,
        context: Optional[Context] = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Optional[Sequence[Link]] = (),
        start_time: Optional[int] = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002 - the base class's
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002 - the base class's
    ) -> trace.Span:
        """Start a span, as the base class does."""
        current = otel_context.get_current() if context is None else context
        parent_span = current.get(SPAN_KEY)
        parent: Any
        if type(parent_span) is RequestSpan:
            parent = parent_span._context  # noqa: SLF001 - one room
        else:
            parent = trace.get_current_span(current).get_span_context()
            if not isinstance(parent, SpanContext) or not parent.is_valid:
                parent = None
        if not self._known._is_enabled():  # noqa: SLF001 - the base class's own way
            return NonRecordingSpan(parent or trace.INVALID_SPAN_CONTEXT)
        sampler, ids = self.sampler, self.id_generator
        trace_state: Any
        if sampler is self._follower and (parent is not None or self._keeps_roots):
            if parent is None:
                trace_id, flags, trace_state = ids.generate_trace_id(), self._root_flags, DEFAULT_TRACE_STATE
            else:
                trace_id, _, _, flags, trace_state, _ = parent
            is_recording = flags & _SAMPLED
            # Made in one step: `_has_known_parts` compares.
            parts = trace_id, ids.generate_span_id(), False, _FLAGS[flags & _KEPT_FLAGS], trace_state, True
            span_context = tuple.__new__(SpanContext, parts)
        else:
            trace_id = ids.generate_trace_id() if parent is None else parent.trace_id
            result = sampler.should_sample(context, trace_id, name, kind, attributes, links or ())
            attributes, trace_state = result.attributes, result.trace_state
            is_recording = result.decision is not Decision.DROP
            flags = _random_flag(ids) if parent is None else parent.trace_flags & _RANDOM
            if result.decision is Decision.RECORD_AND_SAMPLE:
                flags |= _SAMPLED
            is_remote = False
            span_context = SpanContext(trace_id, ids.generate_span_id(), is_remote, _FLAGS[flags], trace_state)
        if not is_recording:
            return NonRecordingSpan(span_context)
        span = RequestSpan(
            self,
            self._known.resource,
            name,
            span_context,
            parent,
            kind,
            attributes,
            links or (),
            time.time_ns() if start_time is None else start_time,
            record_exception,
            set_status_on_exception,
        )
        processors = self.span_processor
        if type(processors) is not SpanProcessors or processors.starting:
            processors.on_start(span, parent_context=context)
        return span


class RequestTracerProvider(TracerProvider):
    """The SDK's provider, whose tracer for this package's own scope makes `RequestSpan`s; all others are the SDK's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(active_span_processor=SpanProcessors(), **kwargs)

    def get_tracer(self, instrumenting_module_name: str, *args: Any, **kwargs: Any) -> trace.Tracer:
        """Return a tracer."""
        tracer = super().get_tracer(instrumenting_module_name, *args, **kwargs)
        if instrumenting_module_name == _names.SCOPE_NAME and isinstance(tracer, Tracer) and _has_known_parts(tracer):
            return RequestTracer(tracer)
        return tracer


def _random_flag(ids: IdGenerator) -> int:
    return _RANDOM if _RANDOM and ids.is_trace_id_random() else 0


def _follows_parents(sampler: Sampler) -> bool:
    """Return whether a sampler decides for every span with a parent as was decided for that one, and adds nothing."""
    if not isinstance(sampler, ParentBased) or type(sampler).should_sample is not ParentBased.should_sample:
        return False
    # A sampler that keeps these elsewhere is asked for each span.
    return all(
        getattr(sampler, f"_{place}_parent_{sampled}", None) is decision
        for place in ("local", "remote")
        for sampled, decision in (("sampled", ALWAYS_ON), ("not_sampled", ALWAYS_OFF))
    )


def _has_known_parts(tracer: Tracer) -> bool:
    """Return whether this release of the SDK makes spans and contexts of the parts that we know."""
    stock = copy.copy(tracer)
    stock.sampler, stock.span_processor, stock.id_generator = ALWAYS_ON, SpanProcessors(), SystemIdGenerator()
    span = stock.start_span("", otel_context.Context())
    own = RequestTracer(stock).start_span("", otel_context.Context())
    is_remote = False
    context = SpanContext(1, 2, is_remote)
    parts = 1, 2, is_remote, context.trace_flags, context.trace_state, context.is_valid
    return vars(span).keys() <= vars(own).keys() and tuple(context) == parts
