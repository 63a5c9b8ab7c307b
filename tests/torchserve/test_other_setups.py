"""A TorchServe with `async_logging=true`, and a model with `useVenv`."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from console_lines import is_from_frontend, parse
from telemetry import Telemetry, new_caller
from torchserve_server import PHASES, PROMPT_EXPORT, Model, TorchServe, running

from otlp_receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torchserve

OWN_ENVIRONMENT = Model(
    "venv", "own_environment.py", config="useVenv: true\nminWorkers: 1\nmaxWorkers: 1\n", files=("phases.py",)
)
PHASE_NAMES = ("preprocess", "inference", "postprocess")
REQUESTS = 50


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: OtlpReceiver) -> Iterator[TorchServe]:
    environ = {"TS_OTEL_LOGGING": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, **PROMPT_EXPORT}
    folder = tmp_path_factory.mktemp("setups")
    with running(folder, environ, PHASES, OWN_ENVIRONMENT, properties="async_logging=true\n") as server:
        yield server


def test_with_async_logging_every_line_is_there_once_and_parses(server):
    since = server.console_size_bytes()

    def ask(number: int) -> None:
        steps = {"log": [{"message": f"line {number}"}], "print": f"print {number}"}
        assert server.predict("phases", {"inference": steps}).is_success

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(REQUESTS)))
    # The line of the model's registration may still be on its way.
    server.wait_for_lines(lambda line: '"url.path":"/predictions/phases"' in line, REQUESTS, "the access log", since)
    events = [parse(line) for line in server.console_lines(since)]
    texts = Counter(event["event"] for event in events if not is_from_frontend(event))
    expected = [f"{what} {number}" for what in ("line", "print") for number in range(REQUESTS)]
    assert {text: texts[text] for text in expected} == dict.fromkeys(expected, 1)
    access = [event for event in events if event["logger"] == "ACCESS_LOG" and "predictions" in event["event"]]
    assert [event["url.path"] for event in access] == ["/predictions/phases"] * REQUESTS
    assert (server.logs / "access_log.log").read_text().count("POST /predictions/phases") >= REQUESTS


def test_a_model_with_its_own_environment_that_calls_configure_is_traced(server, receiver):
    caller = new_caller()
    steps = {"log": [{"message": "in its own environment"}]}
    assert server.predict("venv", {"inference": steps}, caller.headers).is_success
    line = parse(server.wait_for_line(lambda line: '"event":"in its own environment"' in line, "the handler's line"))
    prefix = parse(server.wait_for_line(lambda line: '"event":"environment ' in line, "the worker's environment"))
    spans = Telemetry(receiver).wait_for_trace(caller.trace_id, "predict venv", *PHASE_NAMES)
    predict = spans["predict venv"]
    assert prefix["event"].endswith("/venv")
    assert line["trace_id"] == prefix["trace_id"] == caller.trace_id
    assert predict.parent_span_id == caller.span_id
    assert {spans[name].parent_span_id for name in PHASE_NAMES} == {predict.span_id}
    assert line["span_id"] == spans["inference"].span_id
