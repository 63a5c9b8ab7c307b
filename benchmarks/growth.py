"""How cost grows: with a record's extras and their nesting, a batch, threads, models, and workers on one core.

Of each curve the exponent is told: 1 is linear, below it a part of the cost is fixed. It is that of the upper half of
the curve, where what is fixed weighs least.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from benchmarks.harness import OURS, ROOT, Bench, Workload, child_environ
from benchmarks.receivers import HTTP, collector, dead_collector, line_reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.harness import Rounds, Turn
    from benchmarks.receivers import Collector

FORMATTER = "structlog ProcessorFormatter, orjson"
# Beyond, growth counts as worse than linear. Over the eight-fold range of a curve's upper half, an exponent of 1.25
# means that the last point costs 1.7 times what it would if it grew linearly: no noise of medians does that.
LINEAR = 1.25

WORKLOADS = (
    Workload("growth.extras", "A line, the caller's CPU", "µs", axis="extras"),
    Workload("growth.nesting", "A line with one nested extra, the caller's CPU", "µs", axis="levels"),
    Workload("growth.batch", "A batch: spans of each member, phases and measurements, all CPU", "µs", axis="members"),
    Workload("growth.threads", "A line and OTLP record of each thread, all CPU", "µs", axis="threads"),
    Workload("growth.models", "A request of each model and one export of measurements, all CPU", "µs", axis="models"),
    Workload(
        "growth.workers",
        "Workers on one core without a collector, five requests a second each: CPU of all, a second",
        "ms",
        axis="workers",
    ),
    Workload(
        "growth.workers.memory",
        "The same, the most memory that one of them has more than at its start",
        "MB",
        axis="workers",
    ),
)

EXTRAS = (1, 2, 4, 8, 16, 32, 64)
LEVELS = (1, 2, 4, 8, 16, 32)
MEMBERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
THREADS = (1, 2, 4, 8, 16, 32)
MODELS = (1, 2, 4, 8, 16, 32, 64)
WORKERS = (1, 6, 12, 25, 50, 100)
RECORDS, SLICES = 250, 8
FILLING = 2_200
REQUESTS_A_SECOND, WORKER_SECONDS, WORKER_ROUNDS = 5.0, 4.0, 3


class Curve(NamedTuple):
    """One contender's medians over what grows.

    Attributes:
        contender: Whose.
        points: What grows, and the cost.
    """

    contender: str
    points: list[tuple[int, float]]

    @property
    def exponent(self) -> float:
        """The exponent of its upper half: the least squares in logarithms."""
        upper = self.points[-max(len(self.points) // 2 + 1, 2) :]
        x = [math.log(at) for at, _ in upper]
        y = [math.log(max(cost, 1e-9)) for _, cost in upper]
        mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
        squares = sum((a - mean_x) ** 2 for a in x)
        return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / squares if squares else math.nan


def point(contender: str, at: int) -> str:
    """Return the name that a contender has at a point of its curve."""
    return f"{contender} @ {at}"


def curves(rounds: Mapping[str, Sequence[float]]) -> list[Curve]:
    """Return the curves of a workload with an axis."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, values in rounds.items():
        contender, _, at = name.rpartition(" @ ")
        found.setdefault(contender, []).append((int(at), statistics.median(values)))
    return [Curve(contender, sorted(points)) for contender, points in found.items()]


def verdict(curve: Curve) -> str:
    """Say whether a curve is no worse than linear; of fewer points than four nobody can."""
    if len(curve.points) < 4:
        return ""
    return "no worse than linear" if curve.exponent <= LINEAR else "WORSE THAN LINEAR"


def table_of_curve(workload: Workload, rounds: Mapping[str, Sequence[float]]) -> Any:
    """Return the table of a curve: a column a point, and the exponent."""
    from rich.table import Table

    table = Table(title=f"{workload.title} ({workload.unit})", title_justify="left")
    found = curves(rounds)
    table.add_column(workload.axis)
    for at, _ in found[0].points:
        table.add_column(str(at), justify="right")
    table.add_column("exponent", justify="right")
    table.add_column("")
    for curve in found:
        costs = [f"{cost:.{workload.digits}f}" for _, cost in curve.points]
        table.add_row(curve.contender, *costs, f"{curve.exponent:.2f}", verdict(curve))
    return table


def lines(bench: Bench, name: str, extras: Mapping[int, dict[str, Any]], records: int) -> dict[str, Rounds]:
    """Measure lines whose extra fields grow."""
    from benchmarks import contenders
    from benchmarks.lines import Line, log_info, turn
    from ts_otel_logging import BridgeHandler

    with line_reader() as stream:
        handlers = {
            OURS: BridgeHandler(stream=stream),
            FORMATTER: contenders.with_formatter(stream, contenders.processor_formatter()),
        }
        turns = {
            point(contender, at): turn(Line(handler), log_info, fields, 20 if bench.is_smoke else records)
            for contender, handler in handlers.items()
            for at, fields in extras.items()
        }
        found = bench.interleave(name, turns, slices=bench.count(SLICES))
        contenders.logger.handlers.clear()
        return found


def nested(levels: int) -> dict[str, Any]:
    """Return an extra field that is this deep."""
    value: Any = 7
    for level in range(levels):
        value = {f"level_{level}": value}
    return {"value": value}


def whole(work: Callable[[], object], times: int) -> float:
    """Return the CPU of all threads for one time, in microseconds."""
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times * 1e6


def batches(bench: Bench, at: Collector, folder: str) -> dict[str, Rounds]:
    """Measure batches of requests that are all sampled."""
    from benchmarks.contenders import FLUSH_SECONDS, batch_by_the_worker, our_providers
    from ts_otel_logging._metrics import Metrics
    from ts_otel_logging._sdk import tracer_for_batch
    from ts_otel_logging._tracing import Tracing

    providers = our_providers(at.endpoints[HTTP], folder)
    tracing = Tracing(providers.tracer_provider, Metrics(providers.meter_provider), tracer_for_batch=tracer_for_batch)

    def batch(members: int) -> None:
        batch_by_the_worker(tracing, members)
        providers.force_flush(FLUSH_SECONDS)

    turns: dict[str, Turn] = {
        point(OURS, members): partial(whole, partial(batch, members), bench.count(max(256 // members, 4)))
        for members in bench.ends(MEMBERS)
    }
    found = bench.interleave("growth.batch", turns)
    providers.shutdown(FLUSH_SECONDS)
    return found


def many_threads(bench: Bench, at: Collector, folder: str) -> dict[str, Rounds]:
    """Measure lines with OTLP records from several threads at once."""
    from benchmarks.contenders import log_two_extras, logger, our_stack

    records = bench.count(500, 5)

    def work(count: int) -> None:
        def log() -> None:
            for _ in range(records):
                log_two_extras()

        threads = [threading.Thread(target=log) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stack.flush()

    with line_reader() as stream:
        stack = our_stack(at.endpoints[HTTP], folder, stream)
        logger.handlers = list(stack.handlers)
        turns: dict[str, Turn] = {
            point(OURS, count): partial(lambda count: whole(partial(work, count), 1) / records, count)
            for count in bench.ends(THREADS)
        }
        found = bench.interleave("growth.threads", turns)
        logger.handlers.clear()
        stack.close()
        return found


def models(bench: Bench, at: Collector, folder: str) -> dict[str, Rounds]:
    """Measure requests of several models in one process, each with attributes of its own."""
    from benchmarks.contenders import FLUSH_SECONDS, HEADERS, no_work, our_providers, request_by_the_worker
    from ts_otel_logging._metrics import Metrics
    from ts_otel_logging._requests import Model
    from ts_otel_logging._tracing import Tracing

    times = bench.count(8)

    def turn(count: int) -> float:
        # Measurements are cumulative: a provider that has seen other models would export them, too.
        providers = our_providers(at.endpoints[HTTP], folder)
        tracing = Tracing(providers.tracer_provider, Metrics(providers.meter_provider))
        served = [Model(f"model-{number}", "1.0", "cpu", "9000") for number in range(count)]

        def work() -> None:
            request_by_the_worker(tracing, HEADERS, no_work, served)
            providers.force_flush(FLUSH_SECONDS)

        work()
        try:
            return whole(work, times)
        finally:
            providers.shutdown(FLUSH_SECONDS)

    return bench.interleave("growth.models", {point(OURS, at): partial(turn, at) for at in bench.ends(MODELS)})


def serve(endpoint: str, core: int, filling: int) -> None:
    """In a child: be a worker without a collector; serve for as long as each line of standard input says."""
    os.environ.update(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, TS_OTEL_LOGGING_CAPTURE="off")
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    from benchmarks.contenders import HEADERS, log_two_extras, logger, request_by_the_worker
    from benchmarks.footprint import resident_mb
    from ts_otel_logging import _activate

    _activate.configure()
    active = _activate._active
    assert active is not None
    from ts_otel_logging._tracing import Tracing

    logger.propagate = True
    tracing = Tracing(active.tracer_provider, active.metrics)

    def request() -> None:
        request_by_the_worker(tracing, HEADERS, log_two_extras)

    request()
    at_start = resident_mb()
    # More than the queues hold: what waits is bounded, and has reached its bound when the first look is taken.
    for _ in range(filling):
        log_two_extras()
    for _ in range(filling // 4):
        request()
    os.sched_setaffinity(0, {core})
    os.write(answers, b"\n")
    for line in sys.stdin:
        seconds = float(line)
        started, cpu, done = time.monotonic(), time.process_time(), 0
        while done < seconds * REQUESTS_A_SECOND:
            request()
            done += 1
            time.sleep(max(started + done / REQUESTS_A_SECOND - time.monotonic(), 0.0))
        time.sleep(max(started + seconds - time.monotonic(), 0.0))
        found = {"cpu": (time.process_time() - cpu) / (time.monotonic() - started), "memory": resident_mb() - at_start}
        os.write(answers, f"{json.dumps(found)}\n".encode())


def workers(bench: Bench) -> dict[str, Rounds]:
    """Measure many workers on one core, all of which find no collector."""
    endpoint = bench.server(dead_collector).endpoints[HTTP]
    core = min(os.sched_getaffinity(0))
    counts = [1, 2] if bench.is_smoke else [count for count in WORKERS if count <= max(100 * bench.scale, 12)]
    arguments = {"endpoint": endpoint, "core": core, "filling": bench.count(FILLING)}
    command = [sys.executable, "-m", "benchmarks.child", "growth:serve", json.dumps(arguments)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=child_environ(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
            for _ in range(counts[-1])
        ]

        def answer(process: subprocess.Popen[str]) -> str:
            assert process.stdout is not None
            text = process.stdout.readline()
            if not text:
                raise RuntimeError("a worker ended")
            return text

        for process in processes:
            answer(process)
        seconds = max(WORKER_SECONDS * bench.scale, 0.2)

        def turn(count: int) -> dict[str, float]:
            for process in processes[:count]:
                assert process.stdin is not None
                process.stdin.write(f"{seconds}\n")
            found = [json.loads(answer(process)) for process in processes[:count]]
            return {
                "growth.workers": sum(each["cpu"] for each in found) * 1e3,
                "growth.workers.memory": max(each["memory"] for each in found),
            }

        few = Bench(min(bench.rounds, WORKER_ROUNDS), is_smoke=True)
        return few.interleave("", {point(OURS, count): partial(turn, count) for count in counts})


def measure(bench: Bench) -> Iterator[dict[str, Rounds]]:
    """Measure every curve, one after the other."""
    at: Collector = bench.server(collector)
    yield lines(
        bench,
        "growth.extras",
        {count: {f"field_{index}": index * 1.5 for index in range(count)} for count in bench.ends(EXTRAS)},
        RECORDS,
    )
    yield lines(bench, "growth.nesting", {levels: nested(levels) for levels in bench.ends(LEVELS)}, RECORDS)
    with TemporaryDirectory() as folder:
        yield batches(bench, at, folder)
        yield many_threads(bench, at, folder)
        yield models(bench, at, folder)
    yield workers(bench)
