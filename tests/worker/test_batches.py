"""Batches of several requests: one span for the batch, one for each member in its caller's trace, and how they meet."""

from __future__ import annotations

import secrets
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBasedTraceIdRatio,
    TraceIdRatioBased,
)
from opentelemetry.trace import StatusCode

from in_memory_worker import Worker
from in_process import load_model, make_request, predict
from otlp_receiver import OtlpReceiver
from sdk_room import room

if TYPE_CHECKING:
    from collections.abc import Sequence

    from in_process import Reply

PHASE_NAMES = ["preprocess", "inference", "postprocess"]
HANDLER = """
    import logging, time
    from opentelemetry import trace
    from ts.torch_handler.base_handler import BaseHandler
    import ts_otel_logging

    logger = logging.getLogger("acme.model")

    class Handler(BaseHandler):
        def initialize(self, context):
            self.context = context
            self.initialized = True
        def preprocess(self, data):
            return [row.get("body") for row in data]
        def inference(self, data):
            logger.info("in inference")
            {inference}
            return data
        def postprocess(self, data):
            {postprocess}
            return ["ok"] * len(data)
"""


def handler(inference: str = "pass", postprocess: str = "pass") -> str:
    return HANDLER.format(inference=inference, postprocess=postprocess)


def traceparent(*, sampled: bool = True) -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{sampled:02x}"


def send(worker: Worker, source: str, callers: Sequence[str | None], **options: Any) -> list[Reply]:
    """A batch with a member for each caller: its ``traceparent``, or None."""
    with worker.patched(**options):
        service = load_model(source, batch_size=len(callers))
        return predict(
            service,
            *(
                make_request(b"x", {} if caller is None else {"traceparent": caller}, request_id=f"r{index}")
                for index, caller in enumerate(callers)
            ),
        )


def named(worker: Worker, name: str) -> list[ReadableSpan]:
    return [span for span in worker.spans if span.name == name]


def members_of(worker: Worker) -> list[ReadableSpan]:
    """The members' spans in the batch's order."""
    return sorted(named(worker, "predict tiny"), key=lambda span: int(span.attributes["torchserve.request.id"][1:]))


def shared(worker: Worker, span: ReadableSpan) -> list[ReadableSpan]:
    return [child for child in worker.children(span) if child.attributes.get("torchserve.batch.shared")]


def line(worker: Worker, event: str) -> dict[str, Any]:
    (found,) = [line for line in worker.lines.objects if line["event"] == event]
    return found


class TestLinks:
    @pytest.mark.parametrize("size", [4, 64, 256])
    @pytest.mark.parametrize("max_links", [2, 128])
    def test_every_member_is_linked_whatever_the_limit_of_other_spans(self, size: int, max_links: int) -> None:
        # An ordinary provider, as an application's own would be.
        worker = Worker(TracerProvider(span_limits=SpanLimits(max_links=max_links), shutdown_on_exit=False))
        send(worker, handler(), [traceparent() if index % 2 else None for index in range(size)])
        batch, members = worker.span("batch tiny"), members_of(worker)
        assert batch.parent is None
        assert (batch.dropped_links, batch.attributes["torchserve.batch.size"]) == (0, size)
        assert [(link.context.trace_id, link.context.span_id, dict(link.attributes)) for link in batch.links] == [
            (
                member.context.trace_id,
                member.context.span_id,
                {"torchserve.request.id": f"r{index}", "torchserve.batch.index": index},
            )
            for index, member in enumerate(members)
        ]
        assert {link.context.span_id for member in members for link in member.links} == {batch.context.span_id}
        assert len({member.context.trace_id for member in members} | {batch.context.trace_id}) == size + 1

    def test_other_spans_keep_the_users_limit(self) -> None:
        worker = Worker(TracerProvider(span_limits=SpanLimits(max_links=2), shutdown_on_exit=False))
        with_links = """
            with ts_otel_logging.span("mine") as span:
                for _ in range(5): span.add_link(span.get_span_context())"""
        send(worker, handler(with_links), [None] * 4)
        assert len(worker.span("mine").links) == 2
        assert len(worker.span("batch tiny").links) == 4


class TestSharedPhases:
    @pytest.mark.parametrize("size", [4, 64])
    def test_each_member_has_the_phases_at_the_same_times(self, worker: Worker, size: int) -> None:
        send(worker, handler("time.sleep(0.002)"), [None] * size)
        live = worker.children(worker.span("batch tiny"))
        assert [span.name for span in live] == PHASE_NAMES
        assert not [span for span in live if "torchserve.batch.shared" in span.attributes]
        for member in members_of(worker):
            copies = worker.children(member)
            assert [(copy.name, copy.start_time, copy.end_time) for copy in copies] == [
                (span.name, span.start_time, span.end_time) for span in live
            ]
            assert all(dict(copy.attributes) == {"torchserve.batch.shared": True} for copy in copies)
            assert member.start_time <= copies[0].start_time
            assert copies[-1].end_time <= member.end_time

    def test_above_64_they_are_on_the_batch_alone(self, worker: Worker) -> None:
        send(worker, handler(), [None] * 65)
        assert len(members_of(worker)) == 65
        assert {span.parent.span_id for span in worker.spans if span.name in PHASE_NAMES} == {
            worker.span("batch tiny").context.span_id
        }

    def test_only_recorded_members_count(self, worker: Worker) -> None:
        send(worker, handler(), [traceparent(sampled=index < 64) for index in range(100)])
        members = members_of(worker)
        assert len(members) == 64
        assert all(len(shared(worker, member)) == 3 for member in members)

    def test_a_failure_is_on_the_copy_too(self, worker: Worker) -> None:
        send(worker, handler("raise ValueError('no')"), [None] * 3)
        for member in members_of(worker):
            copy = shared(worker, member)[-1]
            assert (copy.name, copy.status.status_code) == ("inference", StatusCode.ERROR)
            assert copy.attributes["error.type"] == "ValueError"

    def test_a_handler_without_phases_shares_its_one(self, worker: Worker) -> None:
        send(worker, "def handle(data, context): return data and ['ok'] * len(data)", [None] * 2)
        assert [[span.name for span in shared(worker, member)] for member in members_of(worker)] == [["handle"]] * 2

    def test_a_phase_that_ran_for_each_request_is_not_every_members(self, worker: Worker) -> None:
        source = """
            class Handler:
                def initialize(self, context): pass
                def preprocess(self, data): return data
                def inference(self, row): return "ok"
                def handle(self, data, context): return [self.inference(row) for row in self.preprocess(data)]
        """
        send(worker, source, [None] * 3)
        assert len(worker.children(worker.span("batch tiny"))) == 4
        assert [[span.name for span in shared(worker, member)] for member in members_of(worker)] == [["preprocess"]] * 3

    def test_a_batch_that_goes_on_in_the_next_call_shares_none(self, worker: Worker) -> None:
        source = """
            class Handler:
                def initialize(self, context): pass
                def inference(self, data): return [row["body"].decode() for row in data]
                def handle(self, data, context):
                    context.stopping_criteria = [lambda word: word == "last"] * len(data)
                    return self.inference(data)
        """
        with worker.patched():
            service = load_model(source)
            for word in (b"first", b"second", b"last"):
                predict(service, *(make_request(word, request_id=f"r{index}") for index in range(2)))
        assert len(members_of(worker)) == 2
        assert len(named(worker, "inference")) == 3


class TestLines:
    def test_they_name_every_member_and_the_batchs_span(self, worker: Worker) -> None:
        callers = [traceparent(), None, traceparent(sampled=False)]
        send(worker, handler(), callers)
        found = line(worker, "in inference")
        assert found["request_ids"] == ["r0", "r1", "r2"]
        assert found["trace_ids"][0] == callers[0].split("-")[1]
        assert found["trace_ids"][1] == format(members_of(worker)[1].context.trace_id, "032x")
        assert found["trace_ids"][2] == callers[2].split("-")[1]
        (inference,) = worker.children(worker.span("batch tiny"))[1:2]
        assert (found["trace_id"], found["span_id"], found["trace_flags"][1]) == (
            format(inference.context.trace_id, "032x"),
            format(inference.context.span_id, "016x"),
            "1",
        )
        assert "request_id" not in found

    def test_request_scope_narrows_them_to_one_member_and_its_span(self, worker: Worker) -> None:
        narrow = """
            for index in range(len(data)):
                with ts_otel_logging.request_scope(index):
                    logger.info(f"mine {index}", extra={"inference_latency": 0.25})
                    with ts_otel_logging.span(f"tokenize {index}"): pass
            with ts_otel_logging.request_scope(len(data)):
                logger.info("nobody's")
            logger.info("everybody's")"""
        callers = [traceparent(), None, traceparent(sampled=False)]
        send(worker, handler(narrow), callers)
        members = members_of(worker)
        for index, member in enumerate(members):
            found = line(worker, f"mine {index}")
            assert found["request_id"] == f"r{index}"
            assert not {"request_ids", "trace_ids"} & set(found)
            assert found["trace_id"] == format(member.context.trace_id, "032x")
            assert found["span_id"] == format(member.context.span_id, "016x")
            assert worker.span(f"tokenize {index}").parent.span_id == member.context.span_id
        unsampled = line(worker, "mine 2")
        assert (unsampled["trace_id"], unsampled["trace_flags"]) == (callers[2].split("-")[1], "00")
        assert not named(worker, "tokenize 2")
        for event in ("nobody's", "everybody's"):
            assert line(worker, event)["request_ids"] == ["r0", "r1", "r2"]
            assert line(worker, event)["trace_id"] == line(worker, "in inference")["trace_id"]

    def test_a_clients_own_id_is_cut(self, worker: Worker) -> None:
        with worker.patched():
            predict(load_model(handler()), make_request(b"x", {"x-request-id": "i" * 65_536}))
        assert line(worker, "in inference")["client_request_id"] == "i" * 256


class TestStatus:
    def test_a_member_that_the_handler_fails_is_the_only_one(self, worker: Worker) -> None:
        answers = (
            "self.context.set_response_status(500, 'broken', idx=1)\n"
            "            self.context.set_response_status(404, 'unknown', idx=2)"
        )
        replies = send(worker, handler(postprocess=answers), [None] * 3)
        assert [reply.status_code for reply in replies] == [200, 500, 404]
        members = members_of(worker)
        assert [member.attributes["torchserve.response.status_code"] for member in members] == [200, 500, 404]
        assert [member.status.status_code is StatusCode.ERROR for member in members] == [False, True, False]
        assert [member.attributes.get("error.type") for member in members] == [None, "500", None]
        assert worker.span("batch tiny").status.status_code is StatusCode.UNSET
        counts = {
            point.attributes.get("error.type"): point.count for point in worker.points("torchserve.request.duration")
        }
        assert counts == {None: 2, "500": 1}

    def test_an_exception_is_every_members_and_the_batchs(self, worker: Worker) -> None:
        send(worker, handler("raise ValueError('no')"), [None] * 3)
        batch, members = worker.span("batch tiny"), members_of(worker)
        assert [span.attributes["error.type"] for span in (batch, *members)] == ["ValueError"] * 4
        assert [[event.name for event in member.events] for member in members] == [["exception"]] * 3
        assert batch.events == ()
        (found,) = [line for line in worker.lines.objects if "exception" in line]
        assert found["span_id"] == format(batch.context.span_id, "016x")


class TestManyMembers:
    def test_a_line_that_cannot_name_all_of_them_names_the_first(self, worker: Worker) -> None:
        with worker.patched():
            ids = [str(uuid.uuid4()) for _ in range(256)]
            predict(load_model(handler()), *(make_request(b"x", request_id=request_id) for request_id in ids))
        found = line(worker, "in inference")
        assert found["truncated"]
        assert found["request_ids"] == ids[:64]
        assert len(found["trace_ids"]) == 64


class TestSampling:
    @pytest.mark.parametrize(
        ("sampler", "caller", "is_sampled"),
        [
            (DEFAULT_ON, "sampled", True),
            (DEFAULT_ON, "unsampled", False),
            (DEFAULT_ON, None, True),
            (DEFAULT_OFF, "sampled", True),
            (DEFAULT_OFF, "unsampled", False),
            (DEFAULT_OFF, None, False),
            (ALWAYS_ON, "unsampled", True),
            (ALWAYS_OFF, "sampled", False),
            (TraceIdRatioBased(1.0), "unsampled", True),
            (TraceIdRatioBased(0.0), "sampled", False),
            (ParentBasedTraceIdRatio(0.0), "sampled", True),
            (ParentBasedTraceIdRatio(0.0), None, False),
            (ParentBasedTraceIdRatio(1.0), "unsampled", False),
        ],
    )
    @pytest.mark.parametrize("size", [1, 2])
    def test_standard_samplers_decide_for_the_members_and_these_for_the_batch(
        self, sampler: Any, caller: str | None, is_sampled: bool, size: int
    ) -> None:
        worker = Worker(TracerProvider(sampler=sampler, shutdown_on_exit=False))
        header = caller and traceparent(sampled=caller == "sampled")
        send(worker, handler(), [header] * size)
        spans = [span for span in worker.spans if span.name != "load tiny"]
        batches = 4 if size > 1 else 0
        assert len(spans) == (size * 4 + batches if is_sampled else 0)
        found = line(worker, "in inference")
        assert int(found["trace_flags"], 16) & 1 == is_sampled
        if header is not None:
            assert header.split("-")[1] in (found.get("trace_ids") or [found["trace_id"]])
        assert len(found["trace_id"]) == 32
        assert len(found["span_id"]) == 16

    def test_one_sampled_member_is_enough_and_the_others_export_nothing(self, worker: Worker) -> None:
        send(worker, handler(), [traceparent(sampled=index == 2) for index in range(4)])
        (member,) = members_of(worker)
        batch = worker.span("batch tiny")
        assert len(batch.links) == 4
        assert [bool(link.context.trace_flags.sampled) for link in batch.links] == [False, False, True, False]
        assert {span.context.trace_id for span in worker.spans if span.name != "load tiny"} == {
            batch.context.trace_id,
            member.context.trace_id,
        }

    def test_without_a_sampled_member_there_is_nothing_but_ids_on_the_lines(self, worker: Worker) -> None:
        callers = [traceparent(sampled=False) for _ in range(3)]
        send(worker, handler(), callers)
        assert [span.name for span in worker.spans] == ["load tiny"]
        found = line(worker, "in inference")
        assert found["trace_ids"] == [caller.split("-")[1] for caller in callers]
        assert int(found["trace_flags"], 16) & 1 == 0
        assert int(found["trace_id"], 16)

    @pytest.mark.parametrize("ratio", [0.2, 0.8])
    def test_by_ratio_a_batchs_trace_is_whole_or_absent(self, ratio: float) -> None:
        worker = Worker(TracerProvider(sampler=TraceIdRatioBased(ratio), shutdown_on_exit=False))
        with worker.patched():
            service = load_model(handler("with ts_otel_logging.span('tokenize'): pass"))
            for number in range(40):
                predict(service, *(make_request(b"x", request_id=f"r{2 * number + index}") for index in range(2)))
        batches, members = named(worker, "batch tiny"), members_of(worker)
        assert 0 < len(batches) <= 40
        assert {link.context.span_id for member in members for link in member.links} == {
            batch.context.span_id for batch in batches
        }
        # Everything below a batch comes with it, and nothing without.
        assert len(named(worker, "tokenize")) == len(batches)
        assert len(named(worker, "inference")) == len(batches) + len(members)
        assert len({batch.context.trace_id & (1 << 64) - 1 for batch in batches}) == len(batches)
        assert not {batch.context.trace_id for batch in batches} & {member.context.trace_id for member in members}


class TestSize:
    def test_1025_spans_of_one_batch_arrive(self) -> None:
        each = """
            for index in range(len(data)):
                with ts_otel_logging.request_scope(index):
                    for step in range(3):
                        with ts_otel_logging.span("step"): pass"""
        with OtlpReceiver() as receiver, room({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}) as sdk:
            worker = Worker(sdk.providers.tracer_provider)
            send(worker, handler(each), [None] * 256)
            assert sdk.flush()
            spans = [received.span for received in receiver.spans]
        (batch,) = [span for span in spans if span.name == "batch tiny"]
        assert len(spans) - 1 == 256 * 4 + 1 + 3
        assert {link.span_id for link in batch.links} == {span.span_id for span in spans if span.name == "predict tiny"}
        assert sdk.events() == []

    # Up to 64 members share the phases; at about 200 a line is cut, which is work of its own.
    @pytest.mark.parametrize("size", [32, 65])
    def test_twice_the_members_are_at_most_twice_the_work(self, worker: Worker, size: int) -> None:
        """Counted in calls of functions: a clock says nothing on a loaded machine."""
        with worker.patched():
            service = load_model(handler())

            def calls(members: int) -> int:
                batch = [make_request(b"x", {"traceparent": traceparent()}) for _ in range(members)]
                count = 0

                def profile(_frame: Any, event: str, _argument: Any) -> None:
                    nonlocal count
                    count += event in ("call", "c_call")

                sys.setprofile(profile)
                try:
                    predict(service, *batch)
                finally:
                    sys.setprofile(None)
                return count

            calls(size)
            assert calls(2 * size) <= 2.1 * calls(size)
