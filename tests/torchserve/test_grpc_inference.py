"""Requests over TorchServe's gRPC: their trace context is in their inputs; that of other requests is not."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest
from grpc_client import InferenceClient
from telemetry import Telemetry, new_caller
from torchserve_server import Model, TorchServe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torchserve

MODEL = "inputs"


@pytest.fixture(scope="module", autouse=True)
def _registered(server: TorchServe) -> None:
    server.register(Model(MODEL, "inputs.py"))


@pytest.fixture(scope="module")
def client(server: TorchServe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceClient]:
    client = InferenceClient(server.grpc_address, tmp_path_factory.mktemp("grpc"))
    yield client
    client.close()


class TestContext:
    def test_a_request_continues_its_callers_trace_and_the_handler_sees_its_data_alone(self, client, server, telemetry):
        caller = new_caller()
        since = server.console_size_bytes()
        context = {name: value.encode() for name, value in caller.headers.items()}
        answer = json.loads(client.predict(MODEL, data=b"7", baggage=b"tenant=7", **context))
        assert answer == {"inputs": ["data"], "properties": ["data"]}
        spans = telemetry.wait_for_trace(caller.trace_id, f"predict {MODEL}", "handle")
        predict = spans[f"predict {MODEL}"]
        assert (predict.parent_span_id, predict.kind, predict.status) == (caller.span_id, "SERVER", "UNSET")
        assert predict.attributes["torchserve.response.status_code"] == 200
        line = server.wait_for_line(lambda line: "Inputs seen" in line, "the handler's line", since)
        assert json.loads(line)["trace_id"] == caller.trace_id

    def test_so_does_a_stream(self, client, telemetry):
        caller = new_caller()
        context = {name: value.encode() for name, value in caller.headers.items()}
        parts = client.stream(MODEL, parts=b"3", **context)
        assert [json.loads(part)["inputs"] for part in parts] == [["parts"]] * 3
        predict = telemetry.wait_for_trace(caller.trace_id, f"predict {MODEL}", "handle")[f"predict {MODEL}"]
        assert predict.parent_span_id == caller.span_id
        assert predict.attributes["torchserve.stream.chunk.count"] == 3


class TestHttp:
    @staticmethod
    def in_query(server: TorchServe, context: dict[str, str]) -> Any:
        """The barest request there is: HTTP/1.0, not one header."""
        host, _, port = urlsplit(server.inference_url).netloc.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f"GET /{MODEL}/predict?{urlencode(context)} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            # TorchServe keeps the connection open.
            while b"}" not in answer:
                answer += connection.recv(65_536)
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    @staticmethod
    def in_form(server: TorchServe, context: dict[str, str]) -> Any:
        return server.client.post(f"/predictions/{MODEL}", data=context).json()

    @staticmethod
    def in_multipart_form(server: TorchServe, context: dict[str, str]) -> Any:
        files = {name: (None, value) for name, value in context.items()}
        return server.client.post(f"/predictions/{MODEL}", files=files).json()

    @pytest.mark.parametrize("send", ["in_query", "in_form", "in_multipart_form"])
    def test_a_context_in_a_query_string_or_form_is_data(self, client, server: TorchServe, telemetry: Telemetry, send):
        caller, later = new_caller(), new_caller()
        answer = getattr(self, send)(server, caller.headers)
        assert "traceparent" in answer["inputs"]
        assert "traceparent" in answer["properties"]
        # What comes after it has arrived: so has it, under a trace of its own.
        client.predict(MODEL, data=b"7", traceparent=later.headers["traceparent"].encode())
        telemetry.wait_for_trace(later.trace_id, f"predict {MODEL}", "handle")
        assert telemetry.spans(caller.trace_id) == []
