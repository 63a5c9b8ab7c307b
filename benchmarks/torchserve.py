"""TorchServe with a tiny model: throughput, latency and processor time a request, stock and with the package.

All servers run at once and ``wrk`` asks one after the other: idle ones cost next to nothing. What they print goes
through a pipe that another process reads, as in a container. Nothing is set but what a contender's name says; metrics
go to TorchServe's log files, as is its default.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil

from benchmarks.harness import OURS, Goal, Workload
from benchmarks.receivers import HTTP, collector, dead_collector, hung_collector, line_reader

TESTS = Path(__file__).parent.parent / "tests"
# At the end: a module of this folder has the name of one of the tests'.
sys.path += [str(TESTS), str(TESTS / "torchserve")]

from torchserve_server import Model, TorchServe, running  # noqa: E402

import debian_programs  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from benchmarks.harness import Bench, Rounds, Turn

STOCK = "stock"
JSON_ONLY = f"{OURS}, json-only"
DEAD = f"{OURS}, dead collector"
HUNG = f"{OURS}, hung collector"
# Where the time goes: without export, and without a part in the frontend.
NO_EXPORT = f"{OURS}, no export"
JSON_ONLY_NO_EXPORT = f"{OURS}, json-only, no export"
NO_FRONTEND = f"{OURS}, no export, frontend off"

WORKLOADS = (
    Workload(
        "torchserve.throughput",
        "Requests a second, tiny model, four connections",
        "1/s",
        (Goal(0.95, OURS, STOCK, at_least=True), Goal(1.10, JSON_ONLY, STOCK, at_least=True)),
        digits=0,
    ),
    Workload("torchserve.p50", "The same: median latency", "ms"),
    Workload("torchserve.p99", "The same: 99th percentile", "ms", (Goal(1.05, DEAD, OURS), Goal(1.05, HUNG, OURS))),
    Workload("torchserve.cpu_jvm", "Processor time of a request: launcher and JVM", "ms", digits=2),
    Workload("torchserve.cpu_worker", "The same: the worker", "ms", digits=2),
    Workload("torchserve.cpu_relay", "The same: the console's relay", "ms", digits=2),
)

MODEL = Model("tiny", "tiny.py")
CONNECTIONS = 4
SECONDS = 6
# The JVM compiles what runs often, for a long time: its compiler takes half of a server's processor at first, and a
# tenth after half a minute.
WARM_UP_SECONDS = 75

WRK = """\
wrk.method = "POST"
wrk.body = "{}"
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format('{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "errors": %d}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        e.connect + e.read + e.write + e.status))
end
"""


def processor_seconds(server: TorchServe) -> dict[str, float]:
    """Return what each kind of process of a server has used so far."""
    seconds = dict.fromkeys(("torchserve.cpu_jvm", "torchserve.cpu_worker", "torchserve.cpu_relay"), 0.0)
    for process in server.processes():
        with suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            kind = "worker" if "model_service_worker" in command else "relay" if "_relay.py" in command else "jvm"
            times = process.cpu_times()
            seconds[f"torchserve.cpu_{kind}"] += times.user + times.system
    return seconds


def ask(server: TorchServe, script: Path, seconds: int) -> dict[str, float]:
    """Let wrk ask for so many seconds.

    Returns:
        A value for each workload.

    Raises:
        RuntimeError: A request failed.
    """
    before = processor_seconds(server)
    url = f"{server.inference_url}/predictions/{MODEL.name}"
    answer = subprocess.run(
        [debian_programs.program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), url],
        check=True,
        env=debian_programs.environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    said = json.loads(answer.stdout.splitlines()[-1])
    after = processor_seconds(server)
    if said["errors"]:
        raise RuntimeError(f"{said['errors']} of {said['requests']} requests failed")
    return {
        "torchserve.throughput": said["requests"] / said["seconds"],
        "torchserve.p50": said["p50"],
        "torchserve.p99": said["p99"],
        **{kind: (after[kind] - before[kind]) / said["requests"] * 1e3 for kind in after},
    }


def start(stack: ExitStack, folder: Path, environ: dict[str, str]) -> TorchServe:
    """Return a server whose console somebody reads."""
    reader = stack.enter_context(line_reader())
    server: TorchServe = stack.enter_context(
        running(
            folder,
            environ,
            MODEL,
            plugin_installed=bool(environ),
            console=reader.fileno(),
            properties="metrics_mode=log\n",
        )
    )
    # The server's processes alone hold the pipe now: its reader ends with them.
    reader.close()
    return server


def measure(bench: Bench) -> Iterator[dict[str, Rounds]]:
    """Let every server have its turns."""

    def exporting_to(kind: object) -> dict[str, str]:
        return {"TS_OTEL_LOGGING": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": bench.server(kind).endpoints[HTTP]}

    on, off = exporting_to(collector), {"TS_OTEL_LOGGING": "1", "OTEL_SDK_DISABLED": "true"}
    environs: dict[str, dict[str, str]] = {
        STOCK: {},
        OURS: on,
        JSON_ONLY: {**on, "TS_OTEL_LOGGING_FRONTEND": "json-only"},
        DEAD: exporting_to(dead_collector),
        HUNG: exporting_to(hung_collector),
        NO_EXPORT: off,
        JSON_ONLY_NO_EXPORT: {**off, "TS_OTEL_LOGGING_FRONTEND": "json-only"},
        NO_FRONTEND: {**off, "TS_OTEL_LOGGING_FRONTEND": "off"},
    }
    folder = Path(bench.stack.enter_context(TemporaryDirectory()))
    script = folder / "tiny.lua"
    script.write_text(WRK, encoding="utf-8")
    turns: dict[str, Turn] = {}
    for number, name in enumerate(bench.some(environs)):
        server = start(bench.stack, folder / str(number), environs[name])
        ask(server, script, bench.count(WARM_UP_SECONDS))
        turns[name] = lambda server=server: ask(server, script, bench.count(SECONDS))
    yield bench.interleave("", turns)
