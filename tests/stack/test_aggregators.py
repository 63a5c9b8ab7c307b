"""What a real TorchServe printed, read by a real rsyslog and a real collector as they are shipped: each line once."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any, Callable

import console_lines
import pytest
from stack_servers import COLLECTOR, ConsoleCollector, running
from telemetry import new_caller
from torchserve_server import Model, TorchServe, wait_for

from debian_programs import environ, library, program
from syslog_servers import SyslogServer

pytestmark = pytest.mark.stack

DOCUMENT = COLLECTOR.parent / "docs" / "aggregators.md"
HOSTILE = Model("hostile", "hostile.py", batch_size=4, max_batch_delay_milliseconds=200)
REQUESTS = 12
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
EXTRA = {"digit": 7, "share": 0.5, "whole": 1.0, "yes": True, "nothing": None, "list": ["a", "b"], "map": {"deep": "x"}}
READ_SECONDS = 30
# Docker's json-file and the CRI runtimes split a longer one; its newline counts, too.
RUNTIME_LIMIT_BYTES = 16 * 1024
UID = "log.record.uid"
# Of other programs on the same stream, and of TorchServe with TS_OTEL_LOGGING_FRONTEND=off.
OTHER_LINES = [
    "2026-11-21T10:31:57,103 [INFO ] main org.pytorch.serve.ModelServer - Initialize Inference server with: Epoll",
    'Error: "no such file"',
    "{not json}",
    "[1, 2]",
    "   indented",
]
# docs/fields.md, and https://opentelemetry.io/docs/specs/otel/logs/data-model/#severity-fields
SEVERITY_NUMBERS = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}
SYSLOG_SEVERITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
NOTICE = 5
# What an OTLP record has not: the first is in the links of a batch's span.
ON_LINES_ALONE = ("torchserve.trace.ids", "http.request.header.x-request-id")
# Where the fields of a frontend's line are in its record: at its top, or under OpenTelemetry's names.
TOP_LEVEL = {"timestamp", "level", "logger", "event"}
OTLP_NAMES = {
    "model_name": "torchserve.model.name",
    "model_version": "torchserve.model.version",
    "worker_id": "torchserve.worker.id",
    "request_id": "torchserve.request.id",
    "thread": "thread.name",
}


def in_docker(line: str) -> str:
    """A line as Docker's json-file has it: https://docs.docker.com/engine/logging/drivers/json-file/."""
    frame = {"log": line + "\n", "stream": "stdout", "time": "2026-11-21T10:31:57.103514123Z"}
    return json.dumps(frame, separators=(",", ":"), ensure_ascii=False)


def in_cri(line: str) -> str:
    """A line as containerd has it: https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md."""
    return f"2026-11-21T10:31:57.103514123Z stdout F {line}"


def without_uid(line: str) -> str:
    """The line as it is with ``OTEL_LOGS_EXPORTER=none``."""
    return re.sub(rf',"{UID}":"[^"]+"', "", line)


def nanoseconds(timestamp: str) -> int:
    since = datetime.fromisoformat(timestamp.replace("Z", "+00:00")) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000


@pytest.fixture(scope="module")
def lines(servers: dict[str, TorchServe]) -> list[str]:
    """The console of a run with every kind of line."""
    server = servers["grpc"]
    with server.serving(HOSTILE):

        def ask(number: int) -> None:
            assert server.client.post("/predictions/hostile", content=json.dumps(number)).is_success

        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(ask, range(REQUESTS)))
        log = [{"level": level, "message": f"as {level}", "extra": EXTRA} for level in LEVELS]
        caller = new_caller().headers
        server.predict("phases", {"inference": {"log": log, "print": "a table\nof lines"}}, caller)
        failing = {"inference": {"raise": ["ValueError", "Größe → 大"]}}
        server.predict("phases", failing, {**caller, "x-request-id": "order 66"})
        server.predict("phases", {"inference": {"log": [{"message": "x" * 15_200}, {"message": "ä" * 40_000}]}}, caller)
        server.wait_for_lines(lambda line: '"event":"native ' in line, REQUESTS, "native lines")
        server.wait_for_lines(lambda line: '"event":"subprocess ' in line, REQUESTS, "lines of subprocesses")
        server.wait_for_line(lambda line: '"truncated":true' in line, "the last of the worker's lines")
        # Before the model is gone: what a worker says at its end may not get out by OTLP.
        printed = server.console_lines()
    # Other tests send secrets through this server; what the worker has masked the collector masks once more.
    return [line for line in printed if "[REDACTED]" not in line]


@pytest.fixture(scope="module")
def events(lines: list[str]) -> list[dict[str, Any]]:
    return [console_lines.parse(line) for line in lines]


def test_the_run_had_every_kind_of_line(events):
    assert {event["level"] for event in events} >= {"info", "warning", "error", "critical"}
    loggers = {event["logger"] for event in events}
    assert loggers >= {"ACCESS_LOG", "TS_METRICS", "MODEL_LOG", "acme.model", "stdout", "jvm.stdout"}
    assert any("metric_name" in event for event in events)
    assert any("exception" in event and "trace_id" in event for event in events)
    assert any("request_ids" in event for event in events)
    assert any(event.get("truncated") for event in events)
    assert {UID in event for event in events} == {True, False}


def test_no_line_is_longer_than_a_container_runtime_keeps_whole(lines):
    assert 15_000 < max(len(line.encode()) + 1 for line in lines) <= RUNTIME_LIMIT_BYTES


def test_what_has_an_uid_was_sent_by_otlp_and_the_other_way_round(events, collector):
    """So nothing is lost and nothing comes twice where lines with it are left out."""
    printed = [event[UID] for event in events if UID in event]
    assert len(printed) == len(set(printed))

    def sent() -> set[str]:
        return {record["attributes"][UID]["stringValue"] for record in collector.log_records()}

    wait_for(lambda: set(printed) <= sent(), "every uid of the console by OTLP", READ_SECONDS)


class Rsyslog:
    """A real rsyslog with the shipped configuration and a file to read.

    Args:
        folder: Where everything is.
        edit: What a user changes in the configuration.
    """

    def __init__(self, folder: Path, edit: Callable[[str], str] = str) -> None:
        self.console, self.events_file = folder / "console.log", folder / "events.jsonl"
        text = edit((COLLECTOR / "rsyslog" / "torchserve.conf").read_text(encoding="utf-8"))
        for place, ours in (
            ("/var/log/torchserve/console.log", self.console),
            ("/var/log/torchserve/events.jsonl", self.events_file),
        ):
            assert text.count(place) == 1
            text = text.replace(place, str(ours))
        self._folder = folder
        # As Debian's /etc/rsyslog.conf does.
        (folder / "rsyslog.conf").write_text(f'global(workDirectory="{folder}")\n{text}', encoding="utf-8")

    def read(self, lines: list[str]) -> list[dict[str, Any]]:
        """The events that it wrote of these lines."""
        # The last line of a file shows that it has read all of them.
        end = '{"timestamp":"2026-11-21T10:31:57.103514Z","level":"info","logger":"end","event":"the end"}'
        self.console.write_text("".join(f"{line}\n" for line in [*lines, end]), encoding="utf-8")

        def written() -> list[dict[str, Any]]:
            if not self.events_file.exists():
                return []
            text = self.events_file.read_text(encoding="utf-8")
            return [json.loads(line) for line in text.split("\n")[:-1]]

        def complete() -> list[dict[str, Any]] | None:
            events = written()
            return events if events and events[-1].get("logger") == "end" else None

        self.run_until(complete)
        return written()[:-1]

    def run_until(self, condition: Callable[[], Any]) -> Any:
        """Run it until something is so."""
        said = self._folder / "rsyslog.txt"
        command = [
            program("rsyslogd"), "-n", "-f", str(self._folder / "rsyslog.conf"), "-i", str(self._folder / "pid"),
            "-M", library("rsyslog"),
        ]  # fmt: skip
        with said.open("wb") as console:
            process = subprocess.Popen(command, env=environ(), stdout=console, stderr=console)
        try:
            found = wait_for(condition, "all lines, read by rsyslog", READ_SECONDS)
        finally:
            process.terminate()
            process.wait(READ_SECONDS)
        assert said.read_text(encoding="utf-8") == ""
        return found


class TestRsyslog:
    def test_every_line_is_one_event_with_all_that_it_had(self, lines, events, tmp_path):
        assert Rsyslog(tmp_path).read(lines) == events

    def test_in_dockers_frame_too(self, lines, events, tmp_path):
        assert Rsyslog(tmp_path).read([in_docker(line) for line in lines]) == events

    @pytest.mark.parametrize("frame", [str, in_docker])
    def test_another_line_is_an_event_with_its_text_and_the_time_of_reading(self, frame, tmp_path):
        before = datetime.now(timezone.utc)
        found = Rsyslog(tmp_path).read([frame(line) for line in OTHER_LINES])
        assert [event.pop("event") for event in found] == OTHER_LINES
        times = [datetime.fromisoformat(event.pop("timestamp")) for event in found]
        assert before <= min(times) <= max(times) <= datetime.now(timezone.utc)
        assert found == [{}] * len(OTHER_LINES)

    def test_what_was_sent_by_otlp_is_left_out_on_request(self, lines, events, tmp_path):
        def edit(text: str) -> str:
            assert text.count(f"#if $!{UID}") == 1
            return text.replace(f"#if $!{UID}", f"if $!{UID}")

        assert Rsyslog(tmp_path, edit).read(lines) == [event for event in events if UID not in event]

    def test_forwarded_as_the_document_says_time_severity_logger_and_ids_are_syslogs_own(self, lines, events):
        [action] = re.findall(r"```\n(action\(type=\"omfwd\".*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
        with tempfile.TemporaryDirectory(prefix="syslog-") as folder, tempfile.TemporaryDirectory() as reader:
            server = SyslogServer("rsyslog", Path(folder))

            def edit(text: str) -> str:
                forward = action.replace("syslog.example", "127.0.0.1").replace("514", str(server.ports["tcp"]))
                return re.sub(r"(?<=ruleset\(name=\"torchserve_out\"\) \{\n)", forward, text)

            server.start()
            try:
                rsyslog = Rsyslog(Path(reader), edit)
                rsyslog.console.write_text("".join(f"{line}\n" for line in [*lines, *OTHER_LINES]), encoding="utf-8")
                messages = rsyslog.run_until(lambda: server.messages(len(lines) + len(OTHER_LINES)))
            finally:
                server.stop()
        others = messages[len(lines) :]
        assert [json.loads(message["message"])["event"] for message in others] == OTHER_LINES
        assert {(message["pri"] & 7, message["trace_id"]) for message in others} == {(NOTICE, "")}
        assert len(messages) == len(lines) + len(others)
        for message, event in zip(messages, events):
            assert json.loads(message["message"]) == event
            assert message["pri"] & 7 == SYSLOG_SEVERITIES[event["level"]]
            assert nanoseconds(message["time"]) == nanoseconds(event["timestamp"])
            assert message["msgid"] == event["logger"][:32]
            for field in ("trace_id", "span_id", "trace_flags"):
                assert message[field] == event.get(field, "")


@pytest.fixture(scope="module")
def records(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What the shipped configuration makes of the lines in each frame, by the name of the file."""
    files = {
        # Another beginning: by their first thousand bytes the receiver knows a file that was renamed.
        "sent.log": OTHER_LINES + lines,
        "plain.log": [without_uid(line) for line in lines] + OTHER_LINES,
        "docker.log": [in_docker(without_uid(line)) for line in [*lines, *OTHER_LINES]],
        "cri.log": [in_cri(without_uid(line)) for line in [*lines, *OTHER_LINES]],
    }
    folder = tmp_path_factory.mktemp("console")
    for name, content in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in content), encoding="utf-8")
    expected = sum(map(len, files.values())) - sum(UID in line for line in lines)
    collector = ConsoleCollector(folder / "collector", "127.0.0.1:9", CONSOLE_FILES=str(folder / "*.log"))
    with running(collector):
        wait_for(lambda: len(collector.log_records()) >= expected, f"{expected} records", READ_SECONDS)
    # After its orderly end, so that a line read twice would be there.
    found = sorted(collector.log_records(), key=lambda record: (path_of(record), number_of(record)))
    assert "\terror\t" not in collector.console()
    return {Path(path).name: list(group) for path, group in groupby(found, key=path_of)}


def path_of(record: dict[str, Any]) -> str:
    return str(record["attributes"]["log.file.path"]["stringValue"])


def number_of(record: dict[str, Any]) -> int:
    return int(record["attributes"]["log.file.record_number"]["intValue"])


def value_of(value: dict[str, Any]) -> Any:
    """An OTLP JSON AnyValue in plain Python."""
    [(kind, inner)] = value.items() or [("nothing", None)]
    if kind == "arrayValue":
        return [value_of(item) for item in inner.get("values", ())]
    if kind == "kvlistValue":
        return {pair["key"]: value_of(pair["value"]) for pair in inner.get("values", ())}
    return int(inner) if kind == "intValue" else inner


def told(record: dict[str, Any]) -> dict[str, Any]:
    """A log record without what depends on the way it came: when it was read, from where, and the level's spelling."""
    attributes = {key: value_of(value) for key, value in record["attributes"].items()}
    for key in ("log.file.path", "log.file.record_number", "log.iostream", UID):
        attributes.pop(key, None)
    return {
        "time": int(record.get("timeUnixNano", 0)),
        "severity": record.get("severityNumber", 0),
        "body": value_of(record["body"]),
        "ids": (record.get("traceId", ""), record.get("spanId", ""), record.get("flags", 0)),
        "scope": record["scope"],
        "attributes": attributes,
    }


@pytest.mark.parametrize("file", ["plain.log", "docker.log", "cri.log"])
class TestCollector:
    def test_every_line_is_one_record_in_order_with_time_severity_logger_and_ids(self, file, records, events):
        found = [told(record) for record in records[file]][: len(events)]
        assert len(records[file]) == len(events) + len(OTHER_LINES)
        for record, event in zip(found, events):
            assert record["body"] == event["event"]
            assert record["time"] == nanoseconds(event["timestamp"])
            assert record["severity"] == SEVERITY_NUMBERS[event["level"]]
            assert record["scope"] == event["logger"]
            ids = (event.get("trace_id", ""), event.get("span_id", ""), int(event.get("trace_flags", "0"), 16))
            assert record["ids"] == ids
            assert not {"timestamp", "level", "logger", "event", "trace_id", "exception"} & set(record["attributes"])

    def test_a_workers_line_is_what_its_record_by_otlp_is(self, file, records, events, collector):
        sent = {record["attributes"][UID]["stringValue"]: told(record) for record in collector.log_records()}
        compared = 0
        for record, event in zip(records[file], events):
            # A line is cut to less than a record is.
            if UID in event and not event.get("truncated"):
                of_line = told(record)
                for name in ON_LINES_ALONE:
                    of_line["attributes"].pop(name, None)
                assert of_line == sent[event[UID]]
                compared += 1
        assert compared > REQUESTS

    def test_a_frontends_line_has_all_its_fields_as_attributes(self, file, records, events):
        for record, event in zip(records[file], events):
            if console_lines.is_from_frontend(event) and UID not in event:
                fields = {OTLP_NAMES.get(key, key): value for key, value in event.items() if key not in TOP_LEVEL}
                assert told(record)["attributes"] == fields

    def test_another_line_is_a_text_without_severity(self, file, records):
        others = [told(record) for record in records[file][-len(OTHER_LINES) :]]
        assert [other["body"] for other in others] == OTHER_LINES
        for other in others:
            assert (other["severity"], other["ids"], other["attributes"]) == (0, ("", "", 0), {})
            # The runtime says when; in a plain file nobody does.
            assert (other["time"] > 0) == (file != "plain.log")


def test_what_was_sent_by_otlp_is_left_out(records, events):
    found = [told(record)["body"] for record in records["sent.log"]]
    assert found == [*OTHER_LINES, *(event["event"] for event in events if UID not in event)]


def test_the_records_belong_to_the_service(records):
    services = [record["resource"]["service.name"] for group in records.values() for record in group]
    assert services == [{"stringValue": "torchserve"}] * len(services)
