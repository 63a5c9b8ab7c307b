"""Every way in which TorchServe serves, on a real one: what clients get as without us, and what the receiver gets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from answers import comparable
from telemetry import Span, Telemetry, new_caller
from torchserve_server import Model, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchserve_server import TorchServe

# The first test waits for ten workers.
pytestmark = [pytest.mark.torchserve, pytest.mark.timeout(300)]

PARTS = Model("parts", "parts.py", workers=2)
ASYNC = Model("async", "async_parts.py", config="asyncCommunication: true\nminWorkers: 1\nmaxWorkers: 1\n")
CONTINUOUS = Model(
    "continuous", "continuous.py", config="continuousBatching: true\nbatchSize: 2\nminWorkers: 1\nmaxWorkers: 1\n"
)
SEQUENCE = Model(
    "sequence",
    "continuous.py",
    config="""\
sequenceBatching: true
continuousBatching: true
batchSize: 2
maxNumSequence: 2
sequenceMaxIdleMSec: 5000
maxSequenceJobQueueSize: 10
minWorkers: 1
maxWorkers: 1
""",
)
MICRO_BATCHING = Model("micro", "micro_batching.py")
RANKS = Model(
    "ranks",
    "phases.py",
    config="""\
deviceType: cpu
parallelType: tp
parallelLevel: 2
minWorkers: 1
maxWorkers: 1
torchrun: {nproc-per-node: 2}
""",
)

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "one piece": ("parts", {}),
    "a stream": ("parts", {"parts": ["a", "b", "c"]}),
    "a refusal": ("parts", {"inference": {"raise": ["PredictionException", "no", 418]}}),
    "asynchronous": ("async", {}),
    "an asynchronous stream": ("async", {"parts": ["a", "b", "c"]}),
    "continuous batching": ("continuous", {"steps": 3}),
}


@pytest.fixture(scope="module")
def ours(server: TorchServe) -> Iterator[TorchServe]:
    with server.serving(PARTS, ASYNC, CONTINUOUS, SEQUENCE, MICRO_BATCHING, RANKS):
        yield server


@pytest.fixture(scope="module")
def stock(stock_server: TorchServe) -> Iterator[TorchServe]:
    with stock_server.serving(PARTS._replace(workers=1), ASYNC, CONTINUOUS):
        yield stock_server


def spans_of(telemetry: Telemetry, trace_id: str, name: str, count: int = 1) -> list[Span]:
    """The spans of one name in a trace, once there are so many."""

    def found() -> list[Span] | None:
        spans = [span for span in telemetry.spans(trace_id) if span.name == name]
        return spans if len(spans) >= count else None

    return telemetry.wait_for(found)


class TestAnswers:
    @pytest.mark.parametrize("name", REQUESTS)
    def test_they_are_stocks_own(self, ours: TorchServe, stock: TorchServe, name: str) -> None:
        model, body = REQUESTS[name]
        answers = [server.predict(model, body, new_caller().headers) for server in (ours, stock)]
        assert comparable(answers[0]) == comparable(answers[1])


class TestStreaming:
    def test_parts_come_in_order_and_are_counted(self, ours: TorchServe, telemetry: Telemetry) -> None:
        caller = new_caller()
        parts = [f"part {number}," for number in range(50)]
        answer = ours.predict("parts", {"parts": parts}, caller.headers)
        assert answer.text == "".join(parts)
        span = telemetry.wait_for_trace(caller.trace_id, "predict parts", "handle")["predict parts"]
        assert span.attributes["torchserve.stream.chunk.count"] == 50
        assert 0 < span.attributes["torchserve.stream.time_to_first_chunk"] <= span.duration_seconds
        assert telemetry.wait_for_exemplar("torchserve.request.time_to_first_chunk", caller.trace_id)


class TestAsync:
    def test_two_requests_at_a_time_keep_apart(self, ours: TorchServe, telemetry: Telemetry) -> None:
        callers = [new_caller(), new_caller()]
        body = {"wait_for": 2, "inference": {"log": [{"message": "both are here"}]}}
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda caller: ours.predict("async", body, caller.headers), callers))
        assert [answer.status_code for answer in answers] == [200, 200]
        for caller in callers:
            spans = telemetry.wait_for_trace(caller.trace_id, "predict async", "inference")
            assert spans["inference"].parent_span_id == spans["predict async"].span_id
            record = telemetry.wait_for_log_record(caller.trace_id, "both are here")
            assert record.span_id == spans["inference"].span_id
        first, second = (telemetry.spans(caller.trace_id)[0] for caller in callers)
        assert first.start_ns < second.end_ns
        assert second.start_ns < first.end_ns


class TestContinuousBatching:
    def test_a_request_is_one_span_over_several_calls(self, ours: TorchServe, telemetry: Telemetry) -> None:
        caller = new_caller()
        answer = ours.predict("continuous", {"steps": 4}, caller.headers)
        assert [json.loads(part)["left"] for part in _json_values(answer.text)] == [3, 2, 1, 0]
        [span] = spans_of(telemetry, caller.trace_id, "predict continuous")
        assert span.attributes["torchserve.stream.chunk.count"] == 4
        phases = spans_of(telemetry, caller.trace_id, "postprocess", 4)
        assert {phase.parent_span_id for phase in phases} == {span.span_id}

    def test_a_client_that_leaves_is_seen_with_the_next_request(self, ours: TorchServe, telemetry: Telemetry) -> None:
        leaver, other = new_caller(), new_caller()
        body = json.dumps({"steps": 1000, "sleep_seconds": 0.02})
        with httpx.stream(
            "POST",
            f"{ours.inference_url}/predictions/continuous",
            content=body,
            headers={"content-type": "application/json", **leaver.headers},
            trust_env=False,
            timeout=30,
        ) as response:
            next(response.iter_raw())
        ours.wait_for_line(lambda line: "Connection to client got closed" in line, "the frontend's word")
        assert ours.predict("continuous", {"steps": 2}, other.headers).status_code == httpx.codes.OK
        [span] = spans_of(telemetry, leaver.trace_id, "predict continuous")
        assert span.attributes["torchserve.stream.client_left"] is True
        assert 0 < span.attributes["torchserve.stream.chunk.count"] < 1000
        assert span.status == "UNSET"


class TestSequences:
    def test_each_request_of_a_sequence_is_a_span_in_its_callers_trace(
        self, ours: TorchServe, telemetry: Telemetry
    ) -> None:
        callers = [new_caller() for _ in range(3)]
        sequence: dict[str, str] = {}
        for number, caller in enumerate(callers, start=1):
            answer = ours.predict("sequence", {"steps": 2}, {**sequence, **caller.headers})
            sequence = {"ts_request_sequence_id": answer.headers["ts_request_sequence_id"]}
            assert [json.loads(part)["of_sequence"] for part in _json_values(answer.text)] == [number, number]
        for caller in callers:
            [span] = spans_of(telemetry, caller.trace_id, "predict sequence")
            assert (span.kind, span.parent_span_id) == ("SERVER", caller.span_id)
            assert span.attributes["torchserve.stream.chunk.count"] == 2


class TestMicroBatching:
    def test_phases_in_threads_belong_to_the_request(self, ours: TorchServe, telemetry: Telemetry) -> None:
        caller = new_caller()
        answer = ours.predict("micro", {}, caller.headers)
        assert answer.text == "ok"
        spans = telemetry.wait_for_trace(caller.trace_id, "predict micro", "preprocess", "inference", "postprocess")
        assert {span.parent_span_id for name, span in spans.items() if name != "predict micro"} == {
            spans["predict micro"].span_id
        }
        record = telemetry.wait_for_log_record(caller.trace_id, "in a thread")
        assert record.span_id == spans["inference"].span_id
        assert record.attributes["torchserve.request.id"] == answer.headers["x-request-id"]


class TestRanks:
    def test_every_rank_is_in_the_trace_and_rank_0_alone_counts(self, ours: TorchServe, telemetry: Telemetry) -> None:
        caller = new_caller()
        assert ours.predict("ranks", {"answer": 7}, caller.headers).json() == 7
        spans = spans_of(telemetry, caller.trace_id, "predict ranks", 2)
        by_rank = {span.attributes["torchserve.worker.rank"]: span for span in spans}
        assert {rank: span.kind for rank, span in by_rank.items()} == {0: "SERVER", 1: "INTERNAL"}
        assert {span.parent_span_id for span in spans} == {caller.span_id}
        assert len({span.resource["service.instance.id"] for span in spans}) == 2
        point = telemetry.wait_for_exemplar("torchserve.request.duration", caller.trace_id)
        assert point.count == 1
        assert not [
            point
            for point in telemetry.histogram_points("torchserve.request.duration")
            if caller.trace_id in point.exemplar_trace_ids and point.count != 1
        ]


class TestSeveralWorkers:
    def test_spans_and_lines_say_which_it_was(self, ours: TorchServe, telemetry: Telemetry) -> None:
        seen: dict[str, set[Any]] = {}

        def both() -> bool:
            callers = [new_caller(), new_caller()]
            body = {"inference": {"sleep_seconds": 0.5}}
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda caller: ours.predict("parts", body, caller.headers), callers))
            for caller in callers:
                span = telemetry.wait_for_trace(caller.trace_id, "predict parts")["predict parts"]
                instance = (span.resource["service.instance.id"], span.resource["process.pid"])
                seen.setdefault(span.attributes["torchserve.worker.id"], set()).add(instance)
            return len(seen) == 2

        wait_for(both, "requests on both workers")
        first, second = seen.values()
        assert len(first) == len(second) == 1
        assert not first & second


class TestAWorkerThatGoes:
    def test_of_one_that_dies_what_came_before_arrives(
        self, server: TorchServe, stock_server: TorchServe, telemetry: Telemetry
    ) -> None:
        model = Model("dies", "phases.py", response_timeout_seconds=1)
        caller = new_caller()
        body = {"preprocess": {"log": [{"message": "before the end"}]}, "inference": {"sleep_seconds": 60}}
        with server.serving(model), stock_server.serving(model):
            with ThreadPoolExecutor(2) as pool:
                answers = [pool.submit(each.predict, "dies", body, caller.headers) for each in (server, stock_server)]
                ours, stock = (answer.result() for answer in answers)
            assert comparable(ours) == comparable(stock)
            assert ours.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
            assert telemetry.wait_for_trace(caller.trace_id, "preprocess").keys() == {"preprocess"}
            record = telemetry.wait_for_log_record(caller.trace_id, "before the end")
            assert record.attributes["torchserve.model.name"] == "dies"


class TestALoadThatFails:
    def test_its_span_arrives_though_the_worker_ends(self, server: TorchServe, telemetry: Telemetry) -> None:
        model = Model("broken", "load_fails.py", config="maxRetryTimeoutInSec: 1\nminWorkers: 1\nmaxWorkers: 1\n")
        try:
            answer = server.try_to_register(model)
            assert answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR

            def failed() -> Span | None:
                return next((span for span in telemetry.all_spans() if span.name == "load broken"), None)

            span = telemetry.wait_for(failed)
            assert (span.status, span.attributes["error.type"]) == ("ERROR", "FileNotFoundError")
            assert [event.attributes["exception.message"] for event in span.events] == ["no weights"]
        finally:
            server.unregister(model)


def _json_values(text: str) -> list[str]:
    """The JSON objects of a stream, one behind the other."""
    values, decoder, position = [], json.JSONDecoder(), 0
    while position < len(text):
        _, end = decoder.raw_decode(text, position)
        values.append(text[position:end])
        position = end
    return values
