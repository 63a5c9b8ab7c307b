"""Wrong settings and a collector that is not there: TorchServe starts and answers, and each trouble is told once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import console_lines
import psutil
import pytest
from telemetry import new_caller
from torchserve_server import PHASES, PROMPT_EXPORT, TorchServe, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torchserve

# What is wrong, and words of what would be accepted.
WRONG: dict[str, tuple[str, tuple[str, ...]]] = {
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("not a url", ("http",)),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("carrier-pigeon", ("http/protobuf", "grpc")),
    "OTEL_EXPORTER_OTLP_CERTIFICATE": ("/nowhere/certificate.pem", ("file",)),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("10000", ("seconds", "600")),
    "OTEL_TRACES_SAMPLER": ("coin_toss", ("parentbased_always_on", "traceidratio", "always_off")),
    "TS_OTEL_LOGGING_FORMAT": ("crossword", ("structlog",)),
    "TS_OTEL_LOGGING_PROCESSORS": ("nowhere.to_be_found:processors", (":",)),
    "TS_OTEL_LOGGING_QUEUE_BYTES": ("a lot", ()),
}
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
WARM_UP_REQUESTS = 300
MEASURED_REQUESTS = 700
TEXT_BYTES = 20_000
MOST_GROWTH_BYTES = 3_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """Almost every setting wrong, and nobody listening where the rest points."""
    environ = {
        "TS_OTEL_LOGGING": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        # Small queues, so that a test's few requests fill them.
        "OTEL_BSP_MAX_QUEUE_SIZE": "512",
        "OTEL_BLRP_MAX_QUEUE_SIZE": "512",
        HEADERS: "x-team=red,api-key: hunter2",
        **PROMPT_EXPORT,
        **{name: value for name, (value, _) in WRONG.items()},
    }
    with running(tmp_path_factory.mktemp("wrong"), environ, PHASES) as server:
        yield server


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_named_once_with_its_value_and_what_is_accepted(server, name):
    value, accepted = WRONG[name]
    server.predict("phases", {})
    named = [line for line in server.console_lines() if re.search(rf"\b{name}\b", line)]
    assert len(named) == 1, f"{name} is named in {len(named)} lines"
    assert len(re.findall(rf"\b{name}\b", named[0])) == 1
    for words in (value, *accepted):
        assert words in named[0]


def test_an_exporters_header_is_told_once_without_its_text(server):
    server.predict("phases", {})
    lines = server.console_lines()
    (named,) = [line for line in lines if HEADERS in line]
    assert "name=value,name=value" in named
    assert [line for line in lines if "hunter2" in line] == []


def test_what_is_right_is_not_reported(server):
    assert [line for line in server.console_lines() if "MAX_QUEUE_SIZE" in line] == []


def test_requests_are_answered_and_logged(server):
    caller = new_caller()
    log = [{"message": "logged all the same"}]
    response = server.predict("phases", {"answer": {"digit": 7}, "inference": {"log": log}}, caller.headers)
    assert response.json() == {"digit": 7}
    line = server.wait_for_line(lambda line: "logged all the same" in line, "the handler's line")
    assert console_lines.parse(line)["trace_id"] == caller.trace_id


def test_an_absent_collector_is_told_once_a_signal_and_costs_no_memory(server):
    # Long enough that the warm-up fills the queue to its bytes, and that a queue without a bound would grow by far more
    # than an allocator's own ups and downs: by MEASURED_REQUESTS times this.
    log = {"inference": {"log": [{"message": "fills the queue", "extra": {"text": "x" * TEXT_BYTES}}]}}
    worker = psutil.Process(server.worker_pid("phases"))
    for _ in range(WARM_UP_REQUESTS):
        assert server.predict("phases", log).is_success
    before_bytes = worker.memory_info().rss
    for _ in range(MEASURED_REQUESTS):
        assert server.predict("phases", log).is_success
    grown_bytes = worker.memory_info().rss - before_bytes
    assert grown_bytes < MOST_GROWTH_BYTES

    server.wait_for_line(lambda line: "export failed" in line, "a report of the absent collector")
    reports = [event for event in console_lines.events(server.console_lines()) if "export failed" in event["event"]]
    signals = [report["signal"] for report in reports]
    assert len(signals) == len(set(signals)), signals
    assert {report["level"] for report in reports} == {"warning"}
    # Whoever drops lines that come by OTLP as well must not drop these.
    assert not [report for report in reports if "log.record.uid" in report]
    assert {report["trace_id"] for report in reports if "trace_id" in report} == set()


def test_the_exporters_own_loggers_do_not_flood_the_console(server):
    server.predict("phases", {})
    loggers = {event["logger"] for event in console_lines.events(server.console_lines())}
    assert {name for name in loggers if name.startswith(("opentelemetry", "urllib3", "requests"))} == set()
