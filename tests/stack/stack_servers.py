"""A real OpenTelemetry Collector and a real Jaeger for tests: the shipped configurations on their own ports."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from torchserve_server import free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

COLLECTOR = Path(__file__).parent.parent.parent / "collector"
PROTOCOLS = ("http/protobuf", "grpc")
START_SECONDS = 30
ARRIVAL_SECONDS = 20
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def binary(name: str) -> Path:
    """A program that make has built: ``otelcol`` or ``jaeger``."""
    command = [sys.executable, str(COLLECTOR / "build.py"), "--print", name]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return Path(answer.stdout.strip())


class Server:
    """One program with shipped configurations; its values are kept over ``kill`` and ``start``."""

    name = ""
    configs: tuple[Path, ...] = ()

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._environ = {**os.environ, **environ}
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(timeout=10, trust_env=False)

    @property
    def console_file(self) -> Path:
        return self.folder / f"{self.name}.txt"

    def console(self) -> str:
        """All that it has printed, over all starts."""
        return self.console_file.read_text(encoding="utf-8", errors="replace")

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Back when it works."""
        with self.console_file.open("ab") as console:
            self._process = subprocess.Popen(
                [str(binary(self.name)), *(option for path in self.configs for option in ("--config", str(path)))],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )

        def works() -> bool:
            assert self.is_alive(), f"{self.name} ended:\n{self.console()[-4000:]}"
            with contextlib.suppress(httpx.TransportError):
                return self.is_ready()
            return False

        wait_for(works, f"{self.name} works", START_SECONDS)

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it at once, without any chance to save something."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it in order."""
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@dataclass(frozen=True)
class JaegerSpan:
    """A span as Jaeger's HTTP API gives it; times in microseconds since the epoch."""

    name: str
    service: str
    span_id: str
    parent_span_id: str
    start_us: int
    end_us: int
    tags: dict[str, Any]
    logs: list[dict[str, Any]] = field(default_factory=list)


class Jaeger(Server):
    """Jaeger with its traces in memory."""

    name = "jaeger"
    configs = (COLLECTOR / "jaeger.yaml",)

    def __init__(self, folder: Path) -> None:
        self.otlp_address, self._query, grpc, self._health = (f"127.0.0.1:{free_port()}" for _ in "1234")
        environ = {
            "JAEGER_OTLP_GRPC_ENDPOINT": self.otlp_address,
            "JAEGER_QUERY_HTTP_ENDPOINT": self._query,
            "JAEGER_QUERY_GRPC_ENDPOINT": grpc,
            "JAEGER_HEALTH_ENDPOINT": self._health,
        }
        super().__init__(folder, environ)

    def is_ready(self) -> bool:
        answers = [
            self.client.get(f"http://{self._health}/status"),
            self.client.get(f"http://{self._query}/api/services"),
        ]
        return all(answer.is_success for answer in answers)

    def spans(self, trace_id: str) -> list[JaegerSpan]:
        """The spans of a trace in the order of their start: https://www.jaegertracing.io/docs/2.13/architecture/apis/."""
        answer = self.client.get(f"http://{self._query}/api/traces/{trace_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        # Unknown paths answer 200 with a page: only the JSON counts.
        [trace] = answer.raise_for_status().json()["data"]
        assert trace["traceID"] == trace_id
        spans = [_jaeger_span(span, trace["processes"]) for span in trace["spans"]]
        return sorted(spans, key=lambda span: span.start_us)

    def wait_for_trace(self, trace_id: str, *names: str) -> dict[str, JaegerSpan]:
        """The spans of a trace by name, once all of ``names`` are there; no name may come twice."""

        def complete() -> list[JaegerSpan] | None:
            spans = self.spans(trace_id)
            return spans if {span.name for span in spans} >= set(names) else None

        spans = wait_for(complete, f"{names} in Jaeger's trace {trace_id}", ARRIVAL_SECONDS)
        by_name = {span.name: span for span in spans}
        assert len(by_name) == len(spans), f"a span twice: {[span.name for span in spans]}"
        return by_name


def _jaeger_span(span: dict[str, Any], processes: dict[str, Any]) -> JaegerSpan:
    parents = [reference["spanID"] for reference in span["references"] if reference["refType"] == "CHILD_OF"]
    assert len(parents) <= 1
    keys = [tag["key"] for tag in span["tags"]]
    assert len(keys) == len(set(keys)), f"a tag twice: {keys}"
    return JaegerSpan(
        name=span["operationName"],
        service=processes[span["processID"]]["serviceName"],
        span_id=span["spanID"],
        parent_span_id=parents[0] if parents else "",
        start_us=span["startTime"],
        end_us=span["startTime"] + span["duration"],
        tags={tag["key"]: tag["value"] for tag in span["tags"]},
        logs=[{entry["key"]: entry["value"] for entry in log["fields"]} for log in span["logs"]],
    )


class Collector(Server):
    """The collector beside TorchServe, which sends its traces to ``traces_address``."""

    name = "otelcol"
    configs = (COLLECTOR / "agent.yaml",)

    def __init__(self, folder: Path, traces_address: str, **environ: str) -> None:
        self.grpc_address, http, self._prometheus, self._health = (f"127.0.0.1:{free_port()}" for _ in "1234")
        self.http_endpoint = f"http://{http}"
        self.logs_file = folder / "logs" / "logs-torchserve.jsonl"
        own_metrics_port = free_port()
        self._own_metrics = f"127.0.0.1:{own_metrics_port}"
        addresses = {
            "AGENT_OTLP_GRPC_ENDPOINT": self.grpc_address,
            "AGENT_OTLP_HTTP_ENDPOINT": http,
            "AGENT_TRACES_ENDPOINT": traces_address,
            "AGENT_QUEUE_FOLDER": str(folder / "queue"),
            "AGENT_LOGS_FILE": str(self.logs_file),
            "AGENT_PROMETHEUS_ENDPOINT": self._prometheus,
            "AGENT_OWN_METRICS_PORT": str(own_metrics_port),
            "AGENT_HEALTH_ENDPOINT": self._health,
        }
        super().__init__(folder, {**addresses, **environ})

    def is_ready(self) -> bool:
        return self.client.get(f"http://{self._health}").is_success

    def log_records(self) -> list[dict[str, Any]]:
        """The log records in its file, in the order of arrival, attributes as a plain dict, ``scope`` by name.

        A line that a kill has cut is left out: it was not acknowledged, so it comes again.
        """
        if not self.logs_file.exists():
            return []
        lines = re.split(r'(?=\{"resourceLogs":)|\n', self.logs_file.read_text(encoding="utf-8"))
        records = []
        for line in lines:
            with contextlib.suppress(ValueError):
                records += [
                    {
                        **record,
                        "attributes": {pair["key"]: pair["value"] for pair in record.get("attributes", ())},
                        "scope": scope.get("scope", {}).get("name", ""),
                        "resource": {
                            pair["key"]: pair["value"] for pair in resource.get("resource", {}).get("attributes", ())
                        },
                    }
                    for resource in json.loads(line)["resourceLogs"]
                    for scope in resource["scopeLogs"]
                    for record in scope["logRecords"]
                ]
        return records

    def wait_for_log_records(self, trace_id: str, count: int = 1) -> list[dict[str, Any]]:
        """The records of a trace, once there are at least ``count``."""

        def found() -> list[dict[str, Any]] | None:
            records = [record for record in self.log_records() if record.get("traceId") == trace_id]
            return records if len(records) >= count else None

        return wait_for(found, f"{count} log records of {trace_id} in {self.logs_file}", ARRIVAL_SECONDS)

    def metrics_page(self) -> str:
        """What Prometheus would scrape of TorchServe's metrics, in the format that has exemplars."""
        return self.client.get(f"http://{self._prometheus}/metrics", headers={"accept": OPEN_METRICS}).text

    def own_metric(self, name: str) -> float:
        """The sum of one of the collector's own metrics; 0 if it is not there."""
        page = self.client.get(f"http://{self._own_metrics}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)", page, re.MULTILINE))


class ConsoleCollector(Collector):
    """The same that also reads the files that ``CONSOLE_FILES`` names."""

    configs = (*Collector.configs, COLLECTOR / "console.yaml")


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start them in this order and stop them in the opposite one."""
    with contextlib.ExitStack() as cleanup:
        for server in servers:
            cleanup.callback(server.stop)
            server.start()
        yield
