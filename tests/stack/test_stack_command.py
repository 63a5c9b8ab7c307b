"""``make stack`` and ``make stop``, by the program that they run."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from torchserve_server import DIGITS, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

STACK = DIGITS / "stack.py"
COMMAND_SECONDS = 120
JAEGER_PORT, COLLECTOR_PORT, TORCHSERVE_PORT = 16686, 4318, 8080


def free_offset() -> int:
    """What to add to every port of a stack, so that nobody has one of them.

    Below the range from which the system gives ports to others meanwhile (32768 and up).
    """
    ports = [int(port) for port in re.findall(r'^    "\w+": (\d+),$', STACK.read_text(encoding="utf-8"), re.MULTILINE)]
    assert {JAEGER_PORT, COLLECTOR_PORT, TORCHSERVE_PORT} < set(ports)
    while True:
        offset = random.SystemRandom().randrange(100, 32768 - max(ports))
        with ExitStack() as cleanup, suppress(OSError):
            for port in ports:
                cleanup.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            return offset


class Command:
    """The program with a folder and ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offset = free_offset()

    def arguments(self, name: str) -> list[str]:
        return [sys.executable, str(STACK), name, "--folder", str(self.folder), "--port-offset", str(self.offset)]

    def run(self, name: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.arguments(name),
            check=False,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
        )

    def processes(self) -> list[psutil.Process]:
        """What runs of this stack: all of it works in the stack's folder, or below."""

        def belongs(process: psutil.Process) -> bool:
            with suppress(psutil.Error):
                return process.cwd().startswith(str(self.folder)) and process.status() != psutil.STATUS_ZOMBIE
            return False

        return [process for process in psutil.process_iter() if belongs(process)]

    def get(self, port: int, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{port + self.offset}{path}", timeout=10, trust_env=False)


@pytest.fixture
def command(tmp_path_factory: pytest.TempPathFactory, digits_archive: Path):
    folder = tmp_path_factory.mktemp("stack")
    (folder / "model-store").mkdir()
    # Newer than its sources, so that nothing is trained.
    shutil.copy(digits_archive, folder / "model-store" / "digits.mar")
    command = Command(folder)
    yield command
    command.run("stop")
    left = command.processes()
    for process in left:
        process.kill()
    assert left == []


def test_start_shows_a_trace_and_keeps_running_until_stop(command):
    started = command.run("start")
    assert started.returncode == 0, started.stdout
    # One line a part.
    assert re.findall(r"^(\w+) +works ", started.stdout, re.MULTILINE) == ["jaeger", "collector", "torchserve"]
    # The trace with its address, its waterfall and its line.
    [trace_id] = re.findall(r"^trace ([0-9a-f]{32})$", started.stdout, re.MULTILINE)
    assert f"http://127.0.0.1:{JAEGER_PORT + command.offset}/trace/{trace_id}" in started.stdout
    assert re.search(r"predict digits SERVER .*\n.*├─ preprocess .*\n.*├─ inference ", started.stdout)
    assert "Inference complete" in started.stdout
    [trace] = command.get(JAEGER_PORT, f"/api/traces/{trace_id}").json()["data"]
    assert {"POST", "predict digits"} <= {span["operationName"] for span in trace["spans"]}

    # In another terminal, later.
    assert command.run("status").returncode == 0
    again = command.run("start")
    assert (again.returncode, "running already" in again.stdout) == (0, True), again.stdout

    # A part of it dies: said, and stop ends the rest.
    collector = next(process for process in command.processes() if "otelcol" in process.name())
    collector.kill()
    wait_for(lambda: collector not in command.processes(), "the end of the collector")
    status = command.run("status")
    assert status.returncode == 1
    assert re.search(r"^collector +is not running", status.stdout, re.MULTILINE)
    assert "make stop" in command.run("start").stdout

    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd="/")
    stopped = command.run("stop")
    assert stopped.returncode == 0, stopped.stdout
    assert command.processes() == []
    assert bystander.poll() is None
    bystander.communicate(b"\n")
    assert "no stack is running" in command.run("stop").stdout


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_half_a_stack_can_be_ended(command, signal_number):
    # A shell's background jobs ignore Ctrl-C, and so would what they start: not what is asked here.
    arguments = ["env", "--default-signal=INT", *command.arguments("start")]
    start = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert start.stdout is not None
    said = ""
    while "waiting for torchserve" not in said:
        line = start.stdout.readline()
        said += line
        assert line, said
    start.send_signal(signal_number)
    start.stdout.close()
    start.wait(timeout=60)
    # Interrupted, it ends by itself what it has started; killed, it cannot.
    assert (command.processes() == []) == (signal_number == signal.SIGINT)
    assert command.run("stop").returncode == 0
    assert command.processes() == []


def test_ports_in_use_are_all_named_and_nothing_is_started(command):
    with (
        socket.create_server(("127.0.0.1", COLLECTOR_PORT + command.offset)),
        socket.create_server(("127.0.0.1", TORCHSERVE_PORT + command.offset)),
    ):
        started = command.run("start")
    assert started.returncode == 1
    assert f"127.0.0.1:{COLLECTOR_PORT + command.offset} (agent otlp http): Address already in use" in started.stdout
    assert f"127.0.0.1:{TORCHSERVE_PORT + command.offset} (torchserve inference)" in started.stdout
    assert f"pid {os.getpid()}" in started.stdout
    assert "STACK_PORT_OFFSET" in started.stdout
    assert command.processes() == []


def test_without_go_it_says_what_to_install(command, tmp_path):
    started = command.run("start", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert started.returncode == 1
    assert "Go 1.21 or newer is needed to build, and there is no go on PATH" in started.stdout
    assert command.processes() == []


def test_a_part_that_does_not_start_is_told_with_its_last_lines_and_the_rest_is_ended(command, tmp_path):
    broken = tmp_path / "otelcol"
    broken.write_text("#!/bin/sh\necho the reason why\nexit 3\n")
    broken.chmod(0o755)
    started = command.run("start", OTELCOL=str(broken))
    assert started.returncode == 1
    assert "collector ended with exit status 3" in started.stdout, started.stdout
    assert "the reason why" in started.stdout
    assert command.processes() == []
