"""The spans that this package makes by itself: what the SDK's would be, and made by the same rules."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_spans_officially
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider, _TracerConfig
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from forked import in_forked_child
from ts_otel_logging import _names
from ts_otel_logging._sdk._otlp_encoder import encode_spans
from ts_otel_logging._sdk._request_spans import RequestSpan, RequestTracerProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RESOURCE = Resource({"service.name": "torchserve"})


class Ids(IdGenerator):
    """Counts, so that two providers give the same."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def generate_trace_id(self) -> int:
        return next(self._numbers) << 64 | 0x1234

    def generate_span_id(self) -> int:
        return next(self._numbers)

    def is_trace_id_random(self) -> bool:
        return True


class Seen(SpanProcessor):
    """What a user's processor gets."""

    def __init__(self) -> None:
        self.started: list[tuple[trace.Span, Context | None]] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: sdk_trace.Span, parent_context: Context | None = None) -> None:
        self.started.append((span, parent_context))

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


class Tells(str):
    """A text of its own kind."""

    __slots__ = ()


class Model:
    """No attribute value, but it has a text."""

    def __str__(self) -> str:
        return "digits"


class Side:
    """One of the two providers that a scenario is played with."""

    def __init__(self, provider_class: Callable[..., TracerProvider], **options: Any) -> None:
        options = {"sampler": ALWAYS_ON, "resource": RESOURCE, "id_generator": Ids(), **options}
        self.provider = provider_class(shutdown_on_exit=False, **options)
        self.seen = Seen()
        self.provider.add_span_processor(self.seen)
        self.tracer = self.provider.get_tracer(_names.SCOPE_NAME, "1", _names.SCHEMA_URL)


def both(**options: Any) -> tuple[Side, Side]:
    """The SDK's provider and ours, alike."""
    return Side(TracerProvider, **options), Side(RequestTracerProvider, **options)


def message(span: ReadableSpan) -> bytes:
    """What the official encoder makes of it, and ours too."""
    official = encode_spans_officially([span])
    assert ExportTraceServiceRequest.FromString(encode_spans([span])) == official
    encoded: bytes = official.SerializeToString(deterministic=True)
    return encoded


plain = st.one_of(st.text(max_size=6), st.integers(-(2**62), 2**62), st.booleans(), st.floats(allow_nan=False))
values = st.one_of(
    plain,
    plain,
    st.builds(Tells, st.text(max_size=6)),
    st.builds(Model),
    st.none(),
    st.lists(st.text(max_size=3), max_size=3),
    st.lists(st.one_of(st.integers(0, 9), st.text(max_size=2)), max_size=2).map(tuple),
)
keys = st.one_of(st.sampled_from(["a", "b", "c"]), st.text(max_size=3))
attributes = st.one_of(st.none(), st.dictionaries(keys, values, max_size=5))
nanos = st.integers(1, 2**62)
contexts = st.builds(
    lambda trace_id, span_id, flags: SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags)),
    st.integers(0, 2**128 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 3),
)
statuses = st.one_of(
    st.tuples(st.sampled_from(StatusCode), st.none()),
    st.tuples(st.just(StatusCode.ERROR), st.text(max_size=5)),
    st.tuples(st.just(Status(StatusCode.ERROR, "failed")), st.none()),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set_attribute"), keys, values),
        st.tuples(st.just("set_attributes"), st.dictionaries(keys, values, max_size=3)),
        st.tuples(st.just("add_event"), st.text(max_size=5), attributes, nanos),
        st.tuples(st.just("add_link"), contexts, attributes),
        st.tuples(st.just("set_status"), statuses),
        st.tuples(st.just("update_name"), st.text(max_size=5)),
        st.tuples(st.just("end"), nanos),
        st.tuples(st.just("look")),
    ),
    max_size=8,
)
counts = st.one_of(st.none(), st.integers(0, 3), st.just(SpanLimits.UNSET))
limits = st.builds(
    SpanLimits,
    max_attributes=counts,
    max_events=counts,
    max_links=counts,
    max_span_attributes=counts,
    max_event_attributes=counts,
    max_link_attributes=counts,
    max_attribute_length=counts,
    max_span_attribute_length=counts,
)


def play(  # noqa: PLR0913, PLR0917 - a scenario
    side: Side,
    name: str,
    kind: SpanKind,
    at_start: Any,
    links: Sequence[Any],
    actions: Sequence[Any],
    *,
    is_child: bool,
) -> Any:
    """Make a span, do things with it, and tell what was seen meanwhile and in the end."""
    made_links = [Link(context, link_attributes) for context, link_attributes in links]
    parent = remote(1) if is_child else Context()
    span: Any = side.tracer.start_span(name, parent, kind, at_start, made_links, 1_000)
    looks: list[Any] = []
    for action, *arguments in actions:
        if action == "look":
            looks.append(
                (dict(span.attributes), len(span.events), len(span.links), span.is_recording(), span.to_json())
            )
        elif action == "set_status":
            span.set_status(*arguments[0])
        else:
            getattr(span, action)(*arguments)
    span.end(5_000)
    (ended,) = side.seen.ended
    dropped = ended.dropped_attributes, ended.dropped_events, ended.dropped_links
    return looks, ended.to_json(), message(ended), dropped, dict(ended.attributes or {}), ended.instrumentation_scope


def usual(**changes: Any) -> Any:
    """An example that is ordinary but for this."""
    ordinary = {"at_start": None, "actions": [], "span_limits": SpanLimits(), **changes}
    return example(name="predict", kind=SpanKind.SERVER, links=[], is_child=True, **ordinary)


@given(
    is_child=st.booleans(),
    name=st.text(max_size=8),
    kind=st.sampled_from(SpanKind),
    at_start=attributes,
    links=st.lists(st.tuples(contexts, attributes), max_size=3),
    actions=steps,
    span_limits=limits,
)
@usual(at_start={"a": 1}, actions=[("set_attribute", "b", 2), ("set_attribute", "a", 3)])
@usual(at_start={"a": 1, "b": 2, "c": 3}, span_limits=SpanLimits(max_span_attributes=2))
@usual(at_start={"a": "digits"}, span_limits=SpanLimits(max_span_attribute_length=3))
@usual(at_start={"a": ["digits"]})
@usual(at_start={"": 1, "a": 2})
@usual(actions=[("set_attribute", "", 1)])
@usual(actions=[("set_attribute", "a", ["digits"])])
def test_a_span_is_what_the_sdk_would_make(  # noqa: PLR0913, PLR0917 - a scenario
    name: str, kind: SpanKind, at_start: Any, links: Any, actions: Any, span_limits: SpanLimits, *, is_child: bool
) -> None:
    stock, ours = both(span_limits=span_limits)
    expected = play(stock, name, kind, at_start, links, actions, is_child=is_child)
    assert play(ours, name, kind, at_start, links, actions, is_child=is_child) == expected
    ((started, _),) = ours.seen.started
    assert type(started) is RequestSpan


class Adds(Sampler):
    """Decides by the name, and has something to say."""

    def should_sample(  # noqa: PLR0913, PLR0917 - the base class's
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        return SamplingResult(Decision[name], {**(attributes or {}), "sampler": str(kind)}, TraceState([("by", "us")]))

    def get_description(self) -> str:
        return "Adds"


class Contrary(ParentBased):
    """Keeps what the default one keeps, and decides otherwise."""

    def should_sample(self, *_args: Any, **_kwargs: Any) -> SamplingResult:
        return SamplingResult(Decision.DROP)


SAMPLERS = {
    "parentbased_always_on": ParentBased(ALWAYS_ON),
    "parentbased_always_off": ParentBased(ALWAYS_OFF),
    "parentbased_traceidratio": ParentBasedTraceIdRatio(0.5),
    "always_on": ALWAYS_ON,
    "always_off": ALWAYS_OFF,
    "traceidratio": TraceIdRatioBased(0.5),
    "remote parents do not count": ParentBased(ALWAYS_OFF, remote_parent_sampled=ALWAYS_OFF),
    "local parents do not count": ParentBased(ALWAYS_OFF, local_parent_not_sampled=ALWAYS_ON),
    "adds": Adds(),
    "of its own": Contrary(ALWAYS_ON),
}
NAMES = [decision.name for decision in Decision]


def remote(flags: int, trace_id: int = 7 << 64) -> Context:
    state = TraceState([("vendor", "1")])
    context = SpanContext(trace_id, 9, is_remote=True, trace_flags=TraceFlags(flags), trace_state=state)
    return trace.set_span_in_context(NonRecordingSpan(context), Context())


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "context",
    [Context(), remote(1, trace_id=0), *(remote(flags) for flags in (0, 1, 2, 3, 255))],
    ids=["root", "invalid", "0", "1", "2", "3", "255"],
)
def test_whether_a_span_is_sampled_is_the_samplers_decision(sampler: Sampler, name: str, context: Context) -> None:
    made = []
    for side in both(sampler=sampler):
        span = side.tracer.start_span(name, context, SpanKind.SERVER, {"model": "digits"})
        child = side.tracer.start_span(name, trace.set_span_in_context(span, context))
        by_a_user = side.provider.get_tracer("theirs").start_span(name, trace.set_span_in_context(child, context))
        last = side.tracer.start_span(name, trace.set_span_in_context(by_a_user, context))
        spans = [span, child, by_a_user, last]
        for each in spans:
            each.end(2**60)
        made.append(
            [
                (
                    each.get_span_context(),
                    each.is_recording(),
                    getattr(each, "parent", 0),
                    getattr(each, "attributes", 0),
                )
                for each in spans
            ]
        )
    assert made[0] == made[1]


class TestProviders:
    def test_spans_of_users_are_the_sdks(self) -> None:
        _, ours = both()
        span = ours.provider.get_tracer("theirs").start_span("look up")
        assert type(span) is not RequestSpan
        assert isinstance(span, sdk_trace.Span)

    def test_a_release_with_other_parts_makes_its_own_spans(self, monkeypatch: pytest.MonkeyPatch) -> None:
        init = sdk_trace.Span.__init__

        def with_more(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            self._part_of_a_later_release = 1

        monkeypatch.setattr(sdk_trace.Span, "__init__", with_more)
        _, ours = both()
        assert type(ours.tracer.start_span("predict")) is not RequestSpan

    def test_a_disabled_tracer_gives_its_parent(self) -> None:
        _, ours = both()
        ours.provider._set_tracer_configurator(tracer_configurator=lambda _scope: _TracerConfig(is_enabled=False))
        assert ours.tracer.start_span("predict", remote(1)).get_span_context().span_id == 9
        assert not ours.tracer.start_span("predict", remote(1)).is_recording()

    def test_a_fork_changes_the_resource_as_the_sdks(self) -> None:
        _, ours = both()

        def resources() -> list[dict[str, Any]]:
            tracers: Any = ours.tracer, ours.provider.get_tracer("theirs")
            return [dict(tracer.start_span("s").resource.attributes) for tracer in tracers]

        own, theirs = in_forked_child(resources)
        assert own == theirs


class TestProcessors:
    def test_see_a_live_span_first_and_a_finished_one_last(self) -> None:
        _, ours = both()
        with ours.tracer.start_as_current_span("predict") as span:
            assert ours.seen.started == [(span, None)]
            assert span.is_recording()
        (ended,) = ours.seen.ended
        assert isinstance(ended, ReadableSpan)
        assert ended.attributes == {}
        span.set_attribute("late", 1)
        span.set_attributes({"late": 1})
        span.add_event("late")
        span.add_link(SpanContext(1, 2, is_remote=False))
        span.update_name("late")
        span.set_status(StatusCode.ERROR)
        span.end()
        assert "late" not in ended.to_json()
        assert (ended.status.status_code, len(ours.seen.ended)) == (StatusCode.UNSET, 1)

    def test_are_told_that_a_span_is_about_to_end(self) -> None:
        _, ours = both()
        told: list[Any] = []

        class Ending(SpanProcessor):
            def _on_ending(self, span: sdk_trace.Span) -> None:
                told.append((span.name, len(ours.seen.ended)))

        ours.provider.add_span_processor(Ending())
        ours.tracer.start_span("predict").end()
        ours.provider.get_tracer("theirs").start_span("look up").end()
        assert told == [("predict", 0), ("look up", 1)]

    def test_need_not_know_of_the_end_that_is_near(self) -> None:
        _, ours = both()

        class Older:
            ended: list[str] = []  # noqa: RUF012 - one of it

            def on_start(self, span: Any, parent_context: Any = None) -> None:
                pass

            def on_end(self, span: Any) -> None:
                self.ended.append(span.name)

        ours.provider.add_span_processor(Older())  # type: ignore[arg-type]
        ours.tracer.start_span("predict").end()
        ours.provider.get_tracer("theirs").start_span("look up").end()
        assert Older.ended == ["predict", "look up"]


def test_an_exception_is_told_as_the_sdk_tells_it() -> None:
    told = []
    for side in both():
        with pytest.raises(ZeroDivisionError), side.tracer.start_as_current_span("predict"):
            1 / 0  # noqa: B018 - raises
        (ended,) = side.seen.ended
        (event,) = ended.events
        told.append((ended.status.description, ended.status.status_code, event.name, {**(event.attributes or {})}))
    assert told[0] == told[1]


def test_threads_lose_nothing_of_a_span_that_is_looked_at() -> None:
    _, ours = both()
    span: Any = ours.tracer.start_span("predict")
    begin = threading.Barrier(5)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        begin.wait()
        try:
            for index in range(30):
                span.set_attribute(f"{number}.{index}", index if index % 7 else [index])
                span.add_event(f"{number}.{index}")
                list(span.attributes.items())
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    begin.wait()
    for thread in threads:
        thread.join()
    span.end()
    assert failures == []
    (ended,) = ours.seen.ended
    assert len(ended.attributes or {}) == 4 * 30
    assert len(ended.events) == 4 * 30
