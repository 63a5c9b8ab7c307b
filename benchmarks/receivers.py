"""Where telemetry goes: a real collector, one that is dead, one that hangs; and a reader of lines.

The standard library alone is imported here: children that measure memory import this module.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

HTTP, GRPC = "http/protobuf", "grpc"
_START_SECONDS = 60.0
_CONFIG = Path(__file__).parent / "collector.yaml"
_BUILD = Path(__file__).parent.parent / "collector" / "build.py"
# Loopback needs no proxy.
_OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Collector(NamedTuple):
    """A collector: its endpoint for each protocol, and the address of its own metrics."""

    endpoints: dict[str, str]
    metrics: str


def accepted(metrics: str, what: str = "log_records") -> int:
    """Return how many items a collector has taken since its start.

    Args:
        metrics: The address of its metrics.
        what: ``log_records``, ``spans`` or ``metric_points``.
    """
    with _OPEN(metrics, timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^otelcol_receiver_accepted_{what}\S* (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, found)))


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def collector() -> Iterator[Collector]:
    """Run the collector that ``make collector`` has built.

    Raises:
        RuntimeError: It is not built, or does not start.
    """
    built = subprocess.run([sys.executable, _BUILD, "--print", "otelcol"], check=False, capture_output=True, text=True)
    if built.returncode != 0:
        raise RuntimeError(built.stderr.strip())
    http, grpc, metrics = (free_port() for _ in range(3))
    environ = {
        **os.environ,
        "BENCH_HTTP_ENDPOINT": f"127.0.0.1:{http}",
        "BENCH_GRPC_ENDPOINT": f"127.0.0.1:{grpc}",
        "BENCH_METRICS_PORT": str(metrics),
    }
    command = [built.stdout.strip(), "--config", str(_CONFIG)]
    found = Collector(
        {HTTP: f"http://127.0.0.1:{http}", GRPC: f"http://127.0.0.1:{grpc}"}, f"http://127.0.0.1:{metrics}/metrics"
    )
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environ, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        try:
            _wait_for(found, process)
            yield found
        finally:
            process.terminate()


def _wait_for(found: Collector, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(found):
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError("the collector does not start")
        time.sleep(0.05)


def _answers(found: Collector) -> bool:
    # The page is there before the receivers: an empty request is answered by them.
    request = urllib.request.Request(
        f"{found.endpoints[HTTP]}/v1/logs", b"", {"Content-Type": "application/x-protobuf"}
    )
    try:
        accepted(found.metrics)
        with _OPEN(request, timeout=10):
            return True
    except OSError:
        return False


@contextmanager
def dead_collector() -> Iterator[Collector]:
    """Give endpoints that refuse every connection."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    yield Collector({HTTP: endpoint, GRPC: endpoint}, "")


@contextmanager
def hung_collector() -> Iterator[Collector]:
    """Give endpoints that take connections and what is sent, and never answer: the kernel's own queue does it."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield Collector({HTTP: endpoint, GRPC: endpoint}, "")


@contextmanager
def line_reader() -> Iterator[TextIO]:
    """Give a pipe that another process reads: one in this process would fight the writer for the interpreter's lock."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as reader:
        assert reader.stdin is not None
        yield reader.stdin
