"""Whether ours has become dearer: instructions, counted by callgrind, as ratios to a peer's in the same process.

Instructions do not depend on what else the machine does. A fresh Python does everything once, is then counted while it
does each thing some more times, and is stopped between two things; what is compared with ``guard.json`` is the ratio to
the peer, since a newer Python or library changes both. Of a ratio of ours to ours, the growth is what is guarded.

``make bench-guard`` compares, ``make bench-record`` writes what is true now.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, TextIO

from rich.console import Console
from rich.table import Table

from benchmarks.harness import OURS, ROOT, child_environ
from benchmarks.receivers import HTTP, collector

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

RECORDED = Path(__file__).parent / "guard.json"
WORSE = 1.3
PYTHON = ".".join(platform.python_version_tuple()[:2])
_NEVER = "3600000"
# Only a flush sends: how many batches go out must not depend on how slow callgrind is.
_BATCHES = {f"OTEL_{prefix}_SCHEDULE_DELAY": _NEVER for prefix in ("BSP", "BLRP")}


class Guarded(NamedTuple):
    """What is counted: ours, and what it is compared with.

    Attributes:
        title: For people.
        ours: The name of ours in `things`.
        peer: The name of the peer.
        times: How often each is done while it is counted.
    """

    title: str
    ours: str
    peer: str
    times: int


GUARDED = {
    "line": Guarded("a line / structlog's formatter", "line", "line, stock", 40),
    "processors": Guarded("a line, three processors / the same", "processors", "processors, stock", 40),
    "exception": Guarded("a line with an exception / structlog's formatter", "exception", "exception, stock", 4),
    "otlp": Guarded("a line and OTLP record, all threads / stock parts", "otlp", "otlp, stock", 150),
    "spans": Guarded("1 + 3 spans, all threads / the SDK and its exporter", "spans", "spans, stock", 40),
    "request": Guarded("a request, all threads / stock parts", "request", "request, stock", 32),
    "extras": Guarded("a line with 64 extras / with 8", "64 extras", "8 extras", 10),
    "batch": Guarded("a batch of 16 / of 4", "batch of 16", "batch of 4", 1),
}


Do = Callable[[int], object]
"""Does a thing some times."""


def line_things(stream: TextIO) -> dict[str, Do]:
    """Return lines, ours and structlog's."""
    from benchmarks import contenders, lines
    from ts_otel_logging import BridgeHandler

    def line(
        handler: Optional[logging.Handler], log: lines.Log = lines.log_info, extra: Mapping[str, Any] = lines.TWO
    ) -> Do:
        def do(times: int) -> None:
            contenders.logger.handlers = [handler] if handler else []
            for _ in range(times):
                log(dict(extra))

        return do

    def extras(count: int) -> dict[str, float]:
        return {f"field_{index}": index * 1.5 for index in range(count)}

    bridge = BridgeHandler(stream=stream)
    processors = lines.processors(stream)
    return {
        "line": line(bridge),
        "line, stock": line(contenders.with_formatter(stream, contenders.processor_formatter())),
        "processors": line(processors[OURS].handler),
        "processors, stock": line(processors[contenders.FORMATTER].handler),
        "exception": line(bridge, lines.log_exception),
        "exception, stock": line(lines.exceptions(stream)[contenders.FORMATTER].handler, lines.log_exception),
        "64 extras": line(bridge, extra=extras(64)),
        "8 extras": line(bridge, extra=extras(8)),
    }


def exported_things(endpoint: str, folder: str, stack: ExitStack, stream: TextIO) -> dict[str, Do]:
    """Return what is exported, by our parts and by the stock ones, with its export."""
    from benchmarks import contenders
    from ts_otel_logging._metrics import Metrics
    from ts_otel_logging._sdk import tracer_for_batch
    from ts_otel_logging._tracing import Tracing

    ours = contenders.our_stack(endpoint, folder, stream)
    stock = contenders.stock_stack(endpoint, stream)
    stock_spans = contenders.stock_stack(endpoint, stream, points=False)
    providers = contenders.our_providers(endpoint, folder)
    spans_alone = Tracing(providers.tracer_provider, None)
    tracing = Tracing(providers.tracer_provider, Metrics(providers.meter_provider), tracer_for_batch=tracer_for_batch)
    our_spans = ours._replace(
        handlers=(),
        request=lambda work: contenders.request_by_the_worker(spans_alone, contenders.HEADERS, work),
        flush=lambda: providers.force_flush(contenders.FLUSH_SECONDS),
        close=lambda: providers.shutdown(contenders.FLUSH_SECONDS),
    )
    for one in (ours, stock, stock_spans, our_spans):
        stack.callback(one.close)

    def exported(one: contenders.Stack, call: Callable[[], None]) -> Do:
        def do(times: int) -> None:
            contenders.logger.handlers = list(one.handlers)
            for _ in range(times):
                call()
            one.flush()

        return do

    log, no_work = contenders.log_two_extras, contenders.no_work
    # Measurements do not leave with each batch of others: every ten seconds.
    without_points = our_spans._replace(flush=providers.tracer_provider.force_flush)
    return {
        "otlp": exported(ours._replace(flush=ours.flush_logs), log),
        "otlp, stock": exported(stock._replace(flush=stock.flush_logs), log),
        "spans": exported(without_points, lambda: our_spans.request(no_work)),
        "spans, stock": exported(stock_spans, lambda: stock_spans.request(no_work)),
        "request": exported(ours, lambda: ours.request(log)),
        "request, stock": exported(stock, lambda: stock.request(log)),
        "batch of 16": exported(our_spans, lambda: contenders.batch_by_the_worker(tracing, 16)),
        "batch of 4": exported(our_spans, lambda: contenders.batch_by_the_worker(tracing, 4)),
    }


def counted() -> None:
    """In the process that is counted: do each line of standard input, and say so."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    # No thread asks for the interpreter's lock while it is slowed down.
    sys.setswitchinterval(60)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        stream = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        span = TracerProvider().get_tracer("benchmark").start_span("predict digits")
        stack.enter_context(trace.use_span(span))
        done = {**line_things(stream), **exported_things(os.environ["BENCH_ENDPOINT"], folder, stack, stream)}
        for guarded in GUARDED.values():
            for name in (guarded.ours, guarded.peer):
                done[name](3)
        # What is there stays: a full collection must not fall upon anybody.
        gc.collect()
        gc.freeze()
        print(flush=True)
        for line in sys.stdin:
            name, _, times = line.rpartition(" * ")
            done[name](int(times))
            gc.collect()
            print(flush=True)
    os._exit(0)


def instructions() -> dict[str, int]:
    """Return how many instructions each thing takes, once.

    Raises:
        FileNotFoundError: ``make debian-programs`` has not been run.
        RuntimeError: Something failed; its output went to standard error.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        at = stack.enter_context(collector())
        library = _debian_root() / "usr/libexec/valgrind"
        environ = {
            **child_environ(_BATCHES),
            "BENCH_ENDPOINT": at.endpoints[HTTP],
            "PYTHONHASHSEED": "0",
            **({"VALGRIND_LIB": str(library)} if library.is_dir() else {}),
        }
        prefix = f"--vgdb-prefix={folder}/vgdb"
        output = Path(folder) / "counts"
        command = [
            _program("valgrind"), "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}",
            prefix, sys.executable, "-m", "benchmarks.guard",
        ]  # fmt: skip
        process = stack.enter_context(
            subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        )
        stack.callback(process.kill)

        def tell(*words: str) -> None:
            # The process waits for a line meanwhile: nothing is counted that is not asked for.
            vgdb = [_program("vgdb"), prefix, f"--pid={process.pid}", *words]
            done = subprocess.run(vgdb, env=environ, check=False, capture_output=True, text=True, timeout=60)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(vgdb)}: {done.stderr}")

        def wait() -> None:
            if not process.stdout or not process.stdout.readline():
                raise RuntimeError(f"what is counted ended: exit status {process.wait()}")

        wait()
        tell("instrumentation", "on")
        assert process.stdin is not None
        found: dict[str, int] = {}
        for guarded in GUARDED.values():
            for name in (guarded.ours, guarded.peer):
                tell("zero")
                process.stdin.write(f"{name} * {guarded.times}\n")
                wait()
                tell("dump")
                dump = Path(f"{output}.{len(found) + 1}").read_text(encoding="utf-8")
                totals = re.search(r"^totals: (\d+)$", dump, re.MULTILINE)
                assert totals is not None
                found[name] = int(totals[1]) // guarded.times
        return found


def _debian_root() -> Path:
    tool = ROOT / "tools" / "debian-programs"
    printed = subprocess.run([tool, "--print"], check=True, capture_output=True, text=True)
    return Path(printed.stdout.strip())


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{_debian_root() / 'usr/bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise FileNotFoundError(f"{name}: run `make debian-programs`")
    return found


def guard(*, record: bool) -> int:
    """Count, and compare with what is recorded for this Python, or record it.

    Returns:
        The exit status: 1 if something is dearer than it may be.
    """
    counts = instructions()
    ratios = {name: counts[guarded.ours] / counts[guarded.peer] for name, guarded in GUARDED.items()}
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    if record:
        recorded[PYTHON] = {name: round(ratio, 3) for name, ratio in ratios.items()}
        RECORDED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    before: dict[str, float] = recorded.get(PYTHON, {})
    if before.keys() != ratios.keys():
        print(f"{RECORDED.name} is of other things than are counted on Python {PYTHON}: make bench-record")
        return 1

    table = Table(title=f"Instructions, Python {PYTHON}", title_justify="left")
    table.add_column("what")
    for column in ("ours", "its peer", "ratio", "recorded", "now / recorded"):
        table.add_column(column, justify="right")
    worse = []
    for name, guarded in GUARDED.items():
        change = ratios[name] / before[name]
        if change > WORSE:
            worse.append(guarded.title)
        pair = (f"{counts[guarded.ours]:,}", f"{counts[guarded.peer]:,}")
        texts = (f"{ratios[name]:.3f}", f"{before[name]:.3f}", f"{change:.2f}")
        table.add_row(guarded.title, *pair, *texts, style="bold red" if change > WORSE else "")
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    if worse:
        print(f"dearer than {WORSE} times what is recorded: {'; '.join(worse)}")
        print("Where it goes: README.md of this folder. If it is meant to be so: make bench-record")
    return 1 if worse else 0


if __name__ == "__main__":
    counted()
