"""An OTLP receiver inside the test process: HTTP and gRPC, decoded with the official protobuf classes.

::

    with OtlpReceiver() as receiver:
        receiver.script(Answer(status_code=503, retry_after="1"))   # the next request; later ones succeed
        ...  # export to receiver.http_endpoint or receiver.grpc_endpoint
        receiver.wait_for(lambda got: len(got.spans) == 4)
        assert receiver.spans[0].span.name == "predict digits"
"""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

if TYPE_CHECKING:
    import ssl

    import grpc
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_OK = 200
_LINGER_OFF = struct.pack("ii", 1, 0)


class ReceivedSpan(NamedTuple):
    """A span with what it came under."""

    span: Span
    resource: Resource
    scope: InstrumentationScope
    schema_url: str


class ReceivedLogRecord(NamedTuple):
    """A log record with what it came under."""

    record: LogRecord
    resource: Resource
    scope: InstrumentationScope
    schema_url: str


class ReceivedMetric(NamedTuple):
    """One metric of one export, with what it came under."""

    metric: Metric
    resource: Resource
    scope: InstrumentationScope
    schema_url: str


@dataclass(frozen=True)
class Answer:
    """How to answer one request.

    Args:
        status_code: The HTTP status; the data of a request is kept only with 200.
        grpc_status: The gRPC status by name (``UNAVAILABLE``), used over gRPC only; the data is kept only with ``OK``.
        retry_after: The value of the ``Retry-After`` header.
        headers: More response headers.
        rejected: How many items a 200 refuses by its ``partial_success``.
        message: The ``error_message`` of the ``partial_success``.
        hang: Answer only when the receiver closes.
        reset: Break the connection instead of answering (HTTP only).
    """

    status_code: int = _OK
    grpc_status: str = "OK"
    retry_after: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    rejected: int = 0
    message: str = ""
    hang: bool = False
    reset: bool = False


class Request(NamedTuple):
    """One export request, whatever the answer was.

    Args:
        signal: ``traces``, ``logs`` or ``metrics``; the path itself when it is none of them.
        transport: ``http`` or ``grpc``.
        headers: HTTP headers or gRPC metadata, names in lower case.
        items: How many spans, log records or metrics it holds.
        answer: What it was answered.
    """

    signal: str
    transport: str
    headers: dict[str, str]
    items: int
    answer: Answer


class _Signal(NamedTuple):
    request_class: Any
    response_class: Any
    rejected_field: str


_SIGNALS = {
    "traces": _Signal(
        trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse, "rejected_spans"
    ),
    "logs": _Signal(
        logs_service_pb2.ExportLogsServiceRequest, logs_service_pb2.ExportLogsServiceResponse, "rejected_log_records"
    ),
    "metrics": _Signal(
        metrics_service_pb2.ExportMetricsServiceRequest,
        metrics_service_pb2.ExportMetricsServiceResponse,
        "rejected_data_points",
    ),
}


def unused_endpoint() -> str:
    """An HTTP endpoint on this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class OtlpReceiver:
    """Collects what exporters send, until the ``with`` block ends.

    Args:
        tls: Speak HTTPS so.

    Attributes:
        spans: Every span so far, in the order of arrival.
        log_records: Every log record so far.
        metrics: Every metric so far; a metric that is exported ten times is here ten times.
        requests: Every request so far, refused ones too.
        default_answer: The answer when none is scripted.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.spans: list[ReceivedSpan] = []
        self.log_records: list[ReceivedLogRecord] = []
        self.metrics: list[ReceivedMetric] = []
        self.requests: list[Request] = []
        self.default_answer = Answer()
        self._script: deque[Answer] = deque()
        self._arrived = threading.Condition(threading.RLock())
        self._closing = threading.Event()
        self._http: _Server | None = None
        self._http_thread: threading.Thread | None = None
        self._grpc: grpc.Server | None = None
        self._grpc_port = 0

    def __enter__(self) -> OtlpReceiver:  # noqa: PYI034 - Self needs Python 3.11
        self._http = _Server(("127.0.0.1", 0), _handler(self))
        if self._tls is not None:
            self._http.socket = self._tls.wrap_socket(self._http.socket, server_side=True)
        self._http_thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, name="otlp-receiver", daemon=True
        )
        self._http_thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        assert self._http is not None
        assert self._http_thread is not None
        self._http.shutdown()
        self._http.server_close()
        self._http_thread.join()
        if self._grpc is not None:
            self._grpc.stop(grace=None).wait()

    @property
    def http_endpoint(self) -> str:
        """The base URL for ``OTEL_EXPORTER_OTLP_ENDPOINT`` with http/protobuf."""
        assert self._http is not None
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._http.server_address[1]}"

    @property
    def grpc_endpoint(self) -> str:
        """The URL for ``OTEL_EXPORTER_OTLP_ENDPOINT`` with grpc; the server starts when this is first asked for."""
        if self._grpc is None:
            self._grpc = self._start_grpc()
        return f"http://127.0.0.1:{self._grpc_port}"

    def script(self, *answers: Answer) -> None:
        """Answer the next requests so, in this order; then ``default_answer`` holds again."""
        with self._arrived:
            self._script.extend(answers)

    def wait_for(self, predicate: Callable[[OtlpReceiver], Any], timeout_seconds: float = 10.0) -> Any:
        """Return what ``predicate`` returns for this receiver, once that is true.

        Raises:
            AssertionError: It did not become true in time.
        """
        with self._arrived:
            result = self._arrived.wait_for(lambda: predicate(self), timeout_seconds)
            assert result, (
                f"not within {timeout_seconds} s: got {len(self.requests)} requests, {len(self.spans)} spans, "
                f"{len(self.log_records)} log records, {len(self.metrics)} metrics"
            )
            return result

    def requests_for(self, signal: str) -> list[Request]:
        """The requests of one signal so far."""
        with self._arrived:
            return [request for request in self.requests if request.signal == signal]

    def _next_answer(self) -> Answer:
        with self._arrived:
            return self._script.popleft() if self._script else self.default_answer

    def _receive(self, signal: str, transport: str, headers: dict[str, str], message: Any, answer: Answer) -> None:
        received = _flatten(signal, message)
        request = Request(signal, transport, headers, len(received), answer)
        kept = answer.grpc_status == "OK" if transport == "grpc" else answer.status_code == _OK
        with self._arrived:
            if kept and not answer.hang and not answer.reset:
                {"traces": self.spans, "logs": self.log_records, "metrics": self.metrics}[signal].extend(received)
            self.requests.append(request)
            self._arrived.notify_all()

    def _start_grpc(self) -> grpc.Server:
        import grpc
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

        server = grpc.server(ThreadPoolExecutor(8, "otlp-receiver-grpc"), options=[("grpc.so_reuseport", 0)])
        for signal, module, service in (
            ("traces", trace_service_pb2_grpc, "TraceService"),
            ("logs", logs_service_pb2_grpc, "LogsService"),
            ("metrics", metrics_service_pb2_grpc, "MetricsService"),
        ):
            base = getattr(module, f"{service}Servicer")
            servicer = type(service, (base,), {"Export": self._grpc_export(signal)})()
            getattr(module, f"add_{service}Servicer_to_server")(servicer, server)
        self._grpc_port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return server

    def _grpc_export(self, signal: str) -> Callable[..., Any]:
        def export(_: Any, message: Any, context: grpc.ServicerContext) -> Any:
            import grpc

            answer = self._next_answer()
            metadata = {key.lower(): str(value) for key, value in context.invocation_metadata()}
            self._receive(signal, "grpc", metadata, message, answer)
            if answer.hang:
                self._closing.wait()
            if answer.grpc_status != "OK":
                context.abort(getattr(grpc.StatusCode, answer.grpc_status), answer.message or "scripted")
            return _response(signal, answer)

        return export


def _response(signal: str, answer: Answer) -> Any:
    response = _SIGNALS[signal].response_class()
    if answer.rejected or answer.message:
        setattr(response.partial_success, _SIGNALS[signal].rejected_field, answer.rejected)
        response.partial_success.error_message = answer.message
    return response


def _flatten(signal: str, message: Any) -> list[Any]:
    if signal == "traces":
        return [
            ReceivedSpan(span, resource.resource, scope.scope, scope.schema_url)
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    if signal == "logs":
        return [
            ReceivedLogRecord(record, resource.resource, scope.scope, scope.schema_url)
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]
    if signal == "metrics":
        return [
            ReceivedMetric(metric, resource.resource, scope.scope, scope.schema_url)
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
    return []


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients under test break connections on purpose."""


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            encoding = self.headers.get("Content-Encoding")
            if encoding == "gzip":
                body = gzip.decompress(body)
            elif encoding == "deflate":
                body = zlib.decompress(body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = receiver._next_answer()
            signal = self.path.removeprefix("/v1/")
            if signal not in _SIGNALS:
                receiver._receive(self.path, "http", headers, None, Answer(status_code=404))
                self.send_error(404)
                return
            message = _SIGNALS[signal].request_class.FromString(body)
            receiver._receive(signal, "http", headers, message, answer)
            if answer.hang:
                receiver._closing.wait()
            if answer.hang or answer.reset:
                # Closing without lingering sends RST.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
                self.close_connection = True
                return
            payload = _response(signal, answer).SerializeToString() if answer.status_code == _OK else b""
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.retry_after is not None:
                self.send_header("Retry-After", answer.retry_after)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
