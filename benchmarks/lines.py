"""A caller's time for one log line, beside what people use today: interleaved in one run, as ratios.

A record is ``logger.info(message, extra={two fields})`` inside a recording span, written to a pipe that another process
reads. Times on shared machines are noisy: compare only ratios of one run. ``python benchmarks/lines.py --help``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import platform
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Callable, TextIO

import orjson
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from pythonjsonlogger.orjson import OrjsonFormatter
from rich.console import Console
from rich.table import Table

from ts_otel_logging import BridgeHandler

if TYPE_CHECKING:
    from collections.abc import Sequence
from ts_otel_logging._pipeline import Pipeline
from ts_otel_logging.processors import build_storm_collapser

FLOOR = "NullHandler: the floor"
OURS = "ts-otel-logging"
OURS_UNMASKED = "ts-otel-logging, redaction off"
OURS_COLLAPSING = "ts-otel-logging, storms collapsed, no two records equal"
OURS_IN_A_STORM = "ts-otel-logging, storms collapsed, all records equal"
OURS_WITH_PROCESSORS = "ts-otel-logging, three processors"
STRUCTLOG = "structlog ProcessorFormatter, orjson"
STRUCTLOG_WITH_PROCESSORS = "structlog ProcessorFormatter, orjson, three processors"
JSON_LOGGER = "python-json-logger, orjson, trace ids"
PLAIN = "plain text StreamHandler"

# Goals of the project, as (contender, peer, ratio of their times at most).
GOALS = (
    (OURS, STRUCTLOG, 0.45),
    (OURS, JSON_LOGGER, 0.60),
    (OURS, PLAIN, 0.95),
    (OURS, OURS_UNMASKED, 1.10),
    (OURS_WITH_PROCESSORS, STRUCTLOG_WITH_PROCESSORS, 0.70),
)


def add_trace_ids(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
    context = trace.get_current_span().get_span_context()
    event_dict["trace_id"] = f"{context.trace_id:032x}"
    event_dict["span_id"] = f"{context.span_id:016x}"
    event_dict["trace_flags"] = f"{context.trace_flags:02x}"
    return event_dict


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


class TraceFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.update(add_trace_ids(None, "", {}))
        return True


def with_formatter(stream: TextIO, formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    return handler


def processor_formatter(*processors: Any) -> logging.Formatter:
    stdlib = structlog.stdlib
    return stdlib.ProcessorFormatter(
        processors=[
            stdlib.ProcessorFormatter.remove_processors_meta,
            *processors,
            structlog.processors.JSONRenderer(serializer=lambda value, **_: orjson.dumps(value).decode()),
        ],
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            stdlib.add_log_level,
            stdlib.add_logger_name,
            stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_trace_ids,
        ],
    )


def without_redaction(handler: BridgeHandler) -> BridgeHandler:
    # Users have no such switch: it is here for its price alone.
    handler.pipeline = Pipeline(handler.pipeline.processors, handler.pipeline.outputs, None)
    return handler


def contenders(stream: TextIO) -> dict[str, logging.Handler]:
    json_logger = with_formatter(
        stream,
        OrjsonFormatter("%(levelname)s %(name)s %(message)s", timestamp=True, rename_fields={"message": "event"}),
    )
    json_logger.addFilter(TraceFilter())
    return {
        FLOOR: logging.NullHandler(),
        OURS: BridgeHandler(stream=stream),
        OURS_UNMASKED: without_redaction(BridgeHandler(stream=stream)),
        PLAIN: with_formatter(stream, logging.Formatter("%(asctime)s %(levelname)s %(name)s - %(message)s")),
        JSON_LOGGER: json_logger,
        STRUCTLOG: with_formatter(stream, processor_formatter()),
        OURS_WITH_PROCESSORS: BridgeHandler(stream=stream, processors=USER_PROCESSORS),
        STRUCTLOG_WITH_PROCESSORS: with_formatter(stream, processor_formatter(*USER_PROCESSORS)),
        OURS_COLLAPSING: BridgeHandler(stream=stream, processors=[number_records(), build_storm_collapser()]),
        OURS_IN_A_STORM: BridgeHandler(stream=stream, processors=[build_storm_collapser()]),
    }


def time_call(call: Callable[[], None], records: int) -> float:
    started = time.perf_counter()
    for _ in range(records):
        call()
    return (time.perf_counter() - started) / records * 1e6


def measure(rounds: int, records: int) -> dict[str, list[float]]:
    """Return each contender's microseconds a record, one value a round; the contenders take turns in every round."""
    logger = logging.getLogger("acme.model")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    times: dict[str, list[float]] = {}

    def log() -> None:
        logger.info("Inference complete", extra={"inference_latency": 0.0123456, "digit": 7})

    # A reader of its own: one in this process would fight the writer for the interpreter's lock.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as reader:
        assert reader.stdin is not None
        handlers = contenders(reader.stdin)
        with TracerProvider().get_tracer("benchmark").start_as_current_span("predict digits"):
            for number in range(rounds + 1):
                for name, handler in handlers.items():
                    logger.handlers = [handler]
                    spent = time_call(log, records)
                    if number:  # the first round warms up
                        times.setdefault(name, []).append(spent)
    logger.handlers.clear()
    return times


def ratios(times: dict[str, list[float]], contender: str, peer: str) -> list[float]:
    """Return the ratio of two contenders' times in each round: pairs of one round saw the same machine."""
    return [mine / theirs for mine, theirs in zip(times[contender], times[peer])]


def show(title: str, times: dict[str, list[float]], goals: Sequence[tuple[str, str, float]]) -> None:
    """Print each contender's microseconds, and each goal's ratio."""
    console = Console()
    table = Table(title=title)
    for column in ("contender", "median µs", "min-max µs"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for name, values in times.items():
        table.add_row(name, f"{statistics.median(values):.1f}", f"{min(values):.1f}-{max(values):.1f}")
    console.print(table)
    if not goals:
        return
    table = Table(title="Ratios, pair by pair")
    for column in ("contender / peer", "median", "min-max", "goal"):
        table.add_column(column, justify="left" if column == "contender / peer" else "right")
    for contender, peer, goal in goals:
        values = ratios(times, contender, peer)
        table.add_row(
            f"{contender} / {peer}",
            f"{statistics.median(values):.2f}",
            f"{min(values):.2f}-{max(values):.2f}",
            f"<= {goal:.2f}",
        )
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--records", type=int, default=10_000, help="records a contender and round")
    parser.add_argument("--json", metavar="FILE", help="write every round's times there")
    arguments = parser.parse_args()
    times = measure(arguments.rounds, arguments.records)

    title = f"Caller's time a record, Python {platform.python_version()}, {arguments.rounds} rounds"
    show(title, times, GOALS)
    if arguments.json:
        result = {"python": sys.version, "machine": platform.platform(), "microseconds": times}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
