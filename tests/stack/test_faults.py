"""What is left of the telemetry when a part of the way is killed, away, or fed with rubbish."""

from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest
from stack_servers import Collector, Jaeger, running
from telemetry import Caller, new_caller
from torchserve_server import DEAD_PROXY, PHASES, PROMPT_EXPORT, TorchServe, wait_for
from torchserve_server import running as torchserve_running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

SPAN_NAMES = ("predict phases", "preprocess", "inference", "postprocess")
MESSAGE = "under load"
REQUEST = {"inference": {"log": [{"message": MESSAGE}]}}
CLIENTS = 4
JAEGER_AWAY_SECONDS = 30
DRAIN_SECONDS = 45
# A request never waits for telemetry; two cores are shared with all else.
LONGEST_REQUEST_SECONDS = 5


@pytest.fixture(scope="module")
def faulty_jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    jaeger = Jaeger(tmp_path_factory.mktemp("jaeger"))
    with running(jaeger):
        yield jaeger


@pytest.fixture(scope="module")
def faulty_collector(tmp_path_factory: pytest.TempPathFactory, faulty_jaeger: Jaeger) -> Iterator[Collector]:
    collector = Collector(tmp_path_factory.mktemp("collector"), faulty_jaeger.otlp_address)
    with running(collector):
        yield collector


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, faulty_collector: Collector) -> Iterator[TorchServe]:
    environ = {
        "TS_OTEL_LOGGING": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": faulty_collector.http_endpoint,
        **PROMPT_EXPORT,
        **DEAD_PROXY,
    }
    with torchserve_running(tmp_path_factory.mktemp("server"), environ, PHASES) as server:
        yield server


class Load:
    """Requests from several clients, each in a trace of its own, until it is told to stop."""

    def __init__(self, server: TorchServe, pause_seconds: float) -> None:
        self._server = server
        self._pause_seconds = pause_seconds
        self._end = threading.Event()
        self.callers: list[Caller] = []
        self.longest_seconds = 0.0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._end.is_set():
            caller = new_caller()
            started = time.monotonic()
            answer = self._server.predict("phases", REQUEST, caller.headers)
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
            if answer.is_success:
                self.callers.append(caller)
            else:
                self.failures.append(answer.text)
            self._end.wait(self._pause_seconds)

    def stop(self) -> None:
        self._end.set()

    def wait_for_requests(self, count: int) -> None:
        wanted = len(self.callers) + count
        wait_for(lambda: len(self.callers) >= wanted, f"{count} more requests", 60)


@contextmanager
def load(server: TorchServe, pause_seconds: float) -> Iterator[Load]:
    load = Load(server, pause_seconds)
    with ThreadPoolExecutor(max_workers=CLIENTS) as pool:
        clients = [pool.submit(load.run) for _ in range(CLIENTS)]
        try:
            yield load
        finally:
            load.stop()
    for client in clients:
        client.result()


class Arrived:
    """What is at the far end of a load's requests."""

    def __init__(self, callers: list[Caller], jaeger: Jaeger, collector: Collector) -> None:
        self._callers = callers
        self._jaeger = jaeger
        self._collector = collector
        self.spans: dict[str, Counter[str]] = {}
        self.log_records: Counter[str] = Counter()

    def look(self) -> bool:
        """Whether everything is there now."""
        for caller in self._callers:
            if not set(SPAN_NAMES) <= set(self.spans.get(caller.trace_id, ())):
                spans = self._jaeger.spans(caller.trace_id)
                self.spans[caller.trace_id] = Counter(span.name for span in spans)
        records = self._collector.log_records()
        self.log_records = Counter(record.get("traceId", "") for record in records)
        return self.missing_spans == 0 and self.missing_log_records == 0

    @property
    def missing_spans(self) -> int:
        return sum(name not in self.spans[caller.trace_id] for caller in self._callers for name in SPAN_NAMES)

    @property
    def missing_log_records(self) -> int:
        return sum(caller.trace_id not in self.log_records for caller in self._callers)

    def wait_for_all(self) -> None:
        """Until all is there, or no more comes."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while not self.look() and time.monotonic() < deadline:
            time.sleep(0.5)

    def told(self, what: str) -> str:
        twice_spans = sum(count - 1 for spans in self.spans.values() for count in spans.values())
        twice_records = sum(self.log_records[caller.trace_id] - 1 for caller in self._callers)
        requests = len(self._callers)
        return (
            f"\n{what}: {requests} requests answered; "
            f"spans {requests * len(SPAN_NAMES)} expected, {self.missing_spans} missing, {twice_spans} twice; "
            f"log records {requests} expected, {self.missing_log_records} missing, {twice_records} twice"
        )


def test_a_collector_that_is_killed_and_comes_back_costs_nothing(server, faulty_collector, faulty_jaeger, capsys):
    with load(server, pause_seconds=0.01) as requests:
        requests.wait_for_requests(100)
        faulty_collector.kill()
        # Less than what a worker keeps: 2048 spans, 2048 log records, 4 MiB of both.
        requests.wait_for_requests(150)
        faulty_collector.start()
        requests.wait_for_requests(100)
    arrived = Arrived(requests.callers, faulty_jaeger, faulty_collector)
    arrived.wait_for_all()
    with capsys.disabled():
        print(arrived.told("collector killed for 150 requests"))
    assert requests.failures == []
    assert requests.longest_seconds < LONGEST_REQUEST_SECONDS
    assert (arrived.missing_spans, arrived.missing_log_records) == (0, 0)


def test_while_jaeger_is_away_its_traces_wait_on_the_collectors_disk(server, faulty_collector, faulty_jaeger, capsys):
    def waiting() -> float:
        return faulty_collector.own_metric("otelcol_exporter_queue_size")

    wait_for(lambda: waiting() == 0, "an empty queue")
    faulty_jaeger.kill()
    away_since = time.monotonic()
    with load(server, pause_seconds=0.5) as requests:
        requests.wait_for_requests(40)
        wait_for(lambda: waiting() > 0, "something in the queue")
        # What is only in memory would be gone now.
        faulty_collector.kill()
        faulty_collector.start()
        wait_for(lambda: time.monotonic() - away_since >= JAEGER_AWAY_SECONDS, "the time", JAEGER_AWAY_SECONDS + 5)
        waited_bytes = waiting()
        faulty_jaeger.start()
        requests.wait_for_requests(10)
    arrived = Arrived(requests.callers, faulty_jaeger, faulty_collector)
    arrived.wait_for_all()
    with capsys.disabled():
        print(arrived.told(f"Jaeger away for {JAEGER_AWAY_SECONDS} s, {waited_bytes:.0f} bytes waited on disk"))
    assert requests.failures == []
    assert requests.longest_seconds < LONGEST_REQUEST_SECONDS
    assert waited_bytes > 0
    assert (arrived.missing_spans, arrived.missing_log_records) == (0, 0)
    wait_for(lambda: waiting() == 0, "an empty queue", DRAIN_SECONDS)


class TestMalformed:
    """Whatever comes in is refused with a client's error, and the collector goes on."""

    @pytest.fixture(autouse=True)
    def _nothing_else_is_harmed(self, server, faulty_collector, faulty_jaeger):
        records = len(faulty_collector.log_records())
        yield
        caller = new_caller()
        assert server.predict("phases", REQUEST, caller.headers).is_success
        faulty_jaeger.wait_for_trace(caller.trace_id, *SPAN_NAMES)
        faulty_collector.wait_for_log_records(caller.trace_id)
        assert faulty_collector.is_alive()
        new = faulty_collector.log_records()[records:]
        # Every record of ours has this; what came in malformed has not.
        assert all("log.record.uid" in record["attributes"] for record in new)

    @pytest.mark.parametrize("signal", ["traces", "logs", "metrics"])
    @pytest.mark.parametrize(
        ("headers", "body", "status_code"),
        [
            ({"content-type": "application/x-protobuf"}, b"\xff\xff\xff\xff", 400),
            ({"content-type": "application/json"}, b'{"resourceSpans": [{', 400),
            ({"content-type": "application/x-protobuf", "content-encoding": "gzip"}, b"not gzip", 400),
            (
                {"content-type": "application/x-protobuf", "content-encoding": "gzip"},
                gzip.compress(b"x" * 99)[:20],
                400,
            ),
            ({"content-type": "text/plain"}, b"hello", 415),
        ],
        ids=["protobuf", "json", "gzip", "cut gzip", "text"],
    )
    def test_over_http(self, faulty_collector, signal, headers, body, status_code):
        url = f"{faulty_collector.http_endpoint}/v1/{signal}"
        assert httpx.post(url, content=body, headers=headers, trust_env=False).status_code == status_code

    def test_ids_of_the_wrong_length_are_refused(self, faulty_collector):
        span = {"traceId": "abcd", "spanId": "ef", "name": "short", "startTimeUnixNano": "1", "endTimeUnixNano": "2"}
        body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
        answer = httpx.post(f"{faulty_collector.http_endpoint}/v1/traces", json=body, trust_env=False)
        assert answer.status_code == httpx.codes.BAD_REQUEST

    def test_over_grpc(self, faulty_collector):
        with grpc.insecure_channel(faulty_collector.grpc_address, [("grpc.enable_http_proxy", 0)]) as channel:
            export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            with pytest.raises(grpc.RpcError) as refused:
                export(b"\xff\xff\xff\xff", timeout=10)
        assert refused.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL}
