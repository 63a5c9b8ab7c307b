"""The caller's time for one log line: CPU of its thread, inside a recording span, to a pipe that another process reads.

Each contender's handler is the only one of the logger. structlog's native logger makes no record of `logging`; logfire
prints text, not JSON.
"""

from __future__ import annotations

import itertools
import logging
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, TextIO

import ecs_logging
import orjson
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from benchmarks.contenders import (
    FORMATTER,
    FORMATTER_JSON,
    JSON_LOGGER,
    LOGFIRE,
    PLAIN,
    SPAN_ID,
    TRACE_ID,
    TraceFilter,
    add_trace_ids,
    json_logger,
    logfire_instance,
    logger,
    processor_formatter,
    with_formatter,
)
from benchmarks.harness import OURS, Bench, Goal, Workload
from benchmarks.receivers import line_reader
from ts_otel_logging import BridgeHandler
from ts_otel_logging._pipeline import Pipeline
from ts_otel_logging.processors import build_storm_collapser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span

    from benchmarks.harness import Rounds

FLOOR = "NullHandler: the floor"
UNMASKED = f"{OURS}, redaction off"
COLLAPSING = f"{OURS}, storms collapsed, no two records equal"
IN_A_STORM = f"{OURS}, storms collapsed, all records equal"
NATIVE = "structlog's native logger, orjson, no record"
ECS = "ecs-logging"

_GOALS = (Goal(0.45, peer=FORMATTER), Goal(0.60, peer=JSON_LOGGER), Goal(0.95, peer=PLAIN))
WORKLOADS = (
    Workload("lines.two", "A line with two extras", "µs", (*_GOALS, Goal(1.10, peer=UNMASKED))),
    Workload("lines.ten", "A line with ten extras", "µs"),
    Workload("lines.exception", "A line with an exception", "µs"),
    Workload(
        "lines.redaction",
        "A line with two secrets among four extras, masked",
        "µs",
        note="the peers mask by the names of keys alone; ours by the look of values too",
    ),
    Workload("lines.processors", "A line through three processors of the user's", "µs", (Goal(0.70, peer=FORMATTER),)),
    Workload("lines.unsampled", "A line of a request that is not sampled", "µs"),
)

MESSAGE = "Inference complete"
TWO = {"inference_latency": 0.0123456, "digit": 7}
TEN = {
    **TWO,
    "confidence": 0.987654,
    "batch": 4,
    "device": "cuda:0",
    "path": "/home/model-server/tmp/models/digits",
    "shape": [1, 28, 28],
    "cached": False,
    "tokenizer": None,
    "tenant": "acme-eu",
}
SECRETS = {**TWO, "password": "correct horse", "api_key": "0123456789abcdef"}  # nothing that opens anything
RECORDS, SLICES = 500, 10

Log = Callable[[dict[str, Any]], None]


class Line(NamedTuple):
    """A contender: the logger's one handler, or a call of its own that needs none."""

    handler: Optional[logging.Handler] = None
    log: Optional[Log] = None


def add_region(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
    event_dict["region"] = "eu-central-1"
    return event_dict


def round_latency(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
    event_dict["inference_latency"] = round(event_dict["inference_latency"], 3)
    return event_dict


def drop_nothing(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
    return event_dict


def number_records() -> Any:
    """Make no two events equal: what a storm's detection costs where there is none."""
    numbers = itertools.count()

    def add_number(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
        event_dict["number"] = next(numbers)
        return event_dict

    return add_number


USER_PROCESSORS = (add_region, round_latency, drop_nothing)
_SECRET_KEYS = frozenset({"password", "passwd", "secret", "token", "api_key", "apikey", "authorization", "cookie"})


def mask_keys(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
    for key in event_dict:
        if key in _SECRET_KEYS:
            event_dict[key] = "***"
    return event_dict


class MaskingFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        mask_keys(None, "", record.__dict__)
        return True


def unmasked(handler: BridgeHandler) -> BridgeHandler:
    # Users have no such switch: it is here for its price alone.
    handler.pipeline = Pipeline(handler.pipeline.processors, handler.pipeline.outputs, None)
    return handler


def native(stream: TextIO) -> Line:
    processors = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_trace_ids,
        structlog.processors.JSONRenderer(serializer=lambda value, **_: orjson.dumps(value)),
    ]
    bound = structlog.wrap_logger(
        structlog.BytesLogger(stream.buffer),  # type: ignore[attr-defined] # a pipe's
        processors,
        structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    ).bind(logger="acme.model")
    return Line(log=lambda extra: bound.info(MESSAGE, **extra))


def peers(stream: TextIO) -> dict[str, Line]:
    """What everybody has."""
    import logfire

    return {
        OURS: Line(BridgeHandler(stream=stream)),
        PLAIN: Line(with_formatter(stream, logging.Formatter("%(asctime)s %(levelname)s %(name)s - %(message)s"))),
        JSON_LOGGER: Line(json_logger(stream)),
        FORMATTER: Line(with_formatter(stream, processor_formatter())),
        FORMATTER_JSON: Line(with_formatter(stream, processor_formatter(serializer=None))),
        NATIVE: native(stream),
        ECS: Line(with_formatter(stream, ecs_logging.StdlibFormatter(), TraceFilter())),
        LOGFIRE: Line(logfire.LogfireLoggingHandler(logfire_instance=logfire_instance(stream))),
    }


def two_extras(stream: TextIO) -> dict[str, Line]:
    return {
        FLOOR: Line(logging.NullHandler()),
        **peers(stream),
        UNMASKED: Line(unmasked(BridgeHandler(stream=stream))),
        COLLAPSING: Line(BridgeHandler(stream=stream, processors=[number_records(), build_storm_collapser()])),
        IN_A_STORM: Line(BridgeHandler(stream=stream, processors=[build_storm_collapser()])),
    }


def exceptions(stream: TextIO) -> dict[str, Line]:
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    return {
        **{name: line for name, line in peers(stream).items() if name not in {FORMATTER_JSON, NATIVE}},
        FORMATTER: Line(with_formatter(stream, processor_formatter(before=[structlog.processors.format_exc_info]))),
        f"{FORMATTER}, structured": Line(with_formatter(stream, processor_formatter(before=[tracebacks]))),
    }


def redaction(stream: TextIO) -> dict[str, Line]:
    return {
        OURS: Line(BridgeHandler(stream=stream)),
        JSON_LOGGER: Line(json_logger(stream, MaskingFilter())),
        FORMATTER: Line(with_formatter(stream, processor_formatter(mask_keys))),
    }


def processors(stream: TextIO) -> dict[str, Line]:
    return {
        OURS: Line(BridgeHandler(stream=stream, processors=USER_PROCESSORS)),
        FORMATTER: Line(with_formatter(stream, processor_formatter(*USER_PROCESSORS))),
    }


def unsampled(stream: TextIO) -> dict[str, Line]:
    kept = (OURS, PLAIN, JSON_LOGGER, FORMATTER)
    return {name: line for name, line in peers(stream).items() if name in kept}


def log_info(extra: dict[str, Any]) -> None:
    logger.info(MESSAGE, extra=extra)


def fail(depth: int) -> None:
    if depth:
        fail(depth - 1)
    raise ValueError("shape mismatch: expected (1, 28, 28)")


def log_exception(extra: dict[str, Any]) -> None:
    try:
        fail(3)
    except ValueError:
        logger.exception("Inference failed", extra=extra)


def turn(line: Line, log: Log, extra: dict[str, Any], records: int) -> Callable[[], float]:
    call = line.log or log

    def take() -> float:
        logger.handlers = [] if line.handler is None else [line.handler]
        started = time.thread_time()
        for _ in range(records):
            call(extra)
        return (time.thread_time() - started) / records * 1e6

    return take


def measure(bench: Bench) -> Iterator[dict[str, Rounds]]:
    """Measure every workload, one after the other."""
    recording = TracerProvider().get_tracer("benchmark").start_span("predict digits")
    not_sampled = NonRecordingSpan(SpanContext(int(TRACE_ID, 16), int(SPAN_ID, 16), True, TraceFlags(0)))  # noqa: FBT003
    parts: tuple[tuple[str, Callable[[TextIO], dict[str, Line]], Log, dict[str, Any], int, Span], ...] = (
        ("lines.two", two_extras, log_info, TWO, RECORDS, recording),
        ("lines.ten", peers, log_info, TEN, RECORDS, recording),
        ("lines.exception", exceptions, log_exception, TWO, RECORDS // 5, recording),
        ("lines.redaction", redaction, log_info, SECRETS, RECORDS, recording),
        ("lines.processors", processors, log_info, TWO, RECORDS, recording),
        ("lines.unsampled", unsampled, log_info, TWO, RECORDS, not_sampled),
    )
    with line_reader() as stream:
        for name, contenders, log, extra, records, span in parts:
            with trace.use_span(span):
                turns = {
                    contender: turn(line, log, extra, 20 if bench.is_smoke else records)
                    for contender, line in contenders(stream).items()
                }
                yield bench.interleave(name, turns, slices=bench.count(SLICES))
            logger.handlers.clear()
