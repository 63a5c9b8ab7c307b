"""`TS_OTEL_LOGGING_FORMAT=console` on a real TorchServe: its lines and the workers' are for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from torchserve_server import PHASES, TorchServe, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torchserve

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \[(?P<level>\w+) *\] (?P<event>.*?) +\[(?P<logger>[\w.]+)\](?: |$)"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    environ = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "LOGS", "METRICS")}
    environ |= {"TS_OTEL_LOGGING": "1", "TS_OTEL_LOGGING_FORMAT": "console"}
    with running(tmp_path_factory.mktemp("people"), environ, PHASES) as server:
        yield server


def test_the_workers_and_the_frontends_lines_stand_in_the_same_columns(server):
    steps = {"log": [{"message": "short", "extra": {"digit": 7}}], "print": "as it was printed \x1b[1m"}
    request_id = server.predict("phases", {"inference": steps}).headers["x-request-id"]
    own = server.wait_for_line(lambda line: "short" in line, "the handler's line")
    printed = server.wait_for_line(lambda line: "as it was printed" in line, "the handler's print")
    frontends = server.wait_for_line(lambda line: "Model phases loaded." in line, "the frontend's line")
    assert LINE.match(own)["logger"] == "acme.model"
    assert own.index("[acme.model]") == frontends.index("[org.pytorch.serve.wlm.ModelManager]")
    assert "digit=7 trace_id=" in own
    assert request_id in own
    assert LINE.match(printed)["logger"] == "stdout"
    assert "\x1b" not in server.console()
    assert not [line for line in server.console_lines() if line.startswith("{")]


def test_no_secret_of_a_request_is_shown(server):
    server.predict("phases?token=s3cret", {})
    line = server.wait_for_line(lambda line: "POST /predictions" in line and "s3cret" not in line, "the access log")
    assert LINE.match(line)["logger"] == "ACCESS_LOG"
    assert "s3cret" not in server.console()


def test_what_native_code_writes_is_masked_and_has_no_columns(server):
    server.predict("phases", {"inference": {"native": "native password=s3cret, n=1"}})
    line = server.wait_for_line(lambda line: "native password" in line, "the native line")
    assert line == "native password=[REDACTED], n=1"


def test_a_failure_is_a_stack_trace_below_its_line(server):
    since = server.console_size_bytes()
    server.predict("phases", {"inference": {"raise": ["ValueError", "broken\n[METRICS]forged"]}})
    # Its last line: those before it are there, too.
    server.wait_for_line(lambda line: "[METRICS]forged" in line, "the exception", since)
    # The frontend's line for the answer may come at any moment.
    lines = [line for line in server.console_lines(since) if "ACCESS_LOG" not in line]
    title = next(index for index, line in enumerate(lines) if "Traceback" in line)
    assert LINE.match(lines[title - 1])["event"] == "Invoking custom service failed."
    assert "    [METRICS]forged" in lines
    assert server.predict("phases", {}).status_code == 200
