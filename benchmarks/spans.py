"""The whole cost of a request's spans, lines and points, all threads, beside OpenTelemetry's own parts: as ratios.

Contenders take turns in one run and export to one receiver in a process of its own; what waits is sent after every
hundred requests, so that nothing is dropped. Times on shared machines are noisy: compare only ratios of one run.
``python benchmarks/spans.py --help``.

Ours does more: it reads the caller's context from the request's headers, keeps the request's ids for its lines, and
of a whole request measures three phases and the batch's size beside the duration.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from lines import processor_formatter, show, with_formatter
from ts_otel_logging import BridgeHandler
from ts_otel_logging._metrics import Metrics
from ts_otel_logging._requests import IncomingRequest, Model, Outcome
from ts_otel_logging._sdk import build_providers
from ts_otel_logging._tracing import Call, Tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS, STOCK = "ts-otel-logging", "stock parts"
PLAIN, OUR_EXPORT = "the SDK's spans, its exporter", "the SDK's spans, our export"
WHOLE, CALLER = "whole", "caller's"
# Goals of the project, as (contender, peer, ratio of their whole cost at most).
SPAN_GOALS = ((OURS, PLAIN, 0.55), (OUR_EXPORT, PLAIN, 0.55))
REQUEST_GOALS = ((OURS, STOCK, 0.50),)

PHASES = ("preprocess", "inference", "postprocess")
HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
ATTRIBUTES = {
    "torchserve.model.name": "digits",
    "torchserve.model.version": "1.0",
    "torchserve.device": "cpu",
    "torchserve.worker.id": "9000",
    "torchserve.batch.size": 1,
}
MODEL = Model("digits", "1.0", "cpu", "9000")
REQUESTS_A_FLUSH = 100
NEVER = 3_600_000

logger = logging.getLogger("acme.model")


class Contender(NamedTuple):
    request: Callable[[], None]
    flush: Callable[[], object]
    handlers: tuple[logging.Handler, ...] = ()


def log(_phase: str) -> None:
    logger.info("Inference complete", extra={"inference_latency": 0.0123456, "digit": 7})


def log_nothing(_phase: str) -> None:
    pass


def with_tracer(tracer: trace.Tracer, work: Callable[[str], None], record: Callable[[float], None]) -> None:
    """One request as OpenTelemetry's own API has it."""
    started = time.perf_counter()
    context = propagate.extract(HEADERS, Context())
    attributes = {**ATTRIBUTES, "torchserve.request.id": "b3c2a5de-6d5c-4f1b-9c39-0f4a3f6b1d10"}
    with tracer.start_as_current_span("predict digits", context, SpanKind.SERVER, attributes) as span:
        for phase in PHASES:
            with tracer.start_as_current_span(phase):
                if phase != "preprocess":
                    work(phase)
        span.set_attribute("torchserve.response.status_code", 200)
        record(time.perf_counter() - started)


def with_call(tracing: Tracing, work: Callable[[str], None]) -> None:
    """One request as the worker's patches have it."""
    call = Call(tracing, MODEL, [IncomingRequest("b3c2a5de-6d5c-4f1b-9c39-0f4a3f6b1d10", HEADERS)])
    for phase in PHASES:
        with call.phase(phase):
            if phase != "preprocess":
                work(phase)
    call.end([Outcome(200)])
    call.leave()


def our_providers(endpoint: str, folder: str) -> Any:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRIC_EXPORT_INTERVAL": str(NEVER)}
    providers = build_providers(
        environ,
        resource_attributes={},
        queue_bytes=4_194_304,
        file_dir=folder,
        worker_name="9000",
        report=lambda event, **fields: sys.exit(f"{event} {fields}"),
    )
    return providers, lambda: providers.force_flush(30)


def span_contenders(endpoint: str, folder: str) -> Iterator[tuple[str, Contender]]:
    providers, flush = our_providers(endpoint, folder)
    tracing = Tracing(providers.tracer_provider, None)
    yield OURS, Contender(lambda: with_call(tracing, log_nothing), flush)
    tracer = providers.tracer_provider.get_tracer("benchmark")
    yield OUR_EXPORT, Contender(lambda: with_tracer(tracer, log_nothing, lambda _: None), flush)
    stock = TracerProvider(resource=Resource({"service.name": "digits"}))
    stock.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    stock_tracer = stock.get_tracer("benchmark")
    yield PLAIN, Contender(lambda: with_tracer(stock_tracer, log_nothing, lambda _: None), stock.force_flush)


def request_contenders(endpoint: str, folder: str, stream: TextIO) -> Iterator[tuple[str, Contender]]:
    providers, flush = our_providers(endpoint, folder)
    tracing = Tracing(providers.tracer_provider, Metrics(providers.meter_provider))
    bridge = BridgeHandler(stream=stream, logger_provider=providers.logger_provider)
    yield OURS, Contender(lambda: with_call(tracing, log), flush, (bridge,))

    resource = Resource({"service.name": "digits"})
    stock = TracerProvider(resource=resource)
    stock.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    logs = LoggerProvider(resource=resource)
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(f"{endpoint}/v1/logs")))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{endpoint}/v1/metrics"), NEVER)
    meters = MeterProvider([reader], resource)
    histogram = meters.get_meter("benchmark").create_histogram("torchserve.request.duration", unit="s")
    tracer = stock.get_tracer("benchmark")
    with warnings.catch_warnings():
        # Deprecated in the newest SDK; the oldest has no other.
        warnings.simplefilter("ignore")
        exported = LoggingHandler(logger_provider=logs)

    def record(seconds: float) -> None:
        histogram.record(seconds, {"torchserve.model.name": "digits", "torchserve.model.version": "1.0"})

    yield (
        STOCK,
        Contender(
            lambda: with_tracer(tracer, log, record),
            lambda: (stock.force_flush(), logs.force_flush(), meters.force_flush()),
            (with_formatter(stream, processor_formatter()), exported),
        ),
    )


def measure(contenders: dict[str, Contender], rounds: int, requests: int) -> dict[str, dict[str, list[float]]]:
    """Return each contender's microseconds a request, one value a round: of the caller's thread, and of all."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    times: dict[str, dict[str, list[float]]] = {WHOLE: {}, CALLER: {}}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            logger.handlers = list(contender.handlers)
            whole, caller = time.process_time(), 0.0
            for _ in range(0, requests, REQUESTS_A_FLUSH):
                started = time.thread_time()
                for _ in range(REQUESTS_A_FLUSH):
                    contender.request()
                caller += time.thread_time() - started
                contender.flush()
            whole = time.process_time() - whole
            if number:  # the first round warms up
                times[WHOLE].setdefault(name, []).append(whole / requests * 1e6)
                times[CALLER].setdefault(name, []).append(caller / requests * 1e6)
    logger.handlers.clear()
    return times


class Receiver(BaseHTTPRequestHandler):
    """Takes everything, and looks at nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def receive() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=2_000, help="requests a contender and round")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        receive()
        return 0
    os.environ["NO_PROXY"] = "127.0.0.1"
    with ExitStack() as stack:
        receiver = stack.enter_context(
            subprocess.Popen([sys.executable, __file__, "--receive"], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(receiver.terminate)
        reader = stack.enter_context(
            subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        )
        folder = stack.enter_context(TemporaryDirectory())
        assert receiver.stdout is not None
        assert reader.stdin is not None
        endpoint = f"http://127.0.0.1:{int(receiver.stdout.readline())}"
        parts = f"Python {platform.python_version()}, {arguments.rounds} rounds"
        requests = max(arguments.requests, REQUESTS_A_FLUSH)
        for what, contenders, goals in (
            ("1 + 3 spans", span_contenders(endpoint, folder), SPAN_GOALS),
            ("a request: 4 spans, 2 lines, 1 point", request_contenders(endpoint, folder, reader.stdin), REQUEST_GOALS),
        ):
            times = measure(dict(contenders), arguments.rounds, requests)
            show(f"{what}, {WHOLE} cost (CPU of all threads), {parts}", times[WHOLE], goals)
            show(f"{what}, {CALLER} thread alone, {parts}", times[CALLER], ())
    return 0


if __name__ == "__main__":
    sys.exit(main())
