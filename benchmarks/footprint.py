"""What a process has more: memory, threads, descriptors, and CPU at its start. Each in a process of its own.

Only the standard library is imported here, since the children's memory is what is measured.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.receivers import HTTP, collector, line_reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.harness import Bench, Rounds
    from benchmarks.receivers import Collector

OURS, STOCK, STOCK_GRPC = "ts-otel-logging", "stock parts", "stock parts, gRPC"
BARE, SDK = "Python alone", "the SDK alone"
OFF = "switched off"
REQUESTS, STARTS = 1_000, 20
IMPORTS = {
    BARE: "pass",
    OURS: "import ts_otel_logging",
    f"{OURS}, the bridge": "from ts_otel_logging import BridgeHandler",
    f"{OURS}, configure()": "import ts_otel_logging; ts_otel_logging.configure()",
    "structlog": "import structlog",
    "the SDK": "import opentelemetry.sdk.trace",
    "the SDK's exporter": "import opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "the SDK's exporter, gRPC": "import opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}


def _workloads() -> Any:
    from benchmarks.harness import Goal, Workload

    more = "of a process that has served"
    return (
        Workload(
            "footprint.memory",
            f"Resident memory {more} {REQUESTS:,} requests",
            "MB",
            (Goal(10, peer=SDK, how="difference"),),
            note="without structlog, which ours imports for those who use it",
        ),
        Workload("footprint.threads", "Threads", "threads", (Goal(2, peer=BARE, how="difference"),), digits=0),
        Workload(
            "footprint.descriptors", "Descriptors", "descriptors", (Goal(4, peer=BARE, how="difference"),), digits=0
        ),
        Workload("footprint.cpu", "CPU until the first request", "ms"),
        Workload(
            "footprint.start",
            "CPU of a Python process that is no worker",
            "ms",
            (Goal(1, peer=OFF, how="difference"),),
            digits=2,
        ),
        Workload(
            "footprint.worker",
            "CPU that a worker needs more at its start",
            "ms",
            (Goal(150, how="value"),),
            note="beside TorchServe's own imports",
        ),
        Workload(
            "footprint.worker.export",
            "CPU that a worker needs more until its first request has been exported",
            "ms",
            (Goal(600, how="value"),),
            note="beside TorchServe's own imports, all threads: what is put off is in here",
        ),
        Workload(
            "footprint.worker.memory",
            f"Memory that a worker has more after {REQUESTS:,} requests",
            "MB",
            (Goal(25, how="value"),),
            note="beside TorchServe's own imports",
        ),
        Workload(
            "footprint.worker.threads",
            "Threads that a worker has more",
            "threads",
            (Goal(2, how="value"),),
            digits=0,
        ),
        Workload(
            "footprint.worker.descriptors",
            "Descriptors that a worker has more",
            "descriptors",
            (Goal(4, how="value"),),
            digits=0,
        ),
        Workload("footprint.imports", "CPU of a process that imports one thing", "ms"),
    )


def __getattr__(name: str) -> Any:
    if name == "WORKLOADS":
        return _workloads()
    raise AttributeError(name)


def resident_mb() -> float:
    """Return the memory of this process that is in RAM, in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def threads() -> int:
    """Return how many threads this process has."""
    return len(os.listdir("/proc/self/task"))


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1


def served(contender: str, endpoint: str, requests: int) -> dict[str, float]:
    """In a child: set a contender up, serve some requests, and look at this process."""
    logger = logging.getLogger("acme.model")
    logging.getLogger().setLevel(logging.INFO)
    with line_reader() as stream:
        before = descriptors()
        started = time.process_time()
        flush = {OURS: _ours, STOCK: _stock, STOCK_GRPC: _stock}.get(contender, _sdk)(contender, endpoint, stream)
        cpu = time.process_time() - started
        if contender == BARE:
            for _ in range(requests):
                logger.info("Inference complete", extra={"inference_latency": 0.0123, "digit": 7})
        else:
            _serve(logger, requests, flush)
        found = {
            "footprint.memory": resident_mb(),
            "footprint.threads": float(threads()),
            "footprint.descriptors": float(descriptors() - before),
            "footprint.cpu": cpu * 1e3,
        }
        logging.getLogger().handlers.clear()
        return found


def _serve(logger: logging.Logger, requests: int, flush: Any) -> None:
    from opentelemetry import trace

    tracer = trace.get_tracer("benchmark")
    for number in range(requests):
        with tracer.start_as_current_span("predict digits", attributes={"torchserve.model.name": "digits"}):
            for phase in ("preprocess", "inference", "postprocess"):
                with tracer.start_as_current_span(phase):
                    logger.info("Inference complete", extra={"inference_latency": 0.0123, "digit": 7})
        if number % 100 == 99:
            flush()
    flush()


def _ours(_contender: str, endpoint: str, stream: Any) -> Any:
    import ts_otel_logging

    os.environ.update(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SERVICE_NAME="digits")
    sys.stdout = stream
    ts_otel_logging.configure(capture=False)
    return lambda: ts_otel_logging.force_flush(30)


def _sdk(contender: str, _endpoint: str, _stream: Any) -> Any:
    if contender == BARE:
        return None
    import opentelemetry.sdk._logs
    import opentelemetry.sdk.metrics
    import opentelemetry.sdk.trace
    from opentelemetry import trace

    provider = opentelemetry.sdk.trace.TracerProvider()
    opentelemetry.sdk._logs.LoggerProvider()
    opentelemetry.sdk.metrics.MeterProvider()
    trace.set_tracer_provider(provider)
    return lambda: None


def _stock(contender: str, endpoint: str, stream: Any) -> Any:
    from opentelemetry import trace

    from benchmarks.contenders import GRPC, STOCK_GRPC, stock_providers

    stack, provider = stock_providers(endpoint, stream, GRPC if contender == STOCK_GRPC else HTTP)
    trace.set_tracer_provider(provider)
    logging.getLogger().handlers = list(stack.handlers)
    return stack.flush


def worker(endpoint: str, requests: int) -> dict[str, float]:
    """In a child: have what TorchServe's worker has imported, then switch on as the start-up file does."""
    sys.argv = ["model_service_worker.py", "--sock-type", "tcp", "--port", "9000"]
    os.environ.setdefault("TS_CONFIG_FILE", "")
    # What ts/model_service_worker.py itself imports.
    import ts.context
    import ts.metrics.metric_cache_yaml_impl
    import ts.model_loader
    import ts.service  # noqa: F401

    before = resident_mb(), threads(), descriptors()
    os.environ.update(TS_OTEL_LOGGING="1", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    # What the worker prints is none of the results.
    kept = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    started = time.process_time()
    from ts_otel_logging import _boot

    _boot._activate(_boot.WORKER)
    cpu = time.process_time() - started
    import ts_otel_logging

    _serve(logging.getLogger("handler"), 1, lambda: ts_otel_logging.force_flush(30))
    cpu_of_export = time.process_time() - started
    _serve(logging.getLogger("handler"), requests, lambda: ts_otel_logging.force_flush(30))
    after = resident_mb(), threads(), descriptors() - 2
    os.dup2(kept, 1)
    names = ("footprint.worker.memory", "footprint.worker.threads", "footprint.worker.descriptors")
    more = (now - then for now, then in zip(after, before))
    costs = {"footprint.worker": cpu * 1e3, "footprint.worker.export": cpu_of_export * 1e3}
    return {**costs, **{name: float(value) for name, value in zip(names, more)}}


def cpu_of(code: str, environ: dict[str, str]) -> float:
    """Return the CPU time of a Python process that runs some code, in milliseconds."""
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.DEVNULL) as process:
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{code}: exit status {process.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1e3


def measure(bench: Bench) -> Iterator[dict[str, Rounds]]:
    """Measure every workload, one after the other."""
    from benchmarks.harness import child_environ

    at: Collector = bench.server(collector)
    requests, starts = bench.count(REQUESTS, 10), bench.count(STARTS)

    def take(contender: str) -> dict[str, float]:
        endpoint = at.endpoints["grpc" if contender == STOCK_GRPC else HTTP]
        found: dict[str, float] = bench.in_child(
            "footprint:served", contender=contender, endpoint=endpoint, requests=requests
        )
        return found

    contenders = bench.some((BARE, SDK, OURS, STOCK, STOCK_GRPC))
    yield bench.interleave("", {contender: partial(take, contender) for contender in contenders}, warm_up=False)

    off = child_environ()
    yield bench.interleave(
        "footprint.start",
        {
            OFF: partial(cpu_of, "pass", off),
            OURS: partial(cpu_of, "pass", {**off, "TS_OTEL_LOGGING": "1"}),
        },
        slices=starts,
    )
    exporters_off = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "LOGS", "METRICS")}
    yield bench.interleave(
        "footprint.imports",
        {name: partial(cpu_of, code, {**off, **exporters_off}) for name, code in IMPORTS.items()},
        slices=max(starts // 4, 1),
    )

    def take_worker() -> dict[str, float]:
        found: dict[str, float] = bench.in_child("footprint:worker", endpoint=at.endpoints[HTTP], requests=requests)
        return found

    yield bench.interleave("", {OURS: take_worker}, warm_up=False)
