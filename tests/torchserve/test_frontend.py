"""The frontend's own lines: fields, what is quiet, the modes, a console nobody reads."""

from __future__ import annotations

import os
import re
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import console_lines
import pytest
from torchserve_server import PHASES, TorchServe, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torchserve

LOG_FILES = {"access_log.log", "model_log.log", "model_metrics.log", "ts_log.log", "ts_metrics.log"}
CHATTER = ("Looping backend response", "Backend response time", "Sending response for jobId", "result=[METRICS]",
           "Backend received inference", "Flushing req", "Waiting time ns")  # fmt: skip
NO_EXPORT = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "LOGS", "METRICS")}
# How long nobody reads: far longer than any request takes, and than the pipe and the buffer of stock last.
UNREAD_SECONDS = 30
# Twice what the relay keeps.
ENOUGH_BYTES = 10_000_000
MOST_ANSWER_SECONDS = 1.0
# Stock's stall as long as nobody reads.
A_STALL_SECONDS = 4.0


def events_of(server: TorchServe, logger: str, since_bytes: int = 0) -> list[dict[str, Any]]:
    return [event for event in console_lines.events(server.console_lines(since_bytes)) if event["logger"] == logger]


class TestAccessLog:
    def access(self, server, path: str) -> dict[str, Any]:
        since = server.console_size_bytes()
        server.client.get(path)
        # The line of a request before may still be on its way.
        begin = re.split(r'[?%"]', path)[0]

        def found():
            return [event for event in events_of(server, "ACCESS_LOG", since) if event["url.path"].startswith(begin)]

        return wait_for(found, f"the access log of {path}")[0]

    def test_has_fields_with_opentelemetrys_names(self, server):
        event = self.access(server, "/predictions/phases")
        assert event["http.request.method"] == "GET"
        assert event["url.path"] == "/predictions/phases"
        assert event["http.response.status_code"] == 200
        assert event["network.protocol.version"] == "1.1"
        assert event["client.address"] == "127.0.0.1"
        assert event["client.port"] > 0
        assert 0 <= event["duration_ms"] < 30_000
        assert (event["model_name"], event["model_version"]) == ("phases", "1.0")
        assert event["worker_id"].isdigit()

    @pytest.mark.parametrize(
        "path",
        [
            "/predictions/nobody?password=hunter2",
            "/predictions/nobody?password=hunter2%20HTTP/1.1%22%20200%201",
            '/predictions/nobody/"?password=hunter2&x=\\"',
            "/predictions/nobody?a=b?password=hunter2",
        ],
    )
    def test_has_no_query_string_anywhere(self, server, path):
        event = self.access(server, path)
        assert event["http.response.status_code"] == 404
        assert event["url.path"].startswith("/predictions/nobody")
        assert "hunter2" not in str(event)
        assert "?" not in event["url.path"]

    def test_a_path_that_looks_like_the_rest_of_the_line_is_only_a_path(self, server):
        event = self.access(server, '/x"%20HTTP/1.1"%20200%207')
        assert event["http.response.status_code"] == 404
        assert event["url.path"].startswith("/x")


def test_a_line_of_a_workers_thread_names_model_and_worker(server):
    started = [event for event in events_of(server, "MODEL_LOG") if event["event"] == "Torch worker started."]
    assert {event["model_name"] for event in started} >= {"phases", "own", "function", "digits"}
    for event in started:
        assert event["model_version"]
        assert event["thread"].startswith(f"W-{event['worker_id']}-{event['model_name']}_")


def test_what_says_nothing_new_is_quiet(server):
    since = server.console_size_bytes()
    for _ in range(3):
        server.predict("phases", {})
    wait_for(lambda: len(events_of(server, "ACCESS_LOG", since)) >= 3, "three lines of the access log")
    chatter = [line for line in server.console_lines() if any(words in line for words in CHATTER)]
    assert chatter == []


@pytest.fixture(scope="module")
def debug_server(tmp_path_factory) -> Iterator[TorchServe]:
    environ = {
        "TS_OTEL_LOGGING": "1",
        "TS_OTEL_LOGGING_FRONTEND": "json+files",
        "TS_OTEL_LOGGING_LEVEL": "DEBUG",
        **NO_EXPORT,
    }
    with running(tmp_path_factory.mktemp("files"), environ, PHASES, properties="metrics_mode=log\n") as server:
        server.predict("phases", {"inference": {"print": "printed"}})
        yield server


class TestJsonFilesAtDebug:
    @pytest.mark.parametrize("words", CHATTER)
    def test_debug_brings_everything_back(self, debug_server, words):
        debug_server.wait_for_line(lambda line: words in line, words)

    def test_a_metric_has_fields(self, debug_server):
        [event] = wait_for(
            lambda: [e for e in events_of(debug_server, "MODEL_METRICS") if e["event"].startswith("HandlerTime.")][:1],
            "HandlerTime",
        )
        assert event["metric_name"] == "HandlerTime"
        assert event["metric_unit"] == "ms"
        assert event["metric_value"] >= 0
        assert event["metric_dimensions"] == {"ModelName": "phases", "Level": "Model"}
        assert event["request_id"] in event["event"]

    def test_a_metric_of_the_host_has_no_request(self, debug_server):
        [event] = wait_for(
            lambda: [e for e in events_of(debug_server, "TS_METRICS") if e["event"].startswith("CPUUtilization.")][:1],
            "CPUUtilization",
        )
        assert event["metric_unit"] == "Percent"
        assert event["metric_dimensions"] == {"Level": "Host"}
        assert "request_id" not in event

    @pytest.mark.parametrize("name", sorted(LOG_FILES))
    def test_log_files_are_json(self, debug_server, name):
        text = wait_for(lambda: (debug_server.logs / name).read_text(encoding="utf-8"), name)
        for line in text.split("\n")[:-1]:
            assert not console_lines.parse(line)["event"].startswith('{"')

    @pytest.mark.parametrize("name", ["model_log.log", "ts_log.log"])
    def test_log_files_have_a_workers_lines_as_the_console_has_them(self, debug_server, name):
        since = debug_server.console_size_bytes()
        mark = f"for {name}"
        step = {"log": [{"message": f"logged {mark}"}], "native": f"native {mark}"}
        debug_server.predict("phases", {"preprocess": step, "inference": step, "postprocess": step})
        shown = debug_server.wait_for_lines(lambda line: mark in line, 6, mark, since)

        def written() -> list[str] | None:
            lines = (debug_server.logs / name).read_text(encoding="utf-8").split("\n")[:-1]
            found = [line for line in lines if mark in line]
            return found if len(found) >= len(shown) else None

        assert wait_for(written, f"the lines in {name}") == shown
        events = [event["event"] for event in console_lines.events(shown)]
        assert events == [f"logged {mark}", f"native {mark}"] * 3


class Console:
    """A pipe's reader that can be told to stop reading."""

    def __init__(self) -> None:
        self.source, self.sink = os.pipe()
        self.read = bytearray()
        self.reading = threading.Event()
        self.reading.set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self.reading.wait()
            data = os.read(self.source, 65536)
            if not data:
                return
            self.read += data

    def lines(self) -> list[str]:
        return bytes(self.read).decode("utf-8").split("\n")[:-1]

    def close(self) -> None:
        self.reading.set()
        os.close(self.sink)
        self._thread.join(10)
        os.close(self.source)


@pytest.fixture(scope="module")
def console() -> Iterator[Console]:
    console = Console()
    yield console
    console.close()


@pytest.fixture(scope="module")
def unread_server(tmp_path_factory, console) -> Iterator[TorchServe]:
    environ = {
        "TS_OTEL_LOGGING": "1",
        "TS_OTEL_LOGGING_FRONTEND": "json-only",
        "TS_OTEL_LOGGING_REDACT": "/ACME-[0-9]+/",
        **NO_EXPORT,
    }
    folder = tmp_path_factory.mktemp("only")
    with running(folder, environ, PHASES, console=console.sink, properties="metrics_mode=log\n") as server:
        yield server


class TestJsonOnlyOnAConsoleThatNobodyReads:
    def test_there_are_no_log_files(self, unread_server):
        unread_server.predict("phases", {})
        assert LOG_FILES.intersection(path.name for path in unread_server.logs.iterdir()) == set()

    def test_metrics_are_printed_but_for_what_the_access_log_and_the_spans_tell(self, unread_server, console):
        for _ in range(3):
            unread_server.predict("phases", {})

        def metrics() -> list[str] | None:
            names = [event.get("metric_name") for event in console_lines.events(console.lines())]
            return names if names.count("ts_queue_latency_microseconds") >= 3 else None

        names = wait_for(metrics, "the metric of three requests")
        told = {"Requests2XX", "ts_inference_requests_total", "WorkerThreadTime", "HandlerTime", "PredictionTime"}
        assert not {*names} & told

    def test_what_the_settings_say_is_secret_is_masked_in_the_frontends_lines(self, unread_server, console):
        unread_server.client.get("/predictions/ACME-7")

        def found() -> list[Any]:
            paths = [event.get("url.path", "") for event in console_lines.events(console.lines())]
            return [path for path in paths if path in {"/predictions/ACME-7", "/predictions/[REDACTED]"}]

        assert wait_for(found, "the access log's line") == ["/predictions/[REDACTED]"]

    def test_requests_and_pings_are_answered_as_ever_and_what_is_missing_is_said_once(self, unread_server, console):
        before = len(console.lines())
        # Forty lines of 4 kB a request fill pipe and relay within a second.
        many = {"inference": {"log": [{"message": f"line {n:02} " + "x" * 4_000} for n in range(40)]}}
        last = {"inference": {"log": [{"level": "WARNING", "message": "the last warning"}]}}
        console.reading.clear()
        answers, requests = [], 0
        end = time.monotonic() + UNREAD_SECONDS
        while time.monotonic() < end or requests * 40 * 4_000 < ENOUGH_BYTES:
            is_enough = requests * 40 * 4_000 >= ENOUGH_BYTES
            started = time.monotonic()
            assert unread_server.predict("phases", {} if is_enough else many).is_success
            requests += not is_enough
            answers.append(time.monotonic() - started)
            started = time.monotonic()
            assert unread_server.client.get("/ping").is_success
            answers.append(time.monotonic() - started)
        assert unread_server.predict("phases", last).is_success
        assert statistics.median(answers) < MOST_ANSWER_SECONDS
        assert max(answers) < A_STALL_SECONDS

        console.reading.set()
        wait_for(lambda: any("console lines dropped" in line for line in console.lines()), "the report of the gap")
        events = console_lines.events(console.lines()[before:])
        [report] = [event for event in events if event["event"].startswith("console lines dropped")]
        gap = events.index(report)
        kept, later = (
            [event["event"][:7] for event in part if event["event"].startswith("line ")]
            for part in (events[:gap], events[gap:])
        )
        assert set(report["dropped"]) == {"info"}
        missing = requests * 40 - len(kept) - len(later)
        assert 0 < missing <= report["dropped"]["info"]
        assert [event["level"] for event in events if event["event"] == "the last warning"] == ["warning"]
        # In order: what is missing is missing where the report stands. Behind it is what was under way when the reader
        # came back.
        lines = [f"line {n % 40:02}" for n in range(requests * 40)]
        assert kept + later == lines[: len(kept)] + lines[len(kept) + missing :]

    def test_every_line_is_json(self, unread_server, console):
        for line in console.lines():
            console_lines.parse(line)
