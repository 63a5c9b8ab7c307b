"""What happens to many log records at once, and to their caller: each contender in a process of its own.

A record is a JSON line and an OTLP log record. What arrived, the collector itself counts.
"""

from __future__ import annotations

import resource
import time
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Callable

from benchmarks.harness import OURS, Bench, Goal, Workload
from benchmarks.receivers import GRPC, HTTP, accepted, collector, dead_collector, hung_collector, line_reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contenders import Stack
    from benchmarks.harness import Rounds
    from benchmarks.receivers import Collector

OURS_GRPC, STOCK, STOCK_GRPC = f"{OURS}, gRPC", "stock parts", "stock parts, gRPC"
LINE_ALONE = f"{OURS}, the line alone"
CONTENDERS = {OURS: HTTP, OURS_GRPC: GRPC, STOCK: HTTP, STOCK_GRPC: GRPC}
STALLED = (OURS, STOCK, STOCK_GRPC, LINE_ALONE)
RECEIVERS = {"healthy": collector, "dead": dead_collector, "hung": hung_collector}

BURST, WARM_UP = 20_000, 100
LOWEST_RATE, HIGHEST_RATE, TRIALS, TRIAL_SECONDS = 1_000.0, 64_000.0, 6, 0.8
# What a trial may take longer than its records, until all have arrived: a queue must not pass for speed.
LATE = 1.1
STALL_RATE, STALL_SECONDS, SLICE_SECONDS = 2_000.0, 1.5, 0.005

WORKLOADS = (
    Workload(
        "bursts.dropped", f"Dropped of a burst of {BURST:,} records", "records", (Goal(0, how="value"),), digits=0
    ),
    Workload("bursts.caller", f"A burst of {BURST:,} records, the caller's time for one", "µs"),
    Workload("bursts.stall", f"A burst of {BURST:,} records, the longest call", "ms", digits=2),
    Workload(
        "bursts.steady",
        "The highest steady rate without a drop",
        "records/s",
        (Goal(3.0, peer=STOCK, at_least=True),),
        digits=0,
    ),
    *(
        Workload(
            f"bursts.{what}.{state}",
            f"{STALL_RATE:,.0f} records a second, {state} collector, {title}",
            "ms",
            (Goal(1.0, how="value"),),
            digits=2,
            note=note,
        )
        for what, title, note in (
            ("stall", "the longest call", "the line alone shows what the machine itself does to a caller"),
            (
                "waited",
                "the longest call that waited for another thread",
                "of the calls in which the caller's thread gave its processor away by itself; 0 where none did",
            ),
        )
        for state in RECEIVERS
    ),
)


def with_stack(contender: str, endpoint: str, work: Callable[[Stack, Callable[[], None]], Any]) -> Any:
    """In a child: call a function with a contender, and with what logs a record."""
    from benchmarks import contenders
    from ts_otel_logging import BridgeHandler

    with line_reader() as stream, TemporaryDirectory() as folder:
        protocol = CONTENDERS.get(contender, HTTP)
        if contender in {STOCK, STOCK_GRPC}:
            stack = contenders.stock_stack(endpoint, stream, protocol)
        else:
            stack = contenders.our_stack(endpoint, folder, stream, protocol)
        if contender == LINE_ALONE:
            stack = stack._replace(handlers=(BridgeHandler(stream=stream),), flush=lambda: None)
        contenders.logger.handlers = list(stack.handlers)
        for _ in range(WARM_UP):
            contenders.log_two_extras()
        return work(stack, contenders.log_two_extras)


def burst(contender: str, endpoint: str, records: int) -> dict[str, float]:
    """In a child: log as fast as possible."""

    def work(stack: Stack, log: Callable[[], None]) -> dict[str, float]:
        stack.flush()
        longest, started = 0.0, time.perf_counter()
        for _ in range(records):
            before = time.perf_counter()
            log()
            longest = max(longest, time.perf_counter() - before)
        spent = time.perf_counter() - started
        stack.flush()
        return {"bursts.caller": spent / records * 1e6, "bursts.stall": longest * 1e3}

    found: dict[str, float] = with_stack(contender, endpoint, work)
    return found


def paced(log: Callable[[], None], rate: float, seconds: float) -> tuple[float, float]:
    """Log at a rate; return the longest call in seconds, and the longest one that waited for another thread.

    The longest call of all is the scheduler's on a machine with other work to do. Who waits for a lock, the
    interpreter's for instance, gives its processor away by itself.
    """
    longest, waited, done = 0.0, 0.0, 0
    started = time.perf_counter()
    while done < rate * seconds:
        now = time.perf_counter()
        due = min(int((now - started) * rate) + 1, int(rate * seconds) + 1)
        for _ in range(due - done):
            switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            before = time.perf_counter()
            log()
            spent = time.perf_counter() - before
            longest = max(longest, spent)
            if spent > waited and resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > switches:
                waited = spent
        done = due
        time.sleep(max(SLICE_SECONDS - (time.perf_counter() - now), 0.0))
    return longest, waited


def steady(contender: str, endpoint: str, metrics: str, trials: int, seconds: float) -> float:
    """In a child: find the highest rate at which nothing is dropped and nothing piles up."""

    def keeps_up(stack: Stack, log: Callable[[], None], rate: float) -> bool:
        before, started = accepted(metrics), time.perf_counter()
        paced(log, rate, seconds)
        stack.flush()
        spent = time.perf_counter() - started
        return accepted(metrics) - before >= int(rate * seconds) and spent <= seconds * LATE

    def work(stack: Stack, log: Callable[[], None]) -> float:
        stack.flush()
        low, high = LOWEST_RATE, HIGHEST_RATE
        for _ in range(trials):
            middle = (low * high) ** 0.5
            if keeps_up(stack, log, middle):
                low = middle
            else:
                high = middle
        return low

    found: float = with_stack(contender, endpoint, work)
    return found


def stall(contender: str, endpoint: str, state: str, seconds: float) -> dict[str, float]:
    """In a child: log at a moderate rate; return the longest calls in milliseconds."""

    def work(_stack: Stack, log: Callable[[], None]) -> dict[str, float]:
        longest, waited = paced(log, STALL_RATE, seconds)
        return {f"bursts.stall.{state}": longest * 1e3, f"bursts.waited.{state}": waited * 1e3}

    found: dict[str, float] = with_stack(contender, endpoint, work)
    return found


def measure(bench: Bench) -> Iterator[dict[str, Rounds]]:
    """Measure every workload, one after the other."""
    at: Collector = bench.server(collector)
    records = bench.count(BURST, 100)

    def take_burst(contender: str, protocol: str) -> dict[str, float]:
        before = accepted(at.metrics)
        found = bench.in_child("bursts:burst", contender=contender, endpoint=at.endpoints[protocol], records=records)
        dropped = records + WARM_UP - (accepted(at.metrics) - before)
        return {"bursts.dropped": float(dropped), **found}

    yield bench.interleave(
        "",
        {contender: partial(take_burst, contender, CONTENDERS[contender]) for contender in bench.some(CONTENDERS)},
        warm_up=False,
    )

    def take_steady(contender: str, protocol: str) -> float:
        rate: float = bench.in_child(
            "bursts:steady",
            contender=contender,
            endpoint=at.endpoints[protocol],
            metrics=at.metrics,
            # A shorter search would find nothing.
            trials=1 if bench.is_smoke else TRIALS,
            seconds=0.05 if bench.is_smoke else TRIAL_SECONDS,
        )
        return rate

    yield bench.interleave(
        "bursts.steady",
        {contender: partial(take_steady, contender, CONTENDERS[contender]) for contender in bench.some(CONTENDERS)},
        warm_up=False,
    )

    def take_stall(receiver: Collector, state: str, contender: str) -> dict[str, float]:
        found: dict[str, float] = bench.in_child(
            "bursts:stall",
            contender=contender,
            endpoint=receiver.endpoints[CONTENDERS.get(contender, HTTP)],
            state=state,
            seconds=max(STALL_SECONDS * bench.scale, 0.05),
        )
        return found

    for state, kind in RECEIVERS.items():
        receiver = bench.server(kind)
        turns = {name: partial(take_stall, receiver, state, name) for name in bench.some(STALLED)}
        yield bench.interleave("", turns, warm_up=False)
