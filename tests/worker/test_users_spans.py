"""Spans of instrumentation packages inside a handler: they stand below the phase that they were made in."""

from __future__ import annotations

import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

from debian_programs import environ, program
from in_process import load_model, make_request, predict
from serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from in_memory_worker import Worker

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"

HANDLER = """
    import httpx, redis, requests, sqlalchemy
    import ts_otel_logging
    from ts.torch_handler.base_handler import BaseHandler

    class Handler(BaseHandler):
        def initialize(self, context):
            self.engine = sqlalchemy.create_engine("sqlite://")
            self.redis = redis.Redis(unix_socket_path={redis_socket!r})
        def preprocess(self, data):
            session = requests.Session()
            session.trust_env = False
            with session:
                return [session.get({url!r} + "/requests").text]
        def inference(self, data):
            self.redis.set("answer", data[0])
            answer = self.redis.get("answer").decode()
            with ts_otel_logging.span("look up"):
                with self.engine.connect() as connection:
                    return [connection.execute(sqlalchemy.text("select :answer"), dict(answer=answer)).scalar_one()]
        def postprocess(self, data):
            with httpx.Client(trust_env=False) as client:
                answer = client.get({url!r} + "/httpx").text
            self.redis.close()
            self.engine.dispose()
            return [data[0] + answer]
"""


class Server(ThreadingHTTPServer):
    """Answers with the path; keeps each request's ``traceparent`` by its path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.callers: dict[str, str] = {}


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.callers[self.path] = self.headers["traceparent"]
        self.send_response(200)
        self.send_header("content-length", str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[Server]:
    server = Server()
    with serving(server):
        yield server


@pytest.fixture
def redis_socket(tmp_path: Path) -> Iterator[str]:
    """A real Redis, on a socket of its own and without files."""
    path = str(tmp_path / "redis.sock")
    options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(
        [program("redis-server"), *options], env=environ(), stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            assert any("eady to accept connections" in line for line in server.stdout)
            yield path
        finally:
            server.terminate()
            # It says good-bye.
            server.stdout.read()


@pytest.fixture
def _instrumented(worker: Worker) -> Iterator[None]:
    instrumentors = [
        RequestsInstrumentor(), HTTPXClientInstrumentor(), RedisInstrumentor(), SQLAlchemyInstrumentor()
    ]  # fmt: skip
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=worker.tracer_provider)
    yield
    for instrumentor in instrumentors:
        instrumentor.uninstrument()


@pytest.mark.usefixtures("_instrumented")
def test_each_is_below_its_phase(worker: Worker, web_server: Server, redis_socket: str) -> None:
    url = f"http://127.0.0.1:{web_server.server_port}"
    with worker.patched():
        service = load_model(HANDLER.format(url=url, redis_socket=redis_socket))
        (reply,) = predict(service, make_request(b"x", {"traceparent": TRACEPARENT}))
    assert reply.body == b"/requests/httpx"

    def below(name: str) -> list[tuple[str, str]]:
        return [
            (span.instrumentation_scope.name.rpartition(".")[2], span.name)
            for span in worker.children(worker.span(name))
        ]

    assert below("predict tiny") == [("ts_otel_logging", name) for name in ("preprocess", "inference", "postprocess")]
    assert below("preprocess") == [("requests", "GET")]
    assert below("inference") == [("redis", "SET"), ("redis", "GET"), ("ts_otel_logging", "look up")]
    assert below("look up")[-1] == ("sqlalchemy", "select")
    assert below("postprocess") == [("httpx", "GET")]
    for path, phase in (("/requests", "preprocess"), ("/httpx", "postprocess")):
        (child,) = worker.children(worker.span(phase))
        _, trace_id, span_id, _ = web_server.callers[path].split("-")
        assert (trace_id, span_id) == (TRACE_ID, format(child.context.span_id, "016x"))
    mine = [span for span in worker.spans if span.context.trace_id == int(TRACE_ID, 16)]
    assert len({span.context.span_id for span in mine}) == len(mine)
