"""The whole cost of what is exported: CPU of all threads, and the caller's alone, beside OpenTelemetry's own parts.

Every contender exports to one real collector; what waits is sent after every hundred requests or five hundred lines, so
that nothing is dropped. Measurements, which leave every ten seconds, are sent with whole requests alone. Ours does more
than the stock parts: it keeps the request's ids for its lines, and of a whole request measures three phases and the
batch's size beside the duration.
"""

from __future__ import annotations

import time
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Callable

from benchmarks.contenders import (
    FLUSH_SECONDS,
    HEADERS,
    LOGFIRE,
    OURS_GRPC,
    STOCK,
    STOCK_GRPC,
    UNSAMPLED_HEADERS,
    Stack,
    log_two_extras,
    logfire_stack,
    logger,
    no_work,
    our_providers,
    our_stack,
    request_by_the_api,
    request_by_the_worker,
    stock_stack,
)
from benchmarks.harness import OURS, Bench, Goal, Workload
from benchmarks.receivers import GRPC, HTTP, collector, line_reader
from ts_otel_logging._tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TextIO

    from benchmarks.harness import Rounds
    from benchmarks.receivers import Collector

SDK, SDK_GRPC = "the SDK's spans, its exporter", "the SDK's spans, its exporter, gRPC"
OUR_EXPORT = "the SDK's spans, our export"

_WHOLE, _CALLER = "CPU of all threads", "CPU of the caller's thread"
WORKLOADS = (
    Workload("exports.line", f"JSON line and OTLP log record, {_WHOLE}", "µs", (Goal(0.30, peer=STOCK),)),
    Workload("exports.line.caller", f"JSON line and OTLP log record, {_CALLER}", "µs"),
    Workload("exports.spans", f"1 + 3 spans, {_WHOLE}", "µs", (Goal(0.55, peer=SDK, stretch=0.15),)),
    Workload("exports.spans.caller", f"1 + 3 spans, {_CALLER}", "µs"),
    Workload("exports.unsampled", f"1 + 3 spans that are not sampled, {_WHOLE}", "µs"),
    Workload("exports.unsampled.caller", f"1 + 3 spans that are not sampled, {_CALLER}", "µs"),
    Workload(
        "exports.request",
        f"A request: 4 spans, 2 lines, 1 histogram point, {_WHOLE}",
        "µs",
        (Goal(0.50, peer=STOCK, stretch=0.30),),
        note="ours has five histogram points",
    ),
    Workload("exports.request.caller", f"A request: 4 spans, 2 lines, 1 histogram point, {_CALLER}", "µs"),
    Workload("exports.switches", f"A request, ours, with something switched off, {_WHOLE}", "µs"),
    Workload("exports.switches.caller", f"A request, ours, with something switched off, {_CALLER}", "µs"),
)
REQUESTS, LINES, SLICES = 200, 1_000, 6
# What a request carries, and OpenTelemetry's own variables.
SWITCHES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "OTEL_LOGS_EXPORTER=none": (HEADERS, {"OTEL_LOGS_EXPORTER": "none"}),
    "OTEL_METRICS_EXPORTER=none": (HEADERS, {"OTEL_METRICS_EXPORTER": "none"}),
    "OTEL_TRACES_EXPORTER=none": (HEADERS, {"OTEL_TRACES_EXPORTER": "none"}),
    "not sampled": (UNSAMPLED_HEADERS, {}),
    "not sampled, traces alone exported": (
        UNSAMPLED_HEADERS,
        {"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
    ),
}


def turn(
    name: str, stack: Stack, call: Callable[[], None], calls: int, calls_a_flush: int
) -> Callable[[], dict[str, float]]:
    def take() -> dict[str, float]:
        logger.handlers = list(stack.handlers)
        caller, done = 0.0, 0
        whole = time.process_time()
        while done < calls:
            started = time.thread_time()
            for _ in range(calls_a_flush):
                call()
            caller += time.thread_time() - started
            stack.flush()
            done += calls_a_flush
        whole = time.process_time() - whole
        return {name: whole / done * 1e6, f"{name}.caller": caller / done * 1e6}

    return take


def line_stacks(at: Collector, folder: str, stream: TextIO) -> dict[str, Stack]:
    http = at.endpoints[HTTP]
    found = {**request_stacks(at, folder, stream), LOGFIRE: logfire_stack(http, stream)}
    return {contender: stack._replace(flush=stack.flush_logs) for contender, stack in found.items()}


def span_stacks(at: Collector, folder: str, stream: TextIO, headers: dict[str, str] = HEADERS) -> dict[str, Stack]:
    http, grpc = at.endpoints.values()
    # No measurements: spans alone.
    providers = our_providers(http, folder)
    tracing = Tracing(providers.tracer_provider, None)
    tracer = providers.tracer_provider.get_tracer("benchmark")

    ours = Stack(
        (),
        lambda work: request_by_the_worker(tracing, headers, work),
        providers.tracer_provider.force_flush,
        lambda: None,
        tracer,
        lambda: providers.shutdown(FLUSH_SECONDS),
    )
    return {
        OURS: ours,
        OUR_EXPORT: ours._replace(request=lambda work: request_by_the_api(tracer, lambda _: None, headers, work)),
        SDK: stock_stack(http, stream, headers=headers, points=False),
        SDK_GRPC: stock_stack(grpc, stream, GRPC, headers, points=False),
    }


def unsampled_stacks(at: Collector, folder: str, stream: TextIO) -> dict[str, Stack]:
    return span_stacks(at, folder, stream, UNSAMPLED_HEADERS)


def switched_stacks(at: Collector, folder: str, stream: TextIO) -> dict[str, Stack]:
    endpoint = at.endpoints[HTTP]
    return {
        OURS: our_stack(endpoint, folder, stream),
        **{
            name: our_stack(endpoint, folder, stream, headers=headers, **environ)
            for name, (headers, environ) in SWITCHES.items()
        },
    }


def request_stacks(at: Collector, folder: str, stream: TextIO) -> dict[str, Stack]:
    http, grpc = at.endpoints.values()
    return {
        OURS: our_stack(http, folder, stream),
        OURS_GRPC: our_stack(grpc, folder, stream, GRPC),
        STOCK: stock_stack(http, stream),
        STOCK_GRPC: stock_stack(grpc, stream, GRPC),
    }


def measure(bench: Bench) -> Iterator[dict[str, Rounds]]:
    """Measure every workload, one after the other."""
    at = bench.server(collector)
    requests, lines = (10, 10) if bench.is_smoke else (REQUESTS, LINES)

    def line(_stack: Stack) -> Callable[[], None]:
        return log_two_extras

    def spans(stack: Stack) -> Callable[[], None]:
        return lambda: stack.request(no_work)

    def request(stack: Stack) -> Callable[[], None]:
        return lambda: stack.request(log_two_extras)

    with line_reader() as stream, TemporaryDirectory() as folder:
        for name, stacks, call, calls, calls_a_flush in (
            ("exports.line", line_stacks, line, lines, min(500, lines)),
            ("exports.spans", span_stacks, spans, requests, min(100, requests)),
            ("exports.unsampled", unsampled_stacks, spans, requests, min(100, requests)),
            ("exports.request", request_stacks, request, requests, min(100, requests)),
            ("exports.switches", switched_stacks, request, requests, min(100, requests)),
        ):
            made: Mapping[str, Stack] = stacks(at, folder, stream)
            turns = {
                contender: turn(name, stack, call(stack), calls, calls_a_flush) for contender, stack in made.items()
            }
            found = bench.interleave(name, turns, slices=bench.count(SLICES))
            logger.handlers.clear()
            for stack in made.values():
                stack.close()
            # What the results are read by: the whole cost first.
            yield {key: found[key] for key in (name, f"{name}.caller")}
