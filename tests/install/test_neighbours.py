"""Other people's observability in the same process: nothing breaks, and nothing of ours comes twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from start_processes import environment

from otlp_receiver import OtlpReceiver

# A process with all of that imports torch, too.
pytestmark = pytest.mark.timeout(240)

PROGRAM = Path(__file__).parent / "neighbours.py"
TESTS = PROGRAM.parent.parent
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
LINE = "a line of the handler"

# What stands before Python, what behind the program, and more of the environment.
NEIGHBOURS: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    "opentelemetry-instrument": (["opentelemetry-instrument"], [], {}),
    "opentelemetry-instrument with its log handler": (
        ["opentelemetry-instrument"],
        [],
        {"OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true"},
    ),
    "ddtrace-run and sentry": (
        ["ddtrace-run"],
        ["sentry"],
        {
            # An agent of Datadog's is not there.
            "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        },
    ),
}
MODULES = {"ddtrace-run and sentry": ["ddtrace", "sentry_sdk"]}


class Outcome(NamedTuple):
    found: dict[str, Any]
    console: list[str]
    receiver: OtlpReceiver

    def spans(self) -> Counter[str]:
        """How often each span of the requests' trace came."""
        return Counter(item.span.name for item in self.receiver.spans if item.span.trace_id.hex() == TRACE_ID)


@pytest.fixture(scope="module", params=NEIGHBOURS)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    before, behind, more = NEIGHBOURS[request.param]
    folder = tmp_path_factory.mktemp("ts")
    worker = shutil.copy(PROGRAM, folder / "model_service_worker.py")
    result = folder / "result.json"
    command = [str(Path(sys.executable).parent / name) for name in before]
    with OtlpReceiver() as receiver:
        process = subprocess.run(
            [*command, sys.executable, str(worker), str(result), *behind],
            env=environment(
                PYTHONPATH=str(TESTS),
                TS_OTEL_LOGGING="1",
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
                **more,
            ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert process.returncode == 0, process.stderr
    return Outcome(json.loads(result.read_text(encoding="utf-8")), process.stdout.splitlines(), receiver)


def test_the_answers_are_the_same(outcome: Outcome) -> None:
    assert outcome.found["replies"] == [[200, "fine"], [503, "error"]]


def test_each_span_comes_once(outcome: Outcome) -> None:
    # Of two requests, the second of which fails in its inference.
    assert outcome.spans() == {"predict tiny": 2, "preprocess": 2, "inference": 2, "look up": 2, "postprocess": 1}


def test_the_applications_own_span_is_below_its_phase(outcome: Outcome) -> None:
    spans = [item.span for item in outcome.receiver.spans]
    phases = {span.span_id for span in spans if span.name == "inference"}
    assert {span.parent_span_id for span in spans if span.name == "look up"} == phases


def test_each_log_record_comes_once(outcome: Outcome) -> None:
    bodies = Counter(item.record.body.string_value for item in outcome.receiver.log_records)
    assert bodies[LINE] == 2
    assert bodies["Invoking custom service failed."] == 1


def test_each_line_comes_once_with_its_ids(outcome: Outcome) -> None:
    lines = [json.loads(line) for line in outcome.console if LINE in line]
    assert len(lines) == 2
    assert {line["trace_id"] for line in lines} == {TRACE_ID}


def test_each_measurement_comes_once(outcome: Outcome) -> None:
    last: dict[str, int] = {}
    for item in outcome.receiver.metrics:
        if item.metric.name == "torchserve.request.duration":
            for point in item.metric.histogram.data_points:
                last[str(point.attributes)] = point.count
    assert sum(last.values()) == 2


def test_the_root_logger_has_our_handler_once(outcome: Outcome) -> None:
    ours = [name for name in outcome.found["handlers"] if name.startswith("ts_otel_logging.")]
    assert len(ours) == 1


def test_the_neighbour_is_there_and_gets_what_is_its(outcome: Outcome, request: pytest.FixtureRequest) -> None:
    neighbour = request.node.callspec.params["outcome"]
    assert outcome.found["modules"] == MODULES.get(neighbour, [])
    assert outcome.found["sent to Sentry"] == ([LINE, LINE] if "sentry" in neighbour else [])
    stock = [name for name in outcome.found["handlers"] if name.startswith("opentelemetry.")]
    assert len(stock) == ("its log handler" in neighbour)
