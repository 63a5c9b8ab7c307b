"""What people use today, and ours, set up alike: handlers for lines, and whole stacks that export."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, TextIO

import orjson
import structlog
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from pythonjsonlogger.orjson import OrjsonFormatter

from benchmarks.harness import OURS
from benchmarks.receivers import GRPC, HTTP
from ts_otel_logging import BridgeHandler
from ts_otel_logging._metrics import Metrics
from ts_otel_logging._requests import IncomingRequest, Model, Outcome
from ts_otel_logging._sdk import build_providers
from ts_otel_logging._tracing import Call, Tracing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OURS_GRPC = f"{OURS}, gRPC"
FORMATTER = "structlog ProcessorFormatter, orjson"
FORMATTER_JSON = "structlog ProcessorFormatter, json"
JSON_LOGGER = "python-json-logger, orjson, trace ids"
PLAIN = "plain text StreamHandler"
STOCK, STOCK_GRPC = "stock parts", "stock parts, gRPC"
LOGFIRE = "logfire"

logger = logging.getLogger("acme.model")
logger.setLevel(logging.INFO)
logger.propagate = False

PHASES = ("preprocess", "inference", "postprocess")
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
UNSAMPLED_HEADERS = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-00"}
REQUEST_ID = "b3c2a5de-6d5c-4f1b-9c39-0f4a3f6b1d10"
ATTRIBUTES = {
    "torchserve.model.name": "digits",
    "torchserve.model.version": "1.0",
    "torchserve.device": "cpu",
    "torchserve.worker.id": "9000",
    "torchserve.batch.size": 1,
}
MODEL = Model("digits", "1.0", "cpu", "9000")
NEVER_MS = 3_600_000
FLUSH_SECONDS = 30


def add_trace_ids(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
    """A structlog processor, as OpenTelemetry's and structlog's documentation have it."""
    context = trace.get_current_span().get_span_context()
    event_dict["trace_id"] = f"{context.trace_id:032x}"
    event_dict["span_id"] = f"{context.span_id:016x}"
    event_dict["trace_flags"] = f"{context.trace_flags:02x}"
    return event_dict


class TraceFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.update(add_trace_ids(None, "", {}))
        return True


def with_formatter(stream: TextIO, formatter: logging.Formatter, *filters: logging.Filter) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    for item in filters:
        handler.addFilter(item)
    return handler


def orjson_renderer(value: Any, **_: Any) -> str:
    return orjson.dumps(value).decode()


def processor_formatter(
    *processors: Any, before: Sequence[Any] = (), serializer: Optional[Callable[..., Any]] = orjson_renderer
) -> logging.Formatter:
    stdlib = structlog.stdlib
    renderer = structlog.processors.JSONRenderer(**({} if serializer is None else {"serializer": serializer}))
    return stdlib.ProcessorFormatter(
        processors=[stdlib.ProcessorFormatter.remove_processors_meta, *processors, renderer],
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            stdlib.add_log_level,
            stdlib.add_logger_name,
            stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_trace_ids,
            *before,
        ],
    )


def json_logger(stream: TextIO, *filters: logging.Filter) -> logging.Handler:
    formatter = OrjsonFormatter(
        "%(levelname)s %(name)s %(message)s", timestamp=True, rename_fields={"message": "event"}
    )
    return with_formatter(stream, formatter, TraceFilter(), *filters)


class Stack(NamedTuple):
    """Everything that a process exports with.

    Attributes:
        handlers: For the lines and their OTLP records.
        request: Makes one request's spans, and calls its argument in two of the three phases.
        flush: Sends what waits.
        flush_logs: Sends the log records that wait: measurements leave every ten seconds, not with each batch of them.
        tracer: Starts spans.
        close: Sends what waits, and ends its threads.
    """

    handlers: tuple[logging.Handler, ...]
    request: Callable[[Callable[[], None]], None]
    flush: Callable[[], object]
    flush_logs: Callable[[], object]
    tracer: trace.Tracer
    close: Callable[[], object]


def no_work() -> None:
    """Be a phase in which nothing is logged."""


def log_two_extras() -> None:
    logger.info("Inference complete", extra={"inference_latency": 0.0123456, "digit": 7})


def request_by_the_api(
    tracer: trace.Tracer, record: Callable[[float], None], headers: dict[str, str], work: Callable[[], None]
) -> None:
    """One request as OpenTelemetry's own API has it."""
    started = time.perf_counter()
    context = propagate.extract(headers, Context())
    attributes = {**ATTRIBUTES, "torchserve.request.id": REQUEST_ID}
    with tracer.start_as_current_span("predict digits", context, SpanKind.SERVER, attributes) as span:
        for phase in PHASES:
            with tracer.start_as_current_span(phase):
                if phase != "preprocess":
                    work()
        span.set_attribute("torchserve.response.status_code", 200)
        record(time.perf_counter() - started)


def request_by_the_worker(
    tracing: Tracing, headers: dict[str, str], work: Callable[[], None], models: Iterable[Model] = (MODEL,)
) -> None:
    """One request as the worker's patches have it."""
    for model in models:
        call = Call(tracing, model, [IncomingRequest(REQUEST_ID, headers)])
        for phase in PHASES:
            with call.phase(phase):
                if phase != "preprocess":
                    work()
        call.end([Outcome(200)])
        call.leave()


def batch_by_the_worker(tracing: Tracing, members: int) -> None:
    """One batch of requests that are all sampled, as the worker's patches have it."""
    call = Call(tracing, MODEL, [IncomingRequest(f"request-{index}", HEADERS) for index in range(members)])
    for phase in PHASES:
        with call.phase(phase):
            pass
    call.end([Outcome(200)] * members)
    call.leave()


def our_providers(endpoint: str, folder: str, protocol: str = HTTP, **environ: str) -> Any:
    """Return our providers; their measurements leave at a flush only."""
    return build_providers(
        {
            # What the stock parts read by themselves: the guard's.
            **{key: value for key, value in os.environ.items() if key.startswith("OTEL_")},
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_METRIC_EXPORT_INTERVAL": str(NEVER_MS),
            **environ,
        },
        resource_attributes={},
        queue_bytes=4_194_304,
        file_dir=folder,
        worker_name="9000",
        report=lambda event, **fields: print(event, fields, file=sys.stderr),
    )


def our_stack(
    endpoint: str,
    folder: str,
    stream: TextIO,
    protocol: str = HTTP,
    headers: dict[str, str] = HEADERS,
    **environ: str,
) -> Stack:
    """Return ours: what a worker has, without TorchServe's part."""
    providers = our_providers(endpoint, folder, protocol, **environ)
    meters = providers.meter_provider
    tracing = Tracing(providers.tracer_provider, None if meters is None else Metrics(meters))
    return Stack(
        (BridgeHandler(stream=stream, logger_provider=providers.logger_provider),),
        lambda work: request_by_the_worker(tracing, headers, work),
        lambda: providers.force_flush(FLUSH_SECONDS),
        providers.logger_provider.force_flush if providers.logger_provider else lambda: None,
        providers.tracer_provider.get_tracer("benchmark"),
        lambda: providers.shutdown(FLUSH_SECONDS),
    )


def stock_exporters(endpoint: str, protocol: str) -> tuple[Any, Any, Any]:
    """Return OpenTelemetry's exporters of spans, log records and metrics."""
    if protocol == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc import _log_exporter, metric_exporter, trace_exporter

        return (
            trace_exporter.OTLPSpanExporter(endpoint, insecure=True),
            _log_exporter.OTLPLogExporter(endpoint, insecure=True),
            metric_exporter.OTLPMetricExporter(endpoint, insecure=True),
        )
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return (
        OTLPSpanExporter(f"{endpoint}/v1/traces"),
        OTLPLogExporter(f"{endpoint}/v1/logs"),
        OTLPMetricExporter(f"{endpoint}/v1/metrics"),
    )


def stock_providers(
    endpoint: str, stream: TextIO, protocol: str = HTTP, headers: dict[str, str] = HEADERS, *, points: bool = True
) -> tuple[Stack, TracerProvider]:
    """Return OpenTelemetry's own parts with their own defaults, and structlog's formatter for the line."""
    spans, logs, metrics = stock_exporters(endpoint, protocol)
    resource = Resource({"service.name": "digits"})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(spans))
    loggers = LoggerProvider(resource=resource)
    loggers.add_log_record_processor(BatchLogRecordProcessor(logs))
    meters = MeterProvider([PeriodicExportingMetricReader(metrics, NEVER_MS)], resource)
    histogram = meters.get_meter("benchmark").create_histogram("torchserve.request.duration", unit="s")
    tracer = tracers.get_tracer("benchmark")
    with warnings.catch_warnings():
        # Deprecated in the newest SDK; the oldest has no other.
        warnings.simplefilter("ignore")
        exported = LoggingHandler(logger_provider=loggers)

    def record(seconds: float) -> None:
        if points:
            histogram.record(seconds, {"torchserve.model.name": "digits", "torchserve.model.version": "1.0"})

    stack = Stack(
        (with_formatter(stream, processor_formatter()), exported),
        lambda work: request_by_the_api(tracer, record, headers, work),
        lambda: (tracers.force_flush(), loggers.force_flush(), meters.force_flush()),
        loggers.force_flush,
        tracer,
        lambda: (tracers.shutdown(), loggers.shutdown(), meters.shutdown()),
    )
    return stack, tracers


def stock_stack(
    endpoint: str, stream: TextIO, protocol: str = HTTP, headers: dict[str, str] = HEADERS, *, points: bool = True
) -> Stack:
    """Return the same without the provider."""
    return stock_providers(endpoint, stream, protocol, headers, points=points)[0]


def logfire_stack(endpoint: str, stream: TextIO) -> Stack:
    """Return logfire without its platform: its handler makes each record a span, on the console and by OTLP."""
    import logfire

    processor = BatchSpanProcessor(stock_exporters(endpoint, HTTP)[0])
    instance = logfire_instance(stream, additional_span_processors=[processor])
    return Stack(
        (logfire.LogfireLoggingHandler(logfire_instance=instance),),
        lambda work: work(),
        processor.force_flush,
        processor.force_flush,
        trace.NoOpTracer(),
        instance.shutdown,
    )


def logfire_instance(stream: TextIO, **options: Any) -> Any:
    """Return an instance of logfire that is not the global one, and talks to nobody."""
    import logfire

    console = logfire.ConsoleOptions(colors="never", output=stream, show_project_link=False)
    # Local, but for the propagator: it would be a part of all contenders.
    before = propagate.get_global_textmap()
    instance = logfire.configure(
        local=True, send_to_logfire=False, console=console, metrics=False, inspect_arguments=False, **options
    )
    propagate.set_global_textmap(before)
    return instance
