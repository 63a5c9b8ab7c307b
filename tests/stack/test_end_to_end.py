"""From an instrumented client through TorchServe and a real collector to a real Jaeger, asserted at the far end."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from stack_servers import PROTOCOLS, Collector, Jaeger, JaegerSpan
from telemetry import new_caller
from torchserve_server import wait_for
from traced_client import SERVICE_NAME, Exchange, TracedClient

if TYPE_CHECKING:
    from torchserve_server import TorchServe

pytestmark = pytest.mark.stack

PHASES = ("preprocess", "inference", "postprocess")
BLANK = [[0] * 8] * 8
WRONG_SIZE = [[8] * 10] * 8
CLOCK_SLACK_US = 2000


@dataclass(frozen=True)
class Told:
    """A request and the trace that Jaeger has of it."""

    exchange: Exchange
    spans: dict[str, JaegerSpan]


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    """How TorchServe exports; the client and Jaeger are the same."""
    return str(request.param)


@pytest.fixture(scope="session")
def exchanges(servers: dict[str, TorchServe], collector: Collector) -> dict[str, dict[str, Exchange]]:
    """By protocol: a request that succeeds, one that the handler refuses, one that makes it fail."""
    bodies = {"success": {"pixels": BLANK}, "refused": {"picture": "seven"}, "failure": {"pixels": WRONG_SIZE}}
    with closing(TracedClient(collector.http_endpoint)) as client:
        return {
            protocol: {
                kind: client.post(f"{server.inference_url}/predictions/digits", body) for kind, body in bodies.items()
            }
            for protocol, server in servers.items()
        }


@pytest.fixture
def success(exchanges, jaeger: Jaeger, protocol: str) -> Told:
    exchange = exchanges[protocol]["success"]
    assert exchange.response.status_code == 200
    names = ("POST", "predict digits", *PHASES, "inference_latency")
    return Told(exchange, jaeger.wait_for_trace(exchange.trace_id, *names))


@pytest.fixture
def failure(exchanges, jaeger: Jaeger, protocol: str) -> Told:
    exchange = exchanges[protocol]["failure"]
    assert exchange.response.status_code == 503
    return Told(exchange, jaeger.wait_for_trace(exchange.trace_id, "POST", "predict digits", "inference"))


class TestTrace:
    def test_it_holds_the_client_the_request_and_its_phases_once_each(self, success):
        assert sorted(success.spans) == sorted(["POST", "predict digits", *PHASES, "inference_latency"])

    def test_the_parents_are_right(self, success):
        parents = {span.span_id: span.name for span in success.spans.values()}
        assert {name: parents.get(span.parent_span_id) for name, span in success.spans.items()} == {
            "POST": None,
            "predict digits": "POST",
            **dict.fromkeys(PHASES, "predict digits"),
            "inference_latency": "inference",
        }
        assert success.spans["POST"].span_id == success.exchange.span_id
        assert success.spans["POST"].parent_span_id == ""

    def test_the_services_are_the_clients_and_torchserves(self, success):
        assert success.spans.pop("POST").service == SERVICE_NAME
        assert {span.service for span in success.spans.values()} == {"torchserve"}

    def test_the_times_lie_within_one_another_and_within_the_clients_own(self, success):
        client, predict = success.spans["POST"], success.spans["predict digits"]
        assert success.exchange.sent_us - CLOCK_SLACK_US <= client.start_us
        assert client.start_us <= predict.start_us
        assert predict.end_us <= client.end_us + CLOCK_SLACK_US
        assert client.end_us <= success.exchange.answered_us + CLOCK_SLACK_US
        moments = [predict.start_us]
        for name in PHASES:
            moments += [success.spans[name].start_us, success.spans[name].end_us]
        assert moments == sorted(moments)
        # Jaeger has whole microseconds, start and duration cut each.
        assert moments[-1] <= predict.end_us + 1

    def test_the_request_says_what_it_was(self, success):
        tags = success.spans["predict digits"].tags
        wanted = {
            "span.kind": "server",
            "torchserve.model.name": "digits",
            "torchserve.response.status_code": 200,
            "torchserve.request.id": success.exchange.response.headers["x-request-id"],
        }
        assert wanted.items() <= tags.items()
        assert success.spans["POST"].tags["span.kind"] == "client"

    def test_a_success_has_no_error_anywhere(self, success):
        for span in success.spans.values():
            assert {"error", "error.type", "otel.status_code"} & set(span.tags) == set()

    def test_a_failure_is_an_error_with_its_type_and_its_exception(self, failure):
        predict = failure.spans["predict digits"]
        assert predict.tags["error"] is True
        assert predict.tags["otel.status_code"] == "ERROR"
        assert predict.tags["torchserve.response.status_code"] == 503
        # What torch raises when an image does not fit the network.
        assert predict.tags["error.type"] == "RuntimeError"
        [exception] = [log for span in failure.spans.values() for log in span.logs if log["event"] == "exception"]
        assert exception["exception.type"] == "RuntimeError"
        assert "Traceback" in exception["exception.stacktrace"]

    def test_what_the_handler_refuses_is_no_error_of_the_server(self, exchanges, jaeger, protocol):
        exchange = exchanges[protocol]["refused"]
        assert exchange.response.status_code == 400
        spans = jaeger.wait_for_trace(exchange.trace_id, "POST", "predict digits")
        assert "error" not in spans["predict digits"].tags
        assert spans["predict digits"].tags["torchserve.response.status_code"] == 400
        # To the client it is one: https://opentelemetry.io/docs/specs/semconv/http/http-spans/#status
        assert spans["POST"].tags["error"] is True


class TestLogs:
    def test_the_handlers_lines_are_in_the_file_under_the_same_spans(self, success, collector):
        records = collector.wait_for_log_records(success.exchange.trace_id, 3)
        spans = {span.span_id: name for name, span in success.spans.items()}
        assert {record["body"]["stringValue"]: spans[record["spanId"]] for record in records} == {
            "Blank image": "preprocess",
            "Inference complete": "inference",
            "Low confidence": "postprocess",
        }

    def test_a_failures_traceback_is_in_the_file(self, failure, collector):
        records = collector.wait_for_log_records(failure.exchange.trace_id)
        [record] = [record for record in records if "exception.type" in record["attributes"]]
        assert "Traceback" in record["attributes"]["exception.stacktrace"]["stringValue"]
        assert record["spanId"] in {span.span_id for span in failure.spans.values()}


class TestMetrics:
    def test_the_page_has_the_requests_duration_with_an_exemplar_of_a_trace(self, servers, collector, protocol):
        caller = new_caller()
        assert servers[protocol].predict("phases", {}, caller.headers).is_success

        def found() -> str | None:
            lines = collector.metrics_page().splitlines()
            return next((line for line in lines if f'trace_id="{caller.trace_id}"' in line and "request" in line), None)

        line = wait_for(found, "the exemplar")
        assert re.match(r"torchserve_request_duration_seconds_bucket\{.*le=.*\} \S+ # \{.*\} \S+", line)
        assert 'torchserve_model_name="phases"' in line


class TestRedaction:
    def test_what_looks_like_a_secret_is_masked_and_the_rest_is_not(self, servers, collector, protocol):
        caller = new_caller()
        extra = {"db_password": "hunter2", "Authorization": "abc", "input_tokens": 512, "finish_reason": "max_token"}
        message = "calling https://me:hunter2@example.org with Bearer abcdefgh12345678"
        log = [{"message": message, "extra": extra}]
        assert servers[protocol].predict("phases", {"inference": {"log": log}}, caller.headers).is_success
        [record] = collector.wait_for_log_records(caller.trace_id)
        assert "hunter2" not in json.dumps(record)
        # The token by the worker; of the address, which it has masked as well, the collector takes the name, too.
        assert record["body"]["stringValue"] == "calling https****example.org with Bearer [REDACTED]"
        values: dict[str, Any] = {name: record["attributes"][name] for name in extra}
        assert values == {
            "db_password": {"stringValue": "****"},
            "Authorization": {"stringValue": "****"},
            "input_tokens": {"intValue": "512"},
            "finish_reason": {"stringValue": "max_token"},
        }


def test_neither_server_has_anything_to_complain_about(exchanges, collector, jaeger):
    for server in (collector, jaeger):
        complaints = [line for line in server.console().splitlines() if "\twarn\t" in line or "\terror\t" in line]
        # Built from its module, Jaeger has no pages.
        assert [line for line in complaints if "ui assets not embedded" not in line] == []
        assert "deprecated" not in server.console()
