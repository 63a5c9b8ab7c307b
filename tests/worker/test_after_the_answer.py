"""What a request's end takes comes after its answer, where TorchServe's own loop serves."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from in_process import load_model, make_request, predict
from own_process import exported_spans

if TYPE_CHECKING:
    from pathlib import Path

    from in_memory_worker import Worker

HANDLER = """
    from ts.torch_handler.base_handler import BaseHandler
    class Handler(BaseHandler):
        def initialize(self, context): pass
        def preprocess(self, data): return data
        def inference(self, data): return data
        def postprocess(self, data): return ["ok"] * len(data)
"""


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    from ts.protocol import otf_message_handler

    monkeypatch.setattr(otf_message_handler, "retrieve_msg", lambda _socket: (b"I", []))


def ask() -> None:
    """Wait for the next request, as TorchServe's loop does when it has sent an answer."""
    from ts.protocol import otf_message_handler

    otf_message_handler.retrieve_msg(None)


def names(worker: Worker) -> list[str]:
    return [span.name for span in worker.spans if span.name.startswith("predict ")]


class TestInTheLoop:
    def test_spans_end_and_measurements_are_made_when_the_answer_is_out(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(HANDLER)
            ask()
            predict(service, make_request())
            assert names(worker) == []
            ask()
            assert names(worker) == ["predict tiny"]
        (point,) = worker.points("torchserve.request.duration")
        assert point.count == 1
        assert {point.attributes["torchserve.phase.name"] for point in worker.points("torchserve.phase.duration")} == {
            "preprocess",
            "inference",
            "postprocess",
        }

    @pytest.mark.parametrize("size", [1, 2])
    def test_times_are_those_of_the_answer(self, worker: Worker, size: int) -> None:
        with worker.patched():
            service = load_model(HANDLER)
            ask()
            started = time.perf_counter()
            predict(service, *(make_request() for _ in range(size)))
            answered_nanos, seconds = time.time_ns(), time.perf_counter() - started
            while time.perf_counter() - started < 2 * seconds + 0.01:
                pass
            ask()
        for span in worker.spans:
            assert span.end_time <= answered_nanos, span.name
        (point,) = worker.points("torchserve.request.duration")
        assert 0 < point.max <= seconds

    def test_none_is_lost_where_the_loop_asks_for_none_in_between(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(HANDLER)
            ask()
            predict(service, make_request())
            predict(service, make_request())
            ask()
            assert names(worker) == ["predict tiny"] * 2

    def test_an_answers_status_is_its_own(self, worker: Worker) -> None:
        handler = HANDLER.replace(
            'return ["ok"] * len(data)',
            "self.context.set_response_status(data[0]['body']); return ['ok']",
        )
        with worker.patched():
            service = load_model(handler)
            for status in (201, 404):
                ask()
                predict(service, make_request(status))
            ask()
        spans = [span for span in worker.spans if span.name == "predict tiny"]
        assert [span.attributes["torchserve.response.status_code"] for span in spans] == [201, 404]

    def test_a_failure_is_told_at_once(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(HANDLER.replace("def inference(self, data): return data", "inference = None"))
            ask()
            predict(service, make_request())
            assert names(worker) == ["predict tiny"]

    def test_lines_after_the_answer_are_no_requests(self, worker: Worker) -> None:
        import logging

        with worker.patched():
            service = load_model(HANDLER)
            ask()
            predict(service, make_request())
            logging.getLogger("after").info("the answer is out")
        (line,) = [line for line in worker.lines.objects if line["event"] == "the answer is out"]
        assert "request_id" not in line
        assert "trace_id" not in line

    def test_what_is_switched_off_in_between_still_ends(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(HANDLER)
            ask()
            predict(service, make_request())
        assert names(worker) == ["predict tiny"]


class TestOutsideTheLoop:
    def test_another_threads_request_ends_with_its_answer(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(HANDLER)
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            predict(service, make_request())
            assert names(worker) == ["predict tiny"]

    def test_the_asynchronous_services_end_with_theirs(self, worker: Worker) -> None:
        from ts.async_service import AsyncService

        handler = """
            class Handler:
                def initialize(self, context): pass
                async def handle(self, data, context): return ["ok"]
        """
        with worker.patched():
            service = AsyncService(load_model(handler)).service
            # In a worker the loop has asked for the load, on the thread that then serves.
            ask()

            async def serve() -> Any:
                return await service.predict([make_request()])

            asyncio.run(serve())
            assert names(worker) == ["predict tiny"]


def test_the_last_one_of_a_worker_that_ends_is_exported(tmp_path: Path) -> None:
    program = f"""
        import ts_otel_logging
        from in_process import load_model, make_request, predict

        HANDLER = {HANDLER!r}
        load_model(HANDLER)
        from ts.protocol import otf_message_handler
        otf_message_handler.retrieve_msg = lambda socket: (b"I", [])
        ts_otel_logging.configure()
        service = load_model(HANDLER, model_name="last")
        otf_message_handler.retrieve_msg(None)
        predict(service, make_request())
    """
    assert "predict last" in exported_spans(tmp_path, program)
