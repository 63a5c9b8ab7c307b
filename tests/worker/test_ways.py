"""The ways in which TorchServe serves beside one request and one answer, on its real loader and service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import textwrap
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from in_process import decode_answer, load_model, make_request, predict
from ts_otel_logging import _diagnostics
from ts_otel_logging._torchserve import _load_failures, _service
from ts_otel_logging._tracing import Tracing

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan
    from ts.service import Service

    from in_memory_worker import Worker

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
PHASES = ["preprocess", "inference", "postprocess"]


def predict_spans(worker: Worker) -> list[ReadableSpan]:
    return [span for span in worker.spans if span.name.startswith("predict ")]


def names(spans: list[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


class TestHandlerForms:
    BASE = """
        from ts.torch_handler.base_handler import BaseHandler
        class Handler(BaseHandler):
            def initialize(self, context): pass
            def preprocess(self, data): return data
            def inference(self, data): return data
            def postprocess(self, data): return ["ok"] * len(data)
            def explain_handle(self, data, raw): return [{"why": 1}]
            def describe_handle(self): return {"model": "tiny"}
    """

    @pytest.mark.parametrize(
        ("headers", "phases", "body"),
        [
            ({}, PHASES, b"ok"),
            ({"explain": "True"}, ["preprocess", "explain"], b'{\n  "why": 1\n}'),
            ({"describe": "True"}, ["describe"], b'{\n  "model": "tiny"\n}'),
        ],
    )
    def test_what_a_request_asks_for_is_what_runs(
        self, worker: Worker, headers: dict[str, str], phases: list[str], body: bytes
    ) -> None:
        with worker.patched():
            (reply,) = predict(load_model(self.BASE), make_request(b"x", headers))
        assert reply.body == body
        assert names(worker.children(worker.span("predict tiny"))) == phases

    @pytest.mark.parametrize("overridden", ["preprocess", "inference", "postprocess"])
    def test_a_handler_that_overrides_one_phase_has_all_three(self, worker: Worker, overridden: str) -> None:
        handler = f"""
            import torch
            from ts.torch_handler.base_handler import BaseHandler
            class Handler(BaseHandler):
                def initialize(self, context):
                    self.model, self.device = torch.nn.Identity(), "cpu"
                def {overridden}(self, data):
                    return data if "{overridden}" != "preprocess" else torch.tensor([[1, 2]])
        """
        with worker.patched():
            # The envelope takes the bodies out, of which BaseHandler's own preprocess makes a tensor.
            (reply,) = predict(load_model(handler, envelope="body"), make_request([1, 2]))
        if overridden == "postprocess":
            assert reply.status_code == 503, "a tensor is no list"
        else:
            assert json.loads(reply.body) == [1, 2]
        assert names(worker.children(worker.span("predict tiny"))) == PHASES

    def test_a_handler_of_torchserves_own_has_its_phases(self, worker: Worker) -> None:
        with worker.patched():
            # `--handler base_handler`: the loader finds no such file and takes the module of ts.torch_handler.
            service = load_model(
                "",
                envelope="body",
                manifest={"handler": "base_handler", "modelFile": "tiny_network.py"},
                files={"tiny_network.py": "import torch\nclass Network(torch.nn.Identity): pass\n"},
            )
            (reply,) = predict(service, make_request([3]))
        assert json.loads(reply.body) == [3]
        assert names(worker.children(worker.span("predict tiny"))) == PHASES

    ENVELOPES = (
        ("body", [1], {"body": [1]}),
        ("json", {"instances": [[1]]}, None),
        ("kserve", {"instances": [[1]]}, None),
        (
            "kservev2",
            {"id": "i", "inputs": [{"name": "a", "shape": [1], "datatype": "INT64", "data": [1]}]},
            None,
        ),
    )

    @pytest.mark.parametrize(("envelope", "body"), [(name, body) for name, body, _ in ENVELOPES])
    @pytest.mark.parametrize("form", ["phases", "own class", "function"])
    def test_an_envelope_adds_no_phase(self, worker: Worker, envelope: str, body: Any, form: str) -> None:
        handler = {
            "phases": self.BASE.replace('["ok"] * len(data)', "[1] * len(data)"),
            "own class": """
                class Handler:
                    def initialize(self, context): pass
                    def handle(self, data, context): return [1] * len(data)
            """,
            "function": "def handle(data, context): return data and [1] * len(data)",
        }[form]
        with worker.patched():
            (reply,) = predict(load_model(handler, envelope=envelope), make_request(body))
        assert reply.status_code == 200, reply
        root = worker.span("predict tiny")
        assert names(worker.children(root)) == (PHASES if form == "phases" else ["handle"])

    def test_a_functions_lines_belong_to_its_phase_also_behind_an_envelope(self, worker: Worker) -> None:
        handler = """
            import logging
            def handle(data, context):
                logging.info("in handle")
                return data
        """
        with worker.patched():
            predict(load_model(handler, envelope="body"), make_request(b"x"))
        line = [line for line in worker.lines.objects if line["event"] == "in handle"][-1]
        assert line["span_id"] == format(worker.span("handle").context.span_id, "016x")


STREAM = """
    from ts.handler_utils.utils import send_intermediate_predict_response
    class Handler:
        def initialize(self, context): pass
        def handle(self, data, context):
            for part in ("a", "b"):
                send_intermediate_predict_response(
                    [part] * len(data), context.request_ids, "Intermediate Prediction success", 200, context
                )
            return ["c"] * len(data)
"""


class TestStreaming:
    def test_its_parts_are_counted_and_the_first_one_timed(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(STREAM)
            (last,) = predict(service, make_request(b"x", {"traceparent": TRACEPARENT}))
        parts = [decode_answer(message).replies[0] for message in service.cl_socket.sent]
        assert [(part.body, part.headers["ts_stream_next"]) for part in [*parts, last]] == [
            (b"a", "true"), (b"b", "true"), (b"c", "false")
        ]  # fmt: skip
        root = worker.span("predict tiny")
        assert root.attributes["torchserve.stream.chunk.count"] == 3
        first = root.attributes["torchserve.stream.time_to_first_chunk"]
        assert 0 < first <= (root.end_time - root.start_time) / 1e9
        (point,) = worker.points("torchserve.request.time_to_first_chunk")
        assert point.sum == first
        assert format(point.exemplars[0].trace_id, "032x") == TRACE_ID
        assert dict(point.attributes) == {"torchserve.model.name": "tiny", "torchserve.model.version": "1.0"}

    def test_an_answer_in_one_piece_is_no_stream(self, worker: Worker) -> None:
        with worker.patched():
            predict(load_model(TestHandlerForms.BASE), make_request())
        assert not [name for name in worker.span("predict tiny").attributes if "stream" in name]
        assert worker.points("torchserve.request.time_to_first_chunk") == []

    def test_every_member_of_a_batch_counts_its_own(self, worker: Worker) -> None:
        with worker.patched():
            predict(load_model(STREAM, batch_size=2), make_request(), make_request())
        assert [span.attributes["torchserve.stream.chunk.count"] for span in predict_spans(worker)] == [3, 3]

    def test_parts_that_another_thread_sends_are_counted(self, worker: Worker) -> None:
        handler = """
            import threading
            from ts.handler_utils.utils import send_intermediate_predict_response as send
            def handle(data, context):
                if data:
                    thread = threading.Thread(target=send, args=(["a"], context.request_ids, "", 200, context))
                    thread.start()
                    thread.join()
                return data and ["b"]
        """
        with worker.patched():
            predict(load_model(handler), make_request())
        assert worker.span("predict tiny").attributes["torchserve.stream.chunk.count"] == 2

    def test_a_stream_that_breaks_is_a_failure_with_what_was_sent(self, worker: Worker) -> None:
        with worker.patched():
            predict(
                load_model(STREAM.replace('return ["c"] * len(data)', 'raise ValueError("broken")')), make_request()
            )
        root = worker.span("predict tiny")
        assert root.status.status_code is StatusCode.ERROR
        assert root.attributes["torchserve.stream.chunk.count"] == 2
        assert root.attributes["torchserve.response.status_code"] == 503


CONTINUOUS = """
    import logging
    from ts.torch_handler.base_handler import BaseHandler
    class Handler(BaseHandler):
        def initialize(self, context):
            context.cache = {}
        def preprocess(self, data):
            for request_id, row in zip(self.context.request_ids.values(), data):
                # In later calls the frontend sends no body.
                self.context.cache.setdefault(request_id, int(row["body"]) if "body" in row else None)
            return list(self.context.request_ids.values())
        def inference(self, ids):
            logging.info("step")
            for request_id in ids:
                self.context.cache[request_id] -= 1
            if any(self.context.cache[request_id] < 0 for request_id in ids):
                raise ValueError("too far")
            return [self.context.cache[request_id] for request_id in ids]
        def postprocess(self, left):
            self.context.stopping_criteria = [lambda value: value == 0] * len(left)
            return left
"""


def step(service: Service, *requests: tuple[str, bytes | None]) -> list[str | None]:
    """One call of continuous batching: what each answer says about more of it to come."""
    batch = [make_request(body, {"traceparent": TRACEPARENT}, request_id=name) for name, body in requests]
    return [reply.headers.get("ts_stream_next") for reply in predict(service, *batch)]


class TestContinuousBatching:
    def test_a_request_is_one_span_over_all_its_calls(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(CONTINUOUS)
            assert step(service, ("r1", b"3")) == ["true"]
            assert step(service, ("r1", None)) == ["true"]
            assert predict_spans(worker) == []
            assert step(service, ("r1", None)) == ["false"]
        (root,) = predict_spans(worker)
        assert format(root.context.trace_id, "032x") == TRACE_ID
        assert names(worker.children(root)) == PHASES * 3
        assert root.attributes["torchserve.stream.chunk.count"] == 3
        assert "torchserve.stream.client_left" not in root.attributes
        (point,) = worker.points("torchserve.request.duration")
        assert point.count == 1
        assert point.sum == pytest.approx((root.end_time - root.start_time) / 1e9, rel=0.2, abs=0.01)
        span_ids = {format(child.context.span_id, "016x") for child in worker.children(root)}
        lines = [line for line in worker.lines.objects if line["event"] == "step"]
        assert {line["request_id"] for line in lines} == {"r1"}
        assert {line["span_id"] for line in lines} <= span_ids

    def test_requests_come_and_go_while_others_go_on(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(CONTINUOUS, batch_size=2)
            step(service, ("long", b"3"))
            assert step(service, ("long", None), ("short", b"1")) == ["true", "false"]
            assert [span.attributes["torchserve.request.id"] for span in predict_spans(worker)] == ["short"]
            step(service, ("long", None))
        short, long = predict_spans(worker)
        assert [short.attributes[f"torchserve.stream.{name}"] for name in ("chunk.count",)] == [1]
        assert long.attributes["torchserve.stream.chunk.count"] == 3
        batch = worker.span("batch tiny")
        assert {link.context.span_id for link in batch.links} == {short.context.span_id, long.context.span_id}
        assert long.start_time < short.start_time < short.end_time < long.end_time

    def test_a_client_that_left_is_seen_in_the_next_call(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(CONTINUOUS, batch_size=2)
            step(service, ("gone", b"9"), ("stays", b"2"))
            step(service, ("stays", None))
        gone, stays = predict_spans(worker)
        assert gone.attributes["torchserve.request.id"] == "gone"
        assert gone.attributes["torchserve.stream.client_left"] is True
        assert gone.attributes["torchserve.stream.chunk.count"] == 1
        assert gone.status.status_code is StatusCode.UNSET
        assert gone.end_time < stays.end_time, "it ends with the last call that had it"
        assert "torchserve.stream.client_left" not in stays.attributes

    def test_a_failure_ends_every_request_of_the_call(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(CONTINUOUS, batch_size=2)
            step(service, ("a", b"5"))
            step(service, ("a", None), ("b", b"0"))
            step(service, ("c", b"7"))
        first, second = predict_spans(worker)
        for span in (first, second):
            assert span.status.status_code is StatusCode.ERROR
            assert span.attributes["error.type"] == "ValueError"
        assert "torchserve.stream.client_left" not in first.attributes

    def test_an_unsampled_one_keeps_the_callers_ids_on_its_lines(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(CONTINUOUS)
            for body in (b"2", None):
                predict(service, make_request(body, {"traceparent": TRACEPARENT[:-1] + "0"}, request_id="r"))
        assert predict_spans(worker) == []
        lines = [line for line in worker.lines.objects if line["event"] == "step"]
        assert [(line["trace_id"], line["trace_flags"]) for line in lines] == [(TRACE_ID, "00")] * 2


def serve_async(service: Service, *requests: dict[str, Any]) -> list[Any]:
    """Serve requests side by side, as TorchServe's asynchronous communication does."""
    from ts.async_service import AsyncService

    predict_one = AsyncService(service).service.predict

    async def serve() -> list[Any]:
        return await asyncio.gather(*(predict_one([request]) for request in requests))

    return [decode_answer(message).replies[0] for message in asyncio.run(serve())]


class TestAsyncService:
    def test_requests_that_run_side_by_side_keep_apart(self, worker: Worker) -> None:
        handler = """
            import asyncio, logging
            class Handler:
                def initialize(self, context):
                    self.count = 0
                async def inference(self, data, context):
                    logging.info("before")
                    self.count += 1
                    # Goes on when both requests are under way.
                    while self.count < 2:
                        await asyncio.sleep(0)
                    logging.info("after")
                    context.set_response_status(201 if data[0]["body"] == b"a" else 200)
                    return [data[0]["body"].decode()]
                async def handle(self, data, context):
                    return await self.inference(data, context)
        """
        with worker.patched():
            service = load_model(handler)
            replies = serve_async(
                service,
                make_request(b"a", {"traceparent": TRACEPARENT}, request_id="ra"),
                make_request(b"b", request_id="rb"),
            )
        assert [(reply.status_code, reply.body) for reply in replies] == [(201, b"a"), (200, b"b")]
        spans = {span.attributes["torchserve.request.id"]: span for span in predict_spans(worker)}
        assert format(spans["ra"].context.trace_id, "032x") == TRACE_ID
        assert spans["ra"].context.trace_id != spans["rb"].context.trace_id
        assert spans["ra"].attributes["torchserve.response.status_code"] == 201
        assert spans["rb"].attributes["torchserve.response.status_code"] == 200
        for request_id, span in spans.items():
            (phase,) = worker.children(span)
            assert phase.name == "inference"
            lines = [line for line in worker.lines.objects if line.get("request_id") == request_id]
            assert [line["event"] for line in lines if line["event"] in ("before", "after")] == ["before", "after"]
            assert {line["span_id"] for line in lines if line["event"] in ("before", "after")} == {
                format(phase.context.span_id, "016x")
            }

    @pytest.mark.parametrize("is_wrapped", [False, True])
    def test_a_failure_is_told_as_of_any_other(self, worker: Worker, is_wrapped: bool) -> None:
        handler = """
            import functools
            def plain(function):
                # As decorators that know nothing of coroutines do.
                return functools.wraps(function)(lambda *args: function(*args)) if WRAPPED else function
            class Handler:
                def initialize(self, context): pass
                @plain
                async def handle(self, data, context):
                    raise ValueError("no such digit")
        """
        with worker.patched():
            (reply,) = serve_async(load_model(f"WRAPPED = {is_wrapped}\n" + textwrap.dedent(handler)), make_request())
        assert reply.status_code == 503
        root = worker.span("predict tiny")
        assert root.attributes["error.type"] == "ValueError"
        assert [event.name for span in worker.spans for event in span.events] == ["exception"]
        (line,) = [line for line in worker.lines.objects if "exception" in line]
        assert line["span_id"] == format(root.context.span_id, "016x")

    def test_streams_are_counted(self, worker: Worker) -> None:
        handler = STREAM.replace("def handle", "async def handle")
        with worker.patched():
            serve_async(load_model(handler), make_request(), make_request())
        assert [span.attributes["torchserve.stream.chunk.count"] for span in predict_spans(worker)] == [3, 3]


MICRO_BATCHING = """
    import logging, threading
    import ts_otel_logging
    from ts.handler_utils.micro_batching import MicroBatching
    from ts.torch_handler.base_handler import BaseHandler
    class Handler(BaseHandler):
        def __init__(self):
            super().__init__()
            self.handle = MicroBatching(self, micro_batch_size=2, parallelism={"inference": 2})
        def initialize(self, context):
            self.initialized = True
        def preprocess(self, data):
            logging.info("in preprocess")
            return data
        def inference(self, data):
            with ts_otel_logging.span("tokenize"):
                logging.info("in inference")
            return data
        def postprocess(self, data):
            logging.info("in postprocess")
            return [row["body"].decode() for row in data]
"""


class TestMicroBatching:
    def test_phases_in_long_lived_threads_belong_to_the_request(self, worker: Worker) -> None:
        before = threading.active_count()
        with worker.patched():
            service = load_model(MICRO_BATCHING, batch_size=4)
            try:
                replies = predict(service, *[make_request(name.encode()) for name in "abcd"])
                predict(service, make_request(b"e", {"traceparent": TRACEPARENT}, request_id="alone"))
            finally:
                service._entry_point.__wrapped__.shutdown()
        assert threading.active_count() == before
        assert [reply.body for reply in replies] == [b"a", b"b", b"c", b"d"]
        batch = worker.span("batch tiny")
        assert sorted(names(worker.children(batch))) == sorted(PHASES * 2), "once each for both pieces"
        alone = next(s for s in predict_spans(worker) if s.attributes["torchserve.request.id"] == "alone")
        phases = worker.children(alone)
        assert names(phases) == PHASES
        for phase in phases:
            (line,) = [
                line
                for line in worker.lines.objects
                if line["event"] == f"in {phase.name}" and line.get("request_id") == "alone"
            ]
            assert line["trace_id"] == TRACE_ID
        (tokenize,) = [span for span in worker.children(phases[1]) if span.name == "tokenize"]
        assert tokenize.parent.span_id == phases[1].context.span_id
        lines = [line for line in worker.lines.objects if line["event"] == "in inference" and "request_ids" in line]
        assert [len(line["request_ids"]) for line in lines] == [4, 4]


class TestRanks:
    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)

    def serve(self, worker: Worker, handler: str = TestHandlerForms.BASE) -> Any:
        with worker.patched():
            service = load_model(handler)
            return service.predict([make_request(b"x", {"traceparent": TRACEPARENT})])

    def test_rank_0_answers_and_counts(self, worker: Worker) -> None:
        assert self.serve(worker)
        root = worker.span("predict tiny")
        assert (root.kind, root.attributes["torchserve.worker.rank"]) == (SpanKind.SERVER, 0)
        assert worker.points("torchserve.request.duration")[0].count == 1

    def test_the_others_are_in_the_same_trace_and_count_nothing(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert self.serve(worker) is None
        root = worker.span("predict tiny")
        assert (root.kind, root.attributes["torchserve.worker.rank"]) == (SpanKind.INTERNAL, 1)
        assert format(root.context.trace_id, "032x") == TRACE_ID
        assert names(worker.children(root)) == PHASES
        assert "torchserve.response.status_code" not in root.attributes
        assert worker.span("load tiny").attributes["torchserve.worker.rank"] == 1
        for metric in ("torchserve.request.duration", "torchserve.batch.size", "torchserve.phase.duration"):
            assert worker.points(metric) == []
        assert worker.points("torchserve.model.load.duration")[0].count == 1

    def test_a_failure_of_another_rank_is_one_though_it_answers_nothing(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("LOCAL_RANK", "1")
        fails = "def inference(self, data): raise ValueError"
        self.serve(worker, TestHandlerForms.BASE.replace("def inference(self, data): return data", fails))
        root = worker.span("predict tiny")
        assert root.status.status_code is StatusCode.ERROR
        assert root.attributes["error.type"] == "ValueError"

    @pytest.mark.parametrize("world_size", ["1", "", "many"])
    def test_one_process_alone_has_no_rank(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch, world_size: str
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", world_size)
        self.serve(worker)
        assert "torchserve.worker.rank" not in worker.span("predict tiny").attributes


class TestWorkflowNodes:
    @pytest.mark.parametrize(
        ("registered_as", "archive_says", "kind"),
        [
            ("animals__cats", "cats", SpanKind.INTERNAL),
            ("animals__cats", "animals__cats", SpanKind.SERVER),
            ("cats", "cats", SpanKind.SERVER),
        ],
    )
    def test_a_node_is_known_by_the_name_that_torchserve_gives_it(
        self, worker: Worker, registered_as: str, archive_says: str, kind: SpanKind
    ) -> None:
        with worker.patched():
            service = load_model(TestHandlerForms.BASE, model_name=registered_as, manifest={"modelName": archive_says})
            predict(service, make_request())
        assert worker.span(f"predict {registered_as}").kind is kind


class TestFailures:
    @pytest.mark.parametrize("phase", PHASES)
    def test_an_exception_in_any_phase_is_one_event_and_one_record(self, worker: Worker, phase: str) -> None:
        handler = (
            TestHandlerForms.BASE
            + f"""
            def {phase}(self, data): raise KeyError("{phase}")
        """
        )
        with worker.patched():
            (reply,) = predict(load_model(handler), make_request())
        assert reply.status_code == 503
        root = worker.span("predict tiny")
        failed = worker.children(root)[-1]
        assert failed.name == phase
        for span in (root, failed):
            assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "KeyError")
        assert [event.name for span in worker.spans for event in span.events] == ["exception"]
        assert len([line for line in worker.lines.objects if "exception" in line]) == 1

    @pytest.mark.parametrize(("code", "is_error"), [(404, False), (499, False), (500, True), (599, True)])
    def test_an_exception_with_a_code_of_its_own(self, worker: Worker, code: int, is_error: bool) -> None:
        handler = f"""
            from ts.utils.util import PredictionException
            def handle(data, context):
                if data: raise PredictionException("not today", {code})
        """
        with worker.patched():
            (reply,) = predict(load_model(handler), make_request())
        root = worker.span("predict tiny")
        assert reply.status_code == root.attributes["torchserve.response.status_code"] == code
        assert (root.status.status_code is StatusCode.ERROR) is is_error
        assert (root.attributes.get("error.type") is not None) is is_error

    def test_cuda_out_of_memory_is_507(self, worker: Worker) -> None:
        handler = "def handle(data, context):\n    if data: raise RuntimeError('CUDA out of memory')"
        with worker.patched():
            (reply,) = predict(load_model(handler), make_request())
        root = worker.span("predict tiny")
        assert reply.status_code == root.attributes["torchserve.response.status_code"] == 507
        assert root.attributes["error.type"] == "RuntimeError"

    def test_an_answer_that_is_no_json_is_503(self, worker: Worker) -> None:
        with worker.patched():
            (reply,) = predict(load_model("def handle(data, context): return data and [{1, 2}]"), make_request())
        root = worker.span("predict tiny")
        assert reply.status_code == root.attributes["torchserve.response.status_code"] == 503
        assert root.attributes["error.type"] == "503"
        (line,) = [line for line in worker.lines.objects if "exception" in line]
        assert line["span_id"] == format(root.context.span_id, "016x")

    def test_a_handler_that_ends_the_process_ends_its_span_first(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model("import sys\ndef handle(data, context): return data and sys.exit(3)")
            with pytest.raises(SystemExit):
                predict(service, make_request())
            logging.getLogger("acme").info("afterwards")
        root = worker.span("predict tiny")
        assert (root.status.status_code, root.attributes["error.type"]) == (StatusCode.ERROR, "SystemExit")
        assert "trace_id" not in worker.lines.last

    def test_a_load_that_fails_again_is_told_once_a_minute_with_how_often(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        now = 1_000.0
        monkeypatch.setattr(_load_failures.time, "time", lambda: now)
        tracing = Tracing(worker.tracer_provider, worker.metrics)

        def attempt(*, fails: bool = True) -> None:
            """What each new worker process does."""

            def load(*_args: Any) -> Any:
                if fails:
                    raise RuntimeError("no weights")
                service = types.ModuleType("service")
                service._entry_point = print
                return service

            process = _service.Process("9000")
            with contextlib.suppress(RuntimeError):
                _service.wrap_load(load, tracing, process, lambda: None)(None, "tiny", str(tmp_path))

        def told() -> list[Any]:
            return [span.attributes.get("torchserve.model.load.failure.count") for span in worker.spans]

        attempt()
        attempt()
        now += 59
        attempt()
        assert told() == [1]
        now += 2
        attempt()
        attempt()
        assert told() == [1, 3]
        attempt(fails=False)
        attempt()
        assert told() == [1, 3, None, 1]
        failures = [p for p in worker.points("torchserve.model.load.duration") if "error.type" in p.attributes]
        assert [point.count for point in failures] == [6], "each is measured"

    def test_what_cannot_be_counted_costs_no_answer(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        ids = 'type("Ids", (dict,), {"values": None})(context.request_ids)'
        handler = STREAM.replace("context.request_ids", ids)
        with worker.patched():
            service = load_model(handler)
            (reply,) = predict(service, make_request())
        assert reply.body == b"c"
        assert len(service.cl_socket.sent) == 2
