"""What a caller's headers do to a request: its trace, its sampling, its baggage, and when it arrived."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, ParentBasedTraceIdRatio, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from in_memory_worker import Worker
from in_process import load_model, make_request, predict
from otlp_receiver import OtlpReceiver
from sdk_room import room
from ts_otel_logging._sdk._error_sampling import ErrorSampling, RecordingSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER}-01"
UNSAMPLED = f"00-{TRACE_ID}-{CALLER}-00"
HANDLER = """
    import json, logging
    from opentelemetry import baggage, propagate
    from ts.torch_handler.base_handler import BaseHandler
    import ts_otel_logging

    class Handler(BaseHandler):
        def initialize(self, context): self.initialized = True
        def preprocess(self, data): return [row["body"].decode() for row in data]
        def inference(self, data):
            logging.info("in inference")
            outgoing = {}
            propagate.inject(outgoing)
            with ts_otel_logging.span("tokenize"): pass
            if "fail" in data: raise ValueError("no")
            return [json.dumps([dict(baggage.get_all()), outgoing])] * len(data)
        def postprocess(self, data): return data
"""


def send(worker: Worker, headers: Mapping[str, str], *, body: bytes = b"x", **options: Any) -> Any:
    """One request; gives the handler's baggage and what it would send to others."""
    with worker.patched(**options):
        (reply,) = predict(load_model(HANDLER), make_request(body, headers, request_id="r1"))
    return reply


def line(worker: Worker) -> dict[str, Any]:
    (found,) = [line for line in worker.lines.objects if line["event"] == "in inference"]
    return found


CALLERS_HEADERS = {"traceparent": TRACEPARENT, "tracestate": "acme=1", "baggage": "user=alice"}


class TestTrust:
    def test_a_parent_is_continued_with_its_baggage(self, worker: Worker) -> None:
        reply = send(worker, CALLERS_HEADERS, trust="parent")
        root = worker.span("predict tiny")
        assert (format(root.context.trace_id, "032x"), format(root.parent.span_id, "016x")) == (TRACE_ID, CALLER)
        assert b'"user": "alice"' in reply.body
        assert b'"tracestate": "acme=1"' in reply.body
        assert root.links == ()
        # Never on lines or spans.
        assert "alice" not in worker.lines.getvalue()
        assert not [span for span in worker.spans if "alice" in str(dict(span.attributes))]

    def test_a_link_leads_to_the_caller_and_nothing_else_comes_from_it(self, worker: Worker) -> None:
        reply = send(worker, CALLERS_HEADERS, trust="link")
        root = worker.span("predict tiny")
        assert root.parent is None
        assert format(root.context.trace_id, "032x") != TRACE_ID
        (link,) = root.links
        assert (format(link.context.trace_id, "032x"), format(link.context.span_id, "016x")) == (TRACE_ID, CALLER)
        assert b"alice" not in reply.body
        assert b"acme=1" not in reply.body
        assert TRACE_ID not in reply.body.decode()
        assert line(worker)["trace_id"] == format(root.context.trace_id, "032x")

    def test_a_link_leaves_sampling_to_ourselves(self) -> None:
        sampled = Worker(TracerProvider(sampler=DEFAULT_ON, shutdown_on_exit=False))
        send(sampled, {"traceparent": UNSAMPLED}, trust="link")
        assert sampled.span("predict tiny").links
        none = Worker(TracerProvider(sampler=ParentBasedTraceIdRatio(0.0), shutdown_on_exit=False))
        send(none, {"traceparent": TRACEPARENT}, trust="link")
        assert [span.name for span in none.spans] == []

    def test_a_link_to_nobody_is_none(self, worker: Worker) -> None:
        send(worker, {"traceparent": "rubbish"}, trust="link")
        assert worker.span("predict tiny").links == ()

    def test_ignore_means_that_no_header_says_anything(self, worker: Worker) -> None:
        reply = send(worker, {**CALLERS_HEADERS, "x-request-start": f"t={time.time() - 5:.3f}"}, trust="ignore")
        root = worker.span("predict tiny")
        assert (root.parent, root.links) == (None, ())
        assert b"alice" not in reply.body
        assert TRACE_ID not in reply.body.decode() + worker.lines.getvalue()
        assert not worker.points("torchserve.queue.duration")


THOUSANDS = ",".join(f"k{number}=v" for number in range(5_000))
HOSTILE = [
    {"traceparent": "0" * 65_536},
    {"traceparent": f"01-{TRACE_ID}-{CALLER}-01-" + "a" * 65_536},
    {"traceparent": f"ff-{TRACE_ID}-{CALLER}-01"},
    {"traceparent": f"00-{TRACE_ID}-{CALLER}-01-more"},
    {"traceparent": f"0-{TRACE_ID}-{CALLER}-01"},
    {"traceparent": f"00-{TRACE_ID.upper()}-{CALLER}-01"},
    {"traceparent": f"00-{TRACE_ID}-{'0' * 16}-01"},
    {"traceparent": f"00-{TRACE_ID}-{CALLER}-01\x00"},
    {"traceparent": f"00-{TRACE_ID}-{CALLER}-01\r\nx: y"},
    {"traceparent": f"00-{TRACE_ID}-{CALLER}-0\N{ARABIC-INDIC DIGIT ONE}"},
    {"traceparent": THOUSANDS, "tracestate": THOUSANDS, "baggage": THOUSANDS},
]


class TestHostileHeaders:
    @pytest.mark.parametrize("headers", HOSTILE, ids=[str(number) for number in range(len(HOSTILE))])
    def test_a_new_trace_and_not_a_word(self, worker: Worker, headers: dict[str, str]) -> None:
        reply = send(worker, headers)
        assert reply.status_code == 200
        root = worker.span("predict tiny")
        assert root.parent is None
        assert format(root.context.trace_id, "032x") != TRACE_ID
        assert {line["logger"] for line in worker.lines.objects} == {"root", "ts.metrics.caching_metric"}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("tracestate", "a=" + "b" * 65_536),
            ("tracestate", THOUSANDS[:5_000]),
            ("tracestate", "a=b\x00c"),
            ("baggage", "a=" + "b" * 65_536),
            ("baggage", THOUSANDS[:5_000]),
            ("baggage", "a=b\u2028c"),
        ],
        ids=str,
    )
    def test_what_is_wrong_beside_the_parent_is_left_out(self, worker: Worker, name: str, value: str) -> None:
        # https://www.w3.org/TR/trace-context/#tracestate-header: it must not affect the parsing of traceparent.
        reply = send(worker, {"traceparent": TRACEPARENT, name: value})
        assert format(worker.span("predict tiny").context.trace_id, "032x") == TRACE_ID
        assert b"tracestate" not in reply.body
        assert reply.body.startswith(b"[{}, ")
        assert {line["logger"] for line in worker.lines.objects} == {"root", "ts.metrics.caching_metric"}

    def test_they_cost_no_more_than_none(self, worker: Worker) -> None:
        """Counted in calls of functions: a clock says nothing on a loaded machine."""
        with worker.patched():
            service = load_model(HANDLER)

            def calls(headers: dict[str, str]) -> int:
                request = make_request(b"x", headers)
                count = 0

                def profile(_frame: Any, event: str, _argument: Any) -> None:
                    nonlocal count
                    count += event in ("call", "c_call")

                sys.setprofile(profile)
                try:
                    predict(service, request)
                finally:
                    sys.setprofile(None)
                return count

            calls({})
            ordinary = calls({"traceparent": "no", "tracestate": "a=b", "baggage": "a=b"})
            for headers in HOSTILE:
                assert calls(headers) <= ordinary + 40

    def test_members_that_are_no_members_are_told_once(self) -> None:
        """OpenTelemetry warns of each one, which would be 180 lines a request."""
        with room(
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
        ) as sdk:
            worker = Worker(sdk.providers.tracer_provider)
            with worker.patched():
                service = load_model(HANDLER)
                for _ in range(20):
                    wrong = ",".join(["no member"] * 100)
                    predict(
                        service, make_request(b"x", {"traceparent": TRACEPARENT, "tracestate": wrong, "baggage": wrong})
                    )
        told = [line for line in worker.lines.objects if line["logger"].startswith("opentelemetry")]
        assert told == []
        assert 0 < len(sdk.events()) <= 3


class TestRequestStart:
    FORMS: tuple[tuple[str, Callable[[int], str]], ...] = (
        ("nginx", lambda nanos: f"t={nanos // 10**9}.{nanos // 10**6 % 1000:03}"),
        ("without t", lambda nanos: f"{nanos // 10**9}.{nanos // 10**6 % 1000:03}"),
        ("whole seconds", lambda nanos: f"t={nanos // 10**9}"),
        ("heroku", lambda nanos: str(nanos // 10**6)),
        ("envoy", lambda nanos: f"t={nanos // 10**3}"),
        ("seconds with microseconds", lambda nanos: f"t={nanos // 10**9}.{nanos // 10**3 % 10**6:06}"),
    )

    @pytest.mark.parametrize(("name", "form"), FORMS, ids=[name for name, _ in FORMS])
    def test_the_time_since_then_is_the_queue(self, worker: Worker, name: str, form: Callable[[int], str]) -> None:
        arrived = (time.time_ns() - 2 * 10**9) // 10**6 * 10**6
        if name == "whole seconds":
            arrived = arrived // 10**9 * 10**9
        send(worker, {"X-Request-Start": form(arrived), "traceparent": TRACEPARENT})
        root = worker.span("predict tiny")
        queue = worker.children(root)[0]
        assert (queue.name, queue.kind) == ("queue", SpanKind.INTERNAL)
        assert root.start_time == queue.start_time == arrived
        assert queue.end_time <= worker.span("preprocess").start_time
        (point,) = worker.points("torchserve.queue.duration")
        assert point.count == 1
        assert point.sum == pytest.approx((queue.end_time - queue.start_time) / 1e9)
        assert point.sum >= 2.0
        assert dict(point.attributes) == {"torchserve.model.name": "tiny", "torchserve.model.version": "1.0"}
        assert point.exemplars[0].span_id == root.context.span_id
        # It is measured from the worker's receipt.
        assert worker.points("torchserve.request.duration")[0].sum < (root.end_time - root.start_time) / 1e9 - 1.9

    @pytest.mark.parametrize(
        "value",
        [
            "", "t=", "soon", "t=-5", "0", "t=1609459200.123", "t=12345678901", "9" * 65_536, "t=1.5e9", "t=٣٣٣٣٣٣٣٣٣٣",
            "{future}", "{old}",
        ],
        ids=lambda value: value[:20],
    )  # fmt: skip
    def test_anything_else_is_not_guessed_from(self, worker: Worker, value: str) -> None:
        text = value.format(future=f"t={time.time() + 60:.3f}", old=f"t={time.time() - 601:.3f}")
        before = time.time_ns()
        send(worker, {"x-request-start": text})
        assert worker.span("predict tiny").start_time >= before
        assert "queue" not in [span.name for span in worker.spans]
        assert not worker.points("torchserve.queue.duration")

    def test_ten_minutes_are_believed(self, worker: Worker) -> None:
        send(worker, {"x-request-start": f"t={time.time() - 590:.3f}"})
        assert worker.span("queue").end_time - worker.span("queue").start_time > 589 * 10**9

    def test_only_a_trusted_caller_is_asked(self, worker: Worker) -> None:
        send(worker, {"x-request-start": f"t={time.time() - 5:.3f}", "traceparent": TRACEPARENT}, trust="link")
        assert "queue" not in [span.name for span in worker.spans]

    def test_in_a_batch_everybody_waited_for_themselves(self, worker: Worker) -> None:
        with worker.patched():
            headers = [{"x-request-start": f"t={time.time() - seconds:.3f}"} for seconds in (5, 9)]
            predict(load_model(HANDLER), *(make_request(b"x", header) for header in [*headers, {}]))
        waited = [round((span.end_time - span.start_time) / 1e9) for span in worker.spans if span.name == "queue"]
        assert sorted(waited) == [5, 9]
        (point,) = worker.points("torchserve.queue.duration")
        assert point.count == 2


class ErrorRoom:
    """A worker whose failed requests are kept, exporting to a receiver."""

    def __init__(self, sdk: Any, receiver: OtlpReceiver) -> None:
        self._sdk = sdk
        self._receiver = receiver
        self.worker = Worker(sdk.providers.tracer_provider)

    def send(self, *bodies: bytes, headers: Mapping[str, str], times: int = 1) -> None:
        with self.worker.patched(errors=self._sdk.providers.errors):
            service = load_model(HANDLER)
            for _ in range(times):
                predict(service, *(make_request(body, headers) for body in bodies))

    def spans(self) -> list[Span]:
        assert self._sdk.flush()
        return [received.span for received in self._receiver.spans if received.span.name != "load tiny"]

    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans())


@pytest.fixture
def keeping() -> Iterator[Callable[..., ErrorRoom]]:
    """Gives a room for so many failed requests a second and a sampler."""
    with contextlib.ExitStack() as stack:

        def build(per_second: float, sampler: str = "parentbased_always_on") -> ErrorRoom:
            receiver = stack.enter_context(OtlpReceiver())
            environ = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
                "OTEL_TRACES_SAMPLER": sampler,
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none",
            }
            sdk = stack.enter_context(room(environ, error_samples_per_second=per_second))
            return ErrorRoom(sdk, receiver)

        yield build


class TestSampledErrors:
    def test_a_failed_request_is_kept_though_nobody_downstream_learns(self, keeping: Any) -> None:
        kept = keeping(1000)
        kept.send(b"fail", headers={"traceparent": UNSAMPLED})
        spans = {span.name: span for span in kept.spans()}
        assert sorted(spans) == ["inference", "predict tiny", "preprocess", "tokenize"]
        root = spans["predict tiny"]
        assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE_ID, CALLER)
        assert root.status.code == StatusCode.ERROR.value
        assert [event.name for event in root.events] == ["exception"]
        for span in spans.values():
            marks = [item.value.string_value for item in span.attributes if item.key == "torchserve.sampling.reason"]
            assert marks == ["error"]
        assert line(kept.worker)["trace_flags"] == "00"
        # What an ordinary processor exports.
        assert [span.name for span in kept.worker.spans] == ["load tiny"]

    def test_a_success_is_not(self, keeping: Any) -> None:
        kept = keeping(1000)
        kept.send(b"x", headers={"traceparent": UNSAMPLED}, times=3)
        assert kept.names() == []

    def test_a_sampled_one_leaves_once_and_unmarked(self, keeping: Any) -> None:
        kept = keeping(1000)
        kept.send(b"fail", headers={"traceparent": TRACEPARENT})
        assert kept.names() == ["inference", "predict tiny", "preprocess", "tokenize"]
        assert "torchserve.sampling.reason" not in [item.key for span in kept.spans() for item in span.attributes]

    def test_beyond_the_rate_they_go(self, keeping: Any) -> None:
        kept = keeping(0.001)
        kept.send(b"fail", headers={"traceparent": UNSAMPLED}, times=5)
        assert kept.names().count("predict tiny") == 1

    @pytest.mark.parametrize(("sampler", "is_kept"), [("parentbased_always_off", True), ("always_off", False)])
    def test_never_under_always_off(self, keeping: Any, sampler: str, is_kept: bool) -> None:
        kept = keeping(1000, sampler)
        kept.send(b"fail", headers={})
        assert ("predict tiny" in kept.names()) is is_kept

    def test_none_unless_asked_for(self, keeping: Any) -> None:
        kept = keeping(0)
        kept.send(b"fail", headers={"traceparent": UNSAMPLED})
        assert kept.names() == []

    def test_in_a_batch_the_members_are_kept_with_its_phases(self, keeping: Any) -> None:
        kept = keeping(1000)
        kept.send(b"x", b"fail", headers={"traceparent": UNSAMPLED})
        assert kept.names() == ["inference", "inference", "predict tiny", "predict tiny", "preprocess", "preprocess"]
        assert {span.trace_id.hex() for span in kept.spans()} == {TRACE_ID}

    def test_the_rate_is_so_many_a_second_and_as_many_at_once(self) -> None:
        now = 0.0
        sampling = ErrorSampling(3, clock=lambda: now)
        assert [sampling.admit() for _ in range(5)] == [True, True, True, False, False]
        now = 1 / 3 + 0.001
        assert [sampling.admit() for _ in range(2)] == [True, False]
        now = 1000.0
        assert [sampling.admit() for _ in range(5)] == [True, True, True, False, False]

    def test_what_the_sampler_wants_of_a_failed_request_does_not_leave_twice(self) -> None:
        class ByName(Sampler):
            def should_sample(self, parent_context: Any, trace_id: int, name: str, *_: Any) -> SamplingResult:
                return SamplingResult(Decision.RECORD_AND_SAMPLE if name == "tokenize" else Decision.DROP)

            def get_description(self) -> str:
                return "ByName"

        kept: list[str] = []
        sampling = ErrorSampling(1000)
        sampling.export_with([lambda span: kept.append(span.name)])
        worker = Worker(TracerProvider(sampler=RecordingSampler(ByName()), shutdown_on_exit=False))
        worker.tracer_provider.add_span_processor(sampling)
        with worker.patched(errors=sampling):
            predict(load_model(HANDLER), make_request(b"fail"))
        assert [span.name for span in worker.spans] == ["tokenize"]
        assert sorted(kept) == ["inference", "predict tiny", "preprocess"]

    def test_of_one_request_only_so_many_are_held(self, keeping: Any) -> None:
        kept = keeping(1000)
        loop = HANDLER.replace(
            'with ts_otel_logging.span("tokenize"): pass',
            """
            for _ in range(500):
                with ts_otel_logging.span("tokenize"): pass""",
        )
        with kept.worker.patched(errors=kept._sdk.providers.errors):
            predict(load_model(loop), make_request(b"fail", {"traceparent": UNSAMPLED}))
        assert "predict tiny" in kept.names()
        assert len(kept.names()) == 128


class TestIds:
    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_they_differ_whatever_is_seeded_and_after_a_fork(self) -> None:
        nothing = {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
        with room(nothing) as sdk:
            worker = Worker(sdk.providers.tracer_provider)
            seen = []
            with worker.patched():
                service = load_model(HANDLER)
                for _ in range(3):
                    random.seed(0)
                    torch.manual_seed(0)
                    predict(service, make_request(b"x"), make_request(b"x"))
                seen += [(span.context.trace_id, span.context.span_id) for span in worker.spans]
            tracer = sdk.providers.tracer_provider.get_tracer("t")
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    context = tracer.start_span("child").get_span_context()
                    os.write(writing, f"{context.trace_id:032x}{context.span_id:016x}".encode())
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            text = os.read(reading, 48).decode()
            os.close(reading)
            os.close(writing)
            context = tracer.start_span("parent").get_span_context()
            seen += [(context.trace_id, context.span_id), (int(text[:32], 16), int(text[32:], 16))]
        assert len({span_id for _, span_id in seen}) == len(seen)
        # A load; three times two members and their batch; parent and child.
        assert len({trace_id for trace_id, _ in seen}) == 1 + 3 * 3 + 2
