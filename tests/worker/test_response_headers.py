"""Response headers that the user asked for: what they say, and that nothing else of an answer changes."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.trace import NoOpTracerProvider

from in_process import decode_answer, load_model, make_request, predict

if TYPE_CHECKING:
    from in_memory_worker import Worker

TRACE_IDS = ["0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319c"]
ALL = ("server-timing", "traceresponse", "traceparent")

HANDLER = """
    from ts.handler_utils.utils import send_intermediate_predict_response
    from ts.torch_handler.base_handler import BaseHandler
    from ts.utils.util import PredictionException

    class Handler(BaseHandler):
        def initialize(self, context): pass
        def preprocess(self, data): return [row["body"] for row in data]
        def inference(self, rows):
            context = self.context
            for row in rows:
                if row == b"parts":
                    send_intermediate_predict_response(["part"] * len(rows), context.request_ids, "", 200, context)
                elif row == b"client error":
                    raise PredictionException("not like this", 400)
                elif row == b"failure":
                    raise ValueError("broken")
            return rows
        def postprocess(self, rows):
            for index, row in enumerate(rows):
                if row == b"no content":
                    self.context.set_response_status(204, "nothing", index)
                if row == b"own headers":
                    self.context.set_response_header(index, "X-Model", "tiny")
                    self.context.set_response_content_type(index, "text/plain")
            return [{"not": "JSON", "at all": {1}} if row == b"not JSON" else row for row in rows]
        def describe_handle(self): return {"model": "tiny"}
"""


def request(body: Any, index: int = 0) -> dict[str, Any]:
    return make_request(body, {"traceparent": f"00-{TRACE_IDS[index]}-b7ad6b7169203331-01"}, request_id=f"r{index}")


def test_each_of_a_batch_names_its_own_trace_and_the_phases_of_all(worker: Worker) -> None:
    with worker.patched(response_headers=ALL):
        replies = predict(load_model(HANDLER, batch_size=2), request(b"a", 0), request(b"b", 1))
    spans = [span for span in worker.spans if span.name == "predict tiny"]
    for reply, span, trace_id in zip(replies, spans, TRACE_IDS):
        parent = f"00-{trace_id}-{span.context.span_id:016x}-01"
        assert reply.headers["traceresponse"] == reply.headers["traceparent"] == parent
        assert reply.headers["server-timing"].startswith(f'trace;desc="{parent}", preprocess;dur=')
    timings = {reply.headers["server-timing"].partition(", ")[2] for reply in replies}
    assert len(timings) == 1


@pytest.mark.parametrize(
    "bodies",
    [
        [b"plain"],
        [b"a", b"b"],
        [b"parts"],
        [b"own headers", b"no content"],
        [b"client error"],
        [b"failure"],
        [b"not JSON"],
    ],
)
def test_nothing_else_of_an_answer_changes(worker: Worker, bodies: list[bytes]) -> None:
    answers = []
    for chosen in ((), ALL):
        with worker.patched(response_headers=chosen):
            service = load_model(HANDLER, batch_size=len(bodies))
            last = service.predict([request(body, index) for index, body in enumerate(bodies)])
        messages = [decode_answer(message) for message in (*service.cl_socket.sent, last)]
        # TorchServe sends only the first part's headers of a stream, before there are any of ours.
        ours = {name for reply in messages[-1].replies for name in reply.headers} & set(ALL)
        assert ours == (set(chosen) if messages[-1].status_code == 200 else set())
        for answer in messages:
            for reply in answer.replies:
                for name in ALL:
                    reply.headers.pop(name, None)
        answers.append(messages)
    assert answers[0] == answers[1]


def test_an_answer_with_a_status_of_its_own_has_them(worker: Worker) -> None:
    with worker.patched(response_headers=("traceresponse",)):
        (reply,) = predict(load_model(HANDLER), request(b"no content"))
    assert reply.status_code == 204
    assert TRACE_IDS[0] in reply.headers["traceresponse"]


def test_an_asynchronous_handlers_answer_has_them(worker: Worker) -> None:
    handler = """
        class Handler:
            def initialize(self, context): pass
            async def inference(self, data, context): return [row["body"] for row in data]
            async def handle(self, data, context): return await self.inference(data, context)
    """
    from ts.async_service import AsyncService

    with worker.patched(response_headers=ALL):
        service = AsyncService(load_model(handler)).service
        (reply,) = decode_answer(asyncio.run(service.predict([request(b"x")]))).replies
    assert reply.body == b"x"
    assert re.fullmatch(r'trace;desc="00-[0-9a-f-]+", inference;dur=[0-9.]+', reply.headers["server-timing"])
    assert TRACE_IDS[0] in reply.headers["traceparent"]


def test_an_unsampled_request_learns_that_it_is(worker: Worker) -> None:
    caller = {"traceparent": f"00-{TRACE_IDS[0]}-b7ad6b7169203331-00"}
    with worker.patched(response_headers=("traceresponse",)):
        (reply,) = predict(load_model(HANDLER), make_request(b"x", caller))
    assert reply.headers["traceresponse"].startswith(f"00-{TRACE_IDS[0]}-")
    assert reply.headers["traceresponse"].endswith("-00")


def test_without_an_sdk_and_a_caller_there_is_no_trace_to_name(worker: Worker) -> None:
    worker.tracer_provider = NoOpTracerProvider()
    with worker.patched(response_headers=ALL):
        (reply,) = predict(load_model(HANDLER), make_request(b"x"))
    assert list(reply.headers) == ["server-timing"]
    assert reply.headers["server-timing"].startswith("preprocess;dur=")
