"""One more TorchServe: OTLP over gRPC, OTLP JSON files beside it, headers of requests and of answers."""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from telemetry import Telemetry, new_caller
from torchserve_server import DEAD_PROXY, PHASES, PROMPT_EXPORT, TorchServe, running, wait_for

from otlp_receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torchserve

PHASE_NAMES = ("preprocess", "inference", "postprocess")
SLEEP_SECONDS = 0.02
MESSAGE = "over gRPC and into a file"


@pytest.fixture(scope="module")
def grpc_receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def telemetry(grpc_receiver: OtlpReceiver) -> Telemetry:
    return Telemetry(grpc_receiver)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, grpc_receiver: OtlpReceiver) -> Iterator[TorchServe]:
    environ = {
        "TS_OTEL_LOGGING": "on",
        "TS_OTEL_LOGGING_RESPONSE_HEADERS": "server-timing,traceresponse,traceparent",
        "TS_OTEL_LOGGING_HEADERS": "x-tenant,authorization",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_ENDPOINT": grpc_receiver.grpc_endpoint,
        "OTEL_TRACES_EXPORTER": "otlp,otlp_json_file",
        "OTEL_LOGS_EXPORTER": "otlp,otlp_json_file",
        "OTEL_METRICS_EXPORTER": "otlp,otlp_json_file",
        "OTEL_SERVICE_NAME": "digits-service",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.instance.id=the-users-own",
        **PROMPT_EXPORT,
        **DEAD_PROXY,
    }
    with running(tmp_path_factory.mktemp("other"), environ, PHASES) as server:
        yield server


@pytest.fixture(scope="module")
def exchange(server: TorchServe) -> Any:
    """A caller and the answer to one request of it."""
    caller = new_caller()
    instructions = {
        "inference": {"sleep_seconds": SLEEP_SECONDS, "log": [{"message": MESSAGE, "extra": {"digit": 7}}]},
        "response_headers": {"server-timing": "db;dur=3", "x-model": "tiny"},
    }
    return caller, server.predict(
        "phases", instructions, {**caller.headers, "X-Tenant": "acme", "Authorization": "Digest hunter2"}
    )


class TestGrpc:
    def test_the_trace_arrives(self, exchange, telemetry):
        caller, _ = exchange
        spans = telemetry.wait_for_trace(caller.trace_id, "predict phases", *PHASE_NAMES)
        assert sorted(spans) == sorted(["predict phases", *PHASE_NAMES])
        assert spans["predict phases"].parent_span_id == caller.span_id

    def test_the_log_record_arrives(self, exchange, telemetry):
        record = telemetry.wait_for_log_record(exchange[0].trace_id, MESSAGE)
        assert record.attributes["digit"] == 7

    @pytest.mark.parametrize("name", ["torchserve.request.duration", "torchserve.phase.duration"])
    def test_the_histograms_arrive(self, exchange, telemetry, name):
        assert telemetry.wait_for_exemplar(name, exchange[0].trace_id).unit == "s"

    def test_the_resource_is_what_the_environment_says(self, exchange, telemetry):
        resource = telemetry.wait_for_trace(exchange[0].trace_id, "predict phases")["predict phases"].resource
        assert resource["service.name"] == "digits-service"
        assert resource["deployment.environment.name"] == "test"
        assert resource["service.instance.id"] == "the-users-own"

    def test_the_request_headers_that_were_asked_for_are_on_span_and_record(self, exchange, telemetry):
        span = telemetry.wait_for_trace(exchange[0].trace_id, "predict phases")["predict phases"]
        record = telemetry.wait_for_log_record(exchange[0].trace_id, MESSAGE)
        for attributes in (span.attributes, record.attributes):
            headers = {name: value for name, value in attributes.items() if name.startswith("http.")}
            assert headers == {
                "http.request.header.x-tenant": ["acme"],
                "http.request.header.authorization": ["[REDACTED]"],
            }


class TestJsonFiles:
    @staticmethod
    def lines(server: TorchServe, signal: str) -> list[dict[str, Any]]:
        """The parsed lines of a signal's one file in the default folder."""
        files = list((server.logs / "otlp").glob(f"{signal}-*.jsonl"))
        assert len(files) <= 1
        text = files[0].read_text(encoding="utf-8") if files else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def test_the_trace_is_in_the_file_as_otlp_json(self, exchange, server):
        caller, _ = exchange

        def found() -> dict[str, Any]:
            return {
                span["name"]: span
                for line in self.lines(server, "traces")
                for resource in line["resourceSpans"]
                for scope in resource["scopeSpans"]
                for span in scope["spans"]
                if span["traceId"] == caller.trace_id
            }

        wait_for(lambda: {"predict phases", *PHASE_NAMES} <= set(found()), "the trace in the file")
        predict = found()["predict phases"]
        assert predict["parentSpanId"] == caller.span_id
        assert int(predict["endTimeUnixNano"]) - int(predict["startTimeUnixNano"]) >= SLEEP_SECONDS * 1e9
        assert isinstance(predict["startTimeUnixNano"], str)
        assert predict["kind"] == 2

    def test_the_log_record_is_in_the_file(self, exchange, server):
        def found() -> list[Any]:
            return [
                record
                for line in self.lines(server, "logs")
                for resource in line["resourceLogs"]
                for scope in resource["scopeLogs"]
                for record in scope["logRecords"]
                if record.get("traceId") == exchange[0].trace_id
            ]

        [record] = wait_for(found, "the record in the file")
        assert record["body"] == {"stringValue": MESSAGE}

    def test_the_histograms_are_in_the_file(self, exchange, server):
        def names() -> set[str]:
            return {
                metric["name"]
                for line in self.lines(server, "metrics")
                for resource in line["resourceMetrics"]
                for scope in resource["scopeMetrics"]
                for metric in scope["metrics"]
            }

        wait_for(lambda: {"torchserve.request.duration", "torchserve.phase.duration"} <= names(), "the histograms")

    def test_the_files_name_host_and_worker(self, exchange, server):
        wait_for(lambda: self.lines(server, "traces"), "a line of the traces' file")
        [file] = (server.logs / "otlp").glob("traces-*.jsonl")
        assert file.name.endswith(f"-{server.worker_pid('phases')}.jsonl")


class TestResponseHeaders:
    def test_traceresponse_and_traceparent_name_the_requests_span(self, exchange, telemetry):
        caller, response = exchange
        predict = telemetry.wait_for_trace(caller.trace_id, "predict phases")["predict phases"]
        value = f"00-{caller.trace_id}-{predict.span_id}-01"
        assert (response.headers["traceresponse"], response.headers["traceparent"]) == (value, value)

    def test_server_timing_has_the_trace_and_the_phases_in_milliseconds(self, exchange):
        caller, response = exchange
        value = response.headers["server-timing"]
        assert re.search(rf'\btrace;desc="?[^",]*{caller.trace_id}', value)
        milliseconds = {name: float(number) for name, number in re.findall(r"(\w+);dur=([0-9.]+)", value)}
        assert {*PHASE_NAMES} <= set(milliseconds)
        assert SLEEP_SECONDS * 1000 <= milliseconds["inference"] < response.elapsed.total_seconds() * 1000

    def test_the_handlers_own_headers_are_kept(self, exchange):
        _, response = exchange
        assert "db;dur=3" in response.headers["server-timing"]
        assert response.headers["x-model"] == "tiny"
        assert uuid.UUID(response.headers["x-request-id"])

    def test_a_request_without_context_learns_its_trace(self, server, telemetry):
        response = server.predict("phases", {})
        _, trace_id, span_id, _ = response.headers["traceresponse"].split("-")
        assert telemetry.wait_for_trace(trace_id, "predict phases")["predict phases"].span_id == span_id

    def test_a_failure_has_none(self, server):
        response = server.predict("phases", {"inference": {"raise": ["ValueError", "broken on purpose"]}})
        assert response.status_code == 503
        assert not {"server-timing", "traceresponse", "traceparent"} & set(response.headers)

    def test_the_answer_itself_is_untouched(self, server):
        assert server.predict("phases", {"answer": "seven"}).text == "seven"
