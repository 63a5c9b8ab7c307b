"""Digits on TorchServe, an OpenTelemetry Collector and Jaeger, kept running: ``make stack``, ``make stop``.

Every process that is started here carries the mark of its stack in its environment, and hands it on to its children.
What runs is therefore known from the processes themselves: also after a crash, in a new terminal, or half started, and
without ever taking another process for one of ours. Console output and data are in the stack's folder.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import client
import httpx
import psutil
from demo import DemoError, find_java, make_archive, say, wait_until

HERE = Path(__file__).resolve().parent
COLLECTOR = HERE.parent.parent / "collector"
MARK = "TS_OTEL_LOGGING_STACK"
NAMES = ("jaeger", "collector", "torchserve")  # in the order of their start: each sends to the one before
START_LIMIT_SECONDS = 60
WORKER_LIMIT_SECONDS = 120
STOP_LIMIT_SECONDS = 20
TRACE_LIMIT_SECONDS = 30
MAX_SOCKET_PATH_BYTES = 107

# What each port is for: the number by default, to which STACK_PORT_OFFSET is added.
PORTS = {
    "jaeger_query_http": 16686,
    "jaeger_query_grpc": 16685,
    "jaeger_otlp_grpc": 14317,
    "jaeger_health": 13134,
    "agent_otlp_grpc": 4317,
    "agent_otlp_http": 4318,
    "agent_prometheus": 8889,
    "agent_own_metrics": 8888,
    "agent_health": 13133,
    "torchserve_inference": 8080,
    "torchserve_management": 8081,
    "torchserve_metrics": 8082,
    "torchserve_grpc_inference": 7070,
    "torchserve_grpc_management": 7071,
}


def default_folder():
    """Outside of the tree: what runs is not forgotten with a `make clean`."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "ts-otel-logging" / "stack"


@dataclass(frozen=True)
class Part:
    """One of the three programs.

    Args:
        name: One of ``NAMES``.
        command: What starts it.
        environment: What it gets beside the caller's environment.
        is_ready: Whether it works.
        limit_seconds: How long that may take.
    """

    name: str
    command: list
    environment: dict
    is_ready: object
    limit_seconds: float = START_LIMIT_SECONDS


class Stack:
    """The three programs of one folder: at most one stack runs in it."""

    def __init__(self, folder, port_offset):
        self.folder = folder
        self.ports = {name: port + port_offset for name, port in PORTS.items()}
        self.telemetry = folder / "telemetry"
        self.temporary = folder / "tmp"
        self._http = httpx.Client(trust_env=False, timeout=5)  # no proxy between us and a local server

    def address(self, port_name):
        return f"127.0.0.1:{self.ports[port_name]}"

    def url(self, port_name, path=""):
        return f"http://{self.address(port_name)}{path}"

    def console(self, name):
        return self.folder / f"{name}.log"

    # What runs

    def running(self):
        """The living processes of this stack by part."""
        parts = {name: [] for name in NAMES}
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # other users' processes, and those that have just ended
                mark = process.environ().get(MARK, "")
                name, _, folder = mark.partition("@")
                if folder == str(self.folder) and name in parts and process.status() != psutil.STATUS_ZOMBIE:
                    parts[name].append(process)
        return parts

    def stop(self):
        """End every process of this stack, the senders first, so that the receivers still get what they flush.

        Raises:
            DemoError: If one cannot be ended.
        """
        for name in reversed(NAMES):
            signalled = set()
            deadline = time.monotonic() + STOP_LIMIT_SECONDS
            while processes := self.running()[name]:
                own = {process.pid for process in processes}
                for process in processes:
                    with suppress(psutil.NoSuchProcess):
                        if time.monotonic() > deadline:
                            process.kill()
                        # Only the topmost: the JVM ends its workers itself.
                        elif process.ppid() not in own and process.pid not in signalled:
                            with suppress(OSError):  # whoever listens may be gone, with Ctrl-C on a pipe for example
                                say(f"stopping {name} (pid {process.pid})")
                            process.terminate()
                            signalled.add(process.pid)
                if time.monotonic() > deadline + STOP_LIMIT_SECONDS:
                    raise DemoError(f"{name} cannot be ended: pids {sorted(own)}")
                psutil.wait_procs(processes, timeout=0.2)
        shutil.rmtree(self.temporary, ignore_errors=True)

    # Starting

    def check_ports(self):
        """Nobody else listens where the stack will.

        Raises:
            DemoError: With all ports that are taken, and by whom if that can be known.
        """
        taken = []
        for name, port in self.ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    taken.append(f"  127.0.0.1:{port} ({name.replace('_', ' ')}): {error.strerror}{_holder(port)}")
        if taken:
            raise DemoError(
                "these ports cannot be used:\n"
                + "\n".join(taken)
                + "\nEnd what uses them, or shift all of the stack's ports: make stack STACK_PORT_OFFSET=1000"
            )

    def start(self, otelcol, jaeger):
        """Start all parts, each when the one before works.

        Raises:
            DemoError: If one does not come up; then none is left running.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_temporary()
        java = find_java()
        model_store = make_archive(self.folder)
        for path in (self.telemetry, self.temporary):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        with ExitStack() as cleanup:
            cleanup.callback(self.stop)
            for part in (self._jaeger(jaeger), self._collector(otelcol), self._torchserve(model_store, java)):
                self._start_part(part)
            cleanup.pop_all()

    def _check_temporary(self):
        longest = len(os.fsencode(str(self.temporary / ".ts.sock.9000")))
        if longest > MAX_SOCKET_PATH_BYTES:
            raise DemoError(f"the path {self.folder} is too long for a Unix socket in it; XDG_STATE_HOME names another")

    def _start_part(self, part):
        say(f"starting {part.name}, console in {self.console(part.name)}")
        # Settings of the caller's shell would change what is shown.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TS_"))}
        with self.console(part.name).open("wb") as console:
            process = subprocess.Popen(  # noqa: S603 - the stack's own command
                part.command,
                cwd=self.folder,
                env={**inherited, **part.environment, MARK: f"{part.name}@{self.folder}"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it outlives this terminal
            )

        def is_ready():
            # The launcher of TorchServe ends well by itself.
            if process.poll() not in (None, 0) or (process.poll() == 0 and not self.running()[part.name]):
                raise DemoError(f"{part.name} ended with exit status {process.returncode}")
            with suppress(httpx.HTTPError):
                return part.is_ready()
            return False

        try:
            wait_until(is_ready, f"{part.name} to work", part.limit_seconds)
        except DemoError as error:
            lines = self.console(part.name).read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
            raise DemoError("\n".join([f"{error}; the end of {self.console(part.name)}:", *lines])) from None

    def _jaeger(self, binary):
        return Part(
            "jaeger",
            [binary, "--config", COLLECTOR / "jaeger.yaml"],
            {
                "JAEGER_OTLP_GRPC_ENDPOINT": self.address("jaeger_otlp_grpc"),
                "JAEGER_QUERY_HTTP_ENDPOINT": self.address("jaeger_query_http"),
                "JAEGER_QUERY_GRPC_ENDPOINT": self.address("jaeger_query_grpc"),
                "JAEGER_HEALTH_ENDPOINT": self.address("jaeger_health"),
            },
            self._jaeger_works,
        )

    def _collector(self, binary):
        return Part(
            "collector",
            [binary, "--config", COLLECTOR / "agent.yaml"],
            {
                "AGENT_OTLP_GRPC_ENDPOINT": self.address("agent_otlp_grpc"),
                "AGENT_OTLP_HTTP_ENDPOINT": self.address("agent_otlp_http"),
                "AGENT_TRACES_ENDPOINT": self.address("jaeger_otlp_grpc"),
                "AGENT_QUEUE_FOLDER": str(self.telemetry / "queue"),
                # The name that `ts-otel-logging show` looks for.
                "AGENT_LOGS_FILE": str(self.telemetry / "logs-torchserve.jsonl"),
                "AGENT_PROMETHEUS_ENDPOINT": self.address("agent_prometheus"),
                "AGENT_OWN_METRICS_PORT": str(self.ports["agent_own_metrics"]),
                "AGENT_HEALTH_ENDPOINT": self.address("agent_health"),
                "GOMEMLIMIT": "320MiB",
            },
            self._collector_works,
        )

    def _torchserve(self, model_store, java):
        config = self.folder / "config.properties"
        config.write_text(
            f"inference_address={self.url('torchserve_inference')}\n"
            f"management_address={self.url('torchserve_management')}\n"
            f"metrics_address={self.url('torchserve_metrics')}\n"
            f"grpc_inference_port={self.ports['torchserve_grpc_inference']}\n"
            f"grpc_management_port={self.ports['torchserve_grpc_management']}\n"
            "default_workers_per_model=1\n",
            encoding="utf-8",
        )
        return Part(
            "torchserve",
            [
                Path(sysconfig.get_path("scripts")) / "torchserve",
                *("--start", "--no-config-snapshots", "--disable-token-auth", "--ts-config", config),
                *("--model-store", model_store, "--models", "digits=digits.mar"),
            ],
            {
                **java,
                "TS_OTEL_LOGGING": "1",
                "OTEL_EXPORTER_OTLP_ENDPOINT": self.url("agent_otlp_http"),
                "LOG_LOCATION": str(self.folder / "logs"),
                "METRICS_LOCATION": str(self.folder / "logs"),
                # TMPDIR holds TorchServe's pid file, TEMP the JVM's files: no other TorchServe is disturbed.
                "TMPDIR": str(self.temporary),
                "TEMP": str(self.temporary),
            },
            self._torchserve_works,
            WORKER_LIMIT_SECONDS,
        )

    # Looking

    def _jaeger_works(self):
        return (
            self._http.get(self.url("jaeger_health", "/status")).is_success
            and self._http.get(self.url("jaeger_query_http", "/api/services")).is_success
        )

    def _collector_works(self):
        return self._http.get(self.url("agent_health")).is_success

    def _torchserve_works(self):
        answer = self._http.get(self.url("torchserve_management", "/models/digits"))
        return answer.is_success and any(worker["status"] == "READY" for worker in answer.json()[0]["workers"])

    def status(self):
        """One line a part, and whether all of them work."""
        reach = {
            "jaeger": f"{self.url('jaeger_query_http')} (pages and API)",
            "collector": f"OTLP {self.url('agent_otlp_http')} (HTTP) and {self.address('agent_otlp_grpc')} (gRPC), "
            f"metrics {self.url('agent_prometheus', '/metrics')}",
            "torchserve": self.url("torchserve_inference", "/predictions/digits"),
        }
        checks = {
            "jaeger": self._jaeger_works,
            "collector": self._collector_works,
            "torchserve": self._torchserve_works,
        }
        processes = self.running()
        lines, all_work = [], True
        for name in NAMES:
            works = False
            if processes[name]:
                with suppress(httpx.HTTPError):
                    works = checks[name]()
            state = "works" if works else "does not answer" if processes[name] else "is not running"
            pids = ",".join(str(process.pid) for process in processes[name]) or "-"
            lines.append(f"{name:<11}{state:<16} pids {pids:<18} {reach[name]}")
            all_work = all_work and works
        return lines, all_work

    def send_digit(self):
        """One digit from a client that OpenTelemetry's own httpx instrumentation traces; the trace's id."""
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        session = requests.Session()
        session.trust_env = False
        provider = TracerProvider(resource=Resource.create({"service.name": "digits-client"}))
        exporter = OTLPSpanExporter(endpoint=self.url("agent_otlp_http", "/v1/traces"), session=session)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        digit = client.requests_to_send(1)[0]
        with httpx.Client(trust_env=False, timeout=30) as http:
            HTTPXClientInstrumentor.instrument_client(http, tracer_provider=provider)
            with provider.get_tracer("digits").start_as_current_span(f"read {digit.name}") as span:
                answer = http.post(self.url("torchserve_inference", "/predictions/digits"), json=digit.body)
        provider.shutdown()
        if not answer.is_success:
            raise DemoError(f"TorchServe answered {answer.status_code}: {answer.text}")
        return f"{span.get_span_context().trace_id:032x}"

    def show_trace(self, trace_id):
        """Print the trace as Jaeger has it, with the log lines that the collector wrote.

        Raises:
            DemoError: If it does not arrive.
        """
        found = {}

        def has_arrived():
            answer = self._http.get(self.url("jaeger_query_http", f"/api/v3/traces/{trace_id}"))
            if answer.is_success:
                found.update(answer.json().get("result", {}))
            names = {
                span["name"]
                for resource in found.get("resourceSpans", ())
                for scope in resource["scopeSpans"]
                for span in scope["spans"]
            }
            logs = self.telemetry / "logs-torchserve.jsonl"
            has_logs = logs.exists() and trace_id in logs.read_text(encoding="utf-8")
            return has_logs and {"POST", "predict digits", "preprocess", "inference", "postprocess"} <= names

        wait_until(has_arrived, "the trace in Jaeger and its lines in the collector's file", TRACE_LIMIT_SECONDS)
        traces = self.telemetry / "traces-jaeger.jsonl"
        traces.write_text(json.dumps(found) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "ts_otel_logging._cli", "show", self.telemetry, "--trace-id", trace_id]
        subprocess.run(command, check=True)  # noqa: S603 - our own command
        print(f"trace {trace_id}")
        print(f"  {self.url('jaeger_query_http', f'/trace/{trace_id}')}")
        print(f"  {self.url('jaeger_query_http', f'/api/traces/{trace_id}')}")


def _holder(port):
    """Who listens on a port, as far as the system tells."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def built(name):
    """The path of a binary, built now if it is not there.

    Raises:
        DemoError: If it cannot be built; what is missing has been said.
    """
    command = [sys.executable, COLLECTOR / "build.py", name]
    build = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    if build.returncode != 0:
        raise DemoError(f"there is no {name} to start")
    return build.stdout.strip()


def start(stack):
    """Start the stack, or look at the one that runs, and show one trace of it."""
    lines, all_work = stack.status()
    if any(stack.running().values()):
        if not all_work:
            raise DemoError("\n".join(["a part of this stack is running already: make stop", *lines]))
        say("the stack is running already")
    else:
        stack.check_ports()
        stack.start(built("otelcol"), built("jaeger"))
        lines, _ = stack.status()
    trace_id = stack.send_digit()
    stack.show_trace(trace_id)
    print("\n".join(["", *lines]))
    print(f"folder     {stack.folder}\nend it     make stop")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("start", "stop", "status"))
    parser.add_argument("--folder", type=Path, default=default_folder(), help="default: %(default)s")
    parser.add_argument(
        "--port-offset",
        type=int,
        default=int(os.environ.get("STACK_PORT_OFFSET") or 0),
        help="added to every port; STACK_PORT_OFFSET, else 0",
    )
    arguments = parser.parse_args()
    stack = Stack(arguments.folder.absolute(), arguments.port_offset)

    # SIGTERM as an exception runs the clean-up that Ctrl-C runs.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        if arguments.command == "start":
            start(stack)
        elif arguments.command == "status":
            lines, all_work = stack.status()
            print("\n".join(lines))
            return 0 if all_work else 1
        elif any(stack.running().values()):
            stack.stop()
            say("the stack is stopped")
        else:
            say(f"no stack is running in {shlex.quote(str(stack.folder))}")
    except DemoError as error:
        say(f"failed: {error}")
        return 1
    except OSError as error:  # a full disk
        say(f"failed: {error.filename or stack.folder}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
