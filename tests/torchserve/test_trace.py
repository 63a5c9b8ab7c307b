"""The main job: a request with a ``traceparent`` becomes one trace, its lines, its log records and its histograms."""

from __future__ import annotations

import calendar
import importlib.metadata
import json
import re
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import console_lines
import pytest
from telemetry import Caller, LogRecord, Span, Telemetry, new_caller
from torchserve_server import DIGITS, TorchServe

if TYPE_CHECKING:
    import httpx

pytestmark = pytest.mark.torchserve

PHASE_NAMES = ("preprocess", "inference", "postprocess")
SLEEP_SECONDS = {"preprocess": 0.02, "inference": 0.05, "postprocess": 0.01}
CLIENT_REQUEST_ID = "the-callers-own-id"
MESSAGE = "Inference complete for 7"
EXTRA = {"digit": 7, "confidence": 0.98, "note": "naïve \N{SNOWMAN} \u2028 line", "inference_latency": 0.012}
CLOCK_SLACK_SECONDS = 0.002


@dataclass(frozen=True)
class Exchange:
    """A request, its answer and all that came of it."""

    caller: Caller
    response: httpx.Response
    sent_ns: int
    answered_ns: int
    spans: dict[str, Span]
    log_record: LogRecord
    line: dict[str, Any]


def sleeping(**phases: Any) -> dict[str, Any]:
    """Instructions: every phase sleeps, and does what else it is told."""
    return {name: {"sleep_seconds": SLEEP_SECONDS[name], **phases.get(name, {})} for name in PHASE_NAMES}


@pytest.fixture(scope="module")
def exchange(server: TorchServe, telemetry: Telemetry) -> Exchange:
    """One request to the BaseHandler model that logs once, in its inference."""
    caller = new_caller()
    instructions = sleeping(inference={"log": [{"level": "WARNING", "message": MESSAGE, "extra": EXTRA}]})
    since = server.console_size_bytes()
    sent_ns = time.time_ns()
    response = server.predict("phases", instructions, {**caller.headers, "X-Request-ID": CLIENT_REQUEST_ID})
    answered_ns = time.time_ns()
    line = server.wait_for_line(lambda line: MESSAGE in line, MESSAGE, since)
    return Exchange(
        caller=caller,
        response=response,
        sent_ns=sent_ns,
        answered_ns=answered_ns,
        spans=telemetry.wait_for_trace(caller.trace_id, "predict phases", *PHASE_NAMES, "inference_latency"),
        log_record=telemetry.wait_for_log_record(caller.trace_id, MESSAGE),
        line=console_lines.parse(line),
    )


@pytest.fixture(scope="module")
def results(server: TorchServe) -> list[dict[str, Any]]:
    """What the example's client saw: digits, a malformed body, an image that makes the handler fail."""
    command = [sys.executable, str(DIGITS / "client.py"), "--count", "4", "--json"]
    client = subprocess.run(
        [*command, "--url", f"{server.inference_url}/predictions/digits"],
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    results: list[dict[str, Any]] = json.loads(client.stdout)["results"]
    return results


class TestSpans:
    def test_the_trace_has_the_request_its_phases_and_the_reported_latency_once_each(self, exchange):
        assert sorted(exchange.spans) == sorted(["predict phases", *PHASE_NAMES, "inference_latency"])

    def test_the_request_is_a_server_span_under_the_callers(self, exchange):
        predict = exchange.spans["predict phases"]
        assert (predict.kind, predict.parent_span_id) == ("SERVER", exchange.caller.span_id)

    def test_the_phases_are_internal_children_of_the_request(self, exchange):
        predict = exchange.spans["predict phases"]
        for name in PHASE_NAMES:
            assert (exchange.spans[name].kind, exchange.spans[name].parent_span_id) == ("INTERNAL", predict.span_id)

    def test_the_phases_follow_one_another_inside_the_request(self, exchange):
        predict = exchange.spans["predict phases"]
        moments = [predict.start_ns]
        for name in PHASE_NAMES:
            moments += [exchange.spans[name].start_ns, exchange.spans[name].end_ns]
        moments.append(predict.end_ns)
        assert moments == sorted(moments)

    def test_durations_agree_with_the_handler_and_with_the_clients_clock(self, exchange):
        for name in PHASE_NAMES:
            assert exchange.spans[name].duration_seconds >= SLEEP_SECONDS[name] - CLOCK_SLACK_SECONDS
        predict = exchange.spans["predict phases"]
        assert predict.duration_seconds >= sum(SLEEP_SECONDS.values())
        assert predict.start_ns >= exchange.sent_ns - CLOCK_SLACK_SECONDS * 1e9
        assert predict.end_ns <= exchange.answered_ns + CLOCK_SLACK_SECONDS * 1e9

    def test_the_request_span_says_which_model_request_and_worker(self, exchange):
        attributes = dict(exchange.spans["predict phases"].attributes)
        assert attributes.pop("torchserve.worker.id") is not None
        assert {key: value for key, value in attributes.items() if key.startswith(("torchserve.", "error."))} == {
            "torchserve.model.name": "phases",
            "torchserve.model.version": "1.0",
            "torchserve.request.id": exchange.response.headers["x-request-id"],
            "torchserve.batch.size": 1,
            "torchserve.device": "cpu",
            "torchserve.response.status_code": 200,
        }

    def test_a_success_leaves_the_status_unset_and_records_no_event(self, exchange):
        assert {span.status for span in exchange.spans.values()} == {"UNSET"}
        assert [span.events for span in exchange.spans.values() if span.events] == []

    def test_the_resource_says_which_service_instance_and_process(self, exchange, server):
        resource = exchange.spans["predict phases"].resource
        assert resource["service.name"] == "torchserve"
        assert uuid.UUID(resource["service.instance.id"]).version == 5
        assert resource["process.pid"] == server.worker_pid("phases")
        assert resource["torchserve.version"] == "0.12.0"
        assert resource["telemetry.sdk.language"] == "python"

    def test_the_scope_is_ours_with_version_and_schema(self, exchange):
        name, version, schema_url = exchange.spans["predict phases"].scope
        assert (name, version) == ("ts_otel_logging", importlib.metadata.version("ts-otel-logging"))
        assert re.fullmatch(r"https://opentelemetry\.io/schemas/\d+\.\d+\.\d+", schema_url)

    @pytest.mark.parametrize("casing", ["TRACEPARENT", "TraceParent"])
    def test_the_headers_casing_does_not_matter(self, server, telemetry, casing):
        caller = new_caller()
        server.predict("phases", {}, {casing: caller.headers["traceparent"]})
        assert telemetry.wait_for_trace(caller.trace_id, "predict phases")

    @pytest.mark.parametrize("model", ["own", "function"])
    def test_a_handler_without_phases_gives_one_handle_span(self, server, telemetry, model):
        caller = new_caller()
        assert server.predict(model, {}, caller.headers).is_success
        spans = telemetry.wait_for_trace(caller.trace_id, f"predict {model}", "handle")
        assert sorted(spans) == ["handle", f"predict {model}"]
        assert spans[f"predict {model}"].parent_span_id == caller.span_id
        assert spans["handle"].parent_span_id == spans[f"predict {model}"].span_id

    @pytest.mark.parametrize(
        "traceparent",
        [
            None,
            "",
            "rubbish",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E473Z-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ],
    )
    def test_without_a_wellformed_context_a_request_starts_a_trace_of_its_own(self, server, telemetry, traceparent):
        response = server.predict("phases", {}, {} if traceparent is None else {"traceparent": traceparent})
        assert response.is_success
        request_id = response.headers["x-request-id"]
        span = telemetry.wait_for(
            lambda: next(
                (
                    span
                    for span in telemetry.all_spans()
                    if span.attributes.get("torchserve.request.id") == request_id and span.name == "predict phases"
                ),
                None,
            )
        )
        assert span.parent_span_id == ""
        assert int(span.trace_id, 16) != 0
        assert span.trace_id not in (traceparent or "").lower()

    def test_an_unsampled_caller_stays_unsampled(self, server, telemetry):
        unsampled, sampled = new_caller(), new_caller()
        since = server.console_size_bytes()
        log = {"inference": {"log": [{"message": "an unsampled line"}]}}
        server.predict("phases", log, {"traceparent": f"00-{unsampled.trace_id}-{unsampled.span_id}-00"})
        server.predict("phases", {}, sampled.headers)
        telemetry.wait_for_trace(sampled.trace_id, "predict phases")
        assert telemetry.spans(unsampled.trace_id) == []
        line = console_lines.parse(server.wait_for_line(lambda line: "an unsampled line" in line, "a line", since))
        assert (line["trace_id"], line["trace_flags"]) == (unsampled.trace_id, "00")

    @pytest.mark.parametrize("model", ["phases", "own", "function"])
    def test_a_models_load_is_a_trace_of_its_own(self, server, telemetry, model):
        # Other servers of this session may export to the same receiver.
        pid = server.worker_pid(model)
        span = telemetry.wait_for(
            lambda: next(
                (
                    span
                    for span in telemetry.all_spans()
                    if span.name == f"load {model}" and span.resource["process.pid"] == pid
                ),
                None,
            )
        )
        assert (span.kind, span.parent_span_id, span.status) == ("INTERNAL", "", "UNSET")
        assert span.attributes["torchserve.model.name"] == model
        assert span.attributes["torchserve.device"] == "cpu"
        assert telemetry.wait_for_exemplar(
            "torchserve.model.load.duration", span.trace_id, {"torchserve.model.name": model}
        )


class TestLine:
    def test_the_line_is_under_the_phases_span(self, exchange):
        span = exchange.spans["inference"]
        assert (exchange.line["trace_id"], exchange.line["span_id"]) == (exchange.caller.trace_id, span.span_id)
        assert exchange.line["trace_flags"] == "01"

    def test_the_line_has_the_answers_request_id_and_the_callers_own(self, exchange):
        assert exchange.line["request_id"] == exchange.response.headers["x-request-id"]
        assert exchange.line["client_request_id"] == CLIENT_REQUEST_ID

    def test_the_fields_come_in_the_documented_order(self, exchange):
        keys = [key for key in exchange.line if key != "log.record.uid"]
        context = ["trace_id", "span_id", "trace_flags", "request_id", "client_request_id"]
        model = ["model_name", "model_version", "worker_id"]
        assert keys == ["timestamp", "level", "logger", "event", *context, *model, *EXTRA]

    def test_the_line_has_what_was_logged(self, exchange):
        expected = {"level": "warning", "logger": "acme.model", "event": MESSAGE, **EXTRA}
        expected.update(model_name="phases", model_version="1.0")
        assert expected.items() <= exchange.line.items()

    def test_the_time_is_utc_with_microseconds_within_the_phase(self, exchange):
        assert console_lines.TIMESTAMP.fullmatch(exchange.line["timestamp"])
        assert _nanoseconds(exchange.line["timestamp"]) == exchange.log_record.time_ns // 1000 * 1000
        assert exchange.spans["inference"].start_ns <= exchange.log_record.time_ns
        assert exchange.log_record.time_ns <= exchange.spans["inference"].end_ns


class TestLogRecord:
    def test_the_record_is_under_the_phases_span(self, exchange):
        record = exchange.log_record
        assert (record.trace_id, record.span_id) == (exchange.caller.trace_id, exchange.spans["inference"].span_id)
        assert record.trace_flags & 1

    def test_body_severity_and_scope_are_what_was_logged(self, exchange):
        record = exchange.log_record
        assert record.body == MESSAGE
        # https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber: WARN is 13
        assert record.severity == (13, "WARNING")
        assert (record.logger, record.event_name) == ("acme.model", "")

    def test_extra_and_request_are_attributes_and_nothing_is_repeated(self, exchange):
        attributes = exchange.log_record.attributes
        request = {"torchserve.request.id": exchange.response.headers["x-request-id"]}
        assert {**EXTRA, **request, "torchserve.model.name": "phases"}.items() <= attributes.items()
        repeated = {"event", "level", "logger", "timestamp", "trace_id", "span_id", "trace_flags", "request_id"}
        assert repeated & set(attributes) == set()

    def test_line_and_record_share_a_unique_id(self, exchange):
        assert exchange.line["log.record.uid"] == exchange.log_record.attributes["log.record.uid"]

    def test_spans_and_records_come_from_the_same_resource(self, exchange):
        assert exchange.log_record.resource == exchange.spans["inference"].resource


class TestLatency:
    @pytest.mark.parametrize(
        ("metric", "attributes", "least_seconds"),
        [
            ("torchserve.request.duration", {}, sum(SLEEP_SECONDS.values())),
            *(
                ("torchserve.phase.duration", {"torchserve.phase.name": name}, SLEEP_SECONDS[name])
                for name in PHASE_NAMES
            ),
            ("torchserve.reported.duration", {"torchserve.reported.name": "inference_latency"}, 0.012),
        ],
    )
    def test_the_histogram_has_an_exemplar_of_this_trace(self, exchange, telemetry, metric, attributes, least_seconds):
        wanted = {"torchserve.model.name": "phases", "torchserve.model.version": "1.0", **attributes}
        point = telemetry.wait_for_exemplar(metric, exchange.caller.trace_id, wanted)
        assert point.unit == "s"
        assert point.sum_seconds >= least_seconds - CLOCK_SLACK_SECONDS
        assert (point.bounds_seconds[0], point.bounds_seconds[-1]) == (0.0001, 60)
        assert "torchserve.request.id" not in point.attributes

    def test_a_reported_latency_is_a_span_that_ends_with_its_record(self, exchange):
        span = exchange.spans["inference_latency"]
        assert (span.kind, span.parent_span_id) == ("INTERNAL", exchange.spans["inference"].span_id)
        assert span.attributes["torchserve.span.source"] == "log"
        assert span.end_ns == exchange.log_record.time_ns
        assert span.duration_seconds == pytest.approx(EXTRA["inference_latency"], abs=1e-6)

    @pytest.mark.parametrize("value", [-0.001, 3601, "soon", None])
    def test_what_cannot_be_a_latency_stays_a_field(self, server, telemetry, value):
        caller = new_caller()
        message = f"not a latency: {value!r}"
        log = [{"message": message, "extra": {"inference_latency": value}}]
        server.predict("phases", {"inference": {"log": log}}, caller.headers)
        spans = telemetry.wait_for_trace(caller.trace_id, "predict phases", *PHASE_NAMES)
        assert "inference_latency" not in spans
        line = server.wait_for_line(lambda line: message in line, message)
        assert console_lines.parse(line)["inference_latency"] == value


class TestDigits:
    def test_every_request_is_one_trace_with_its_status(self, results, telemetry):
        for result in results:
            spans = telemetry.wait_for_trace(result["trace_id"], "predict digits", "preprocess")
            predict = spans["predict digits"]
            assert predict.attributes["torchserve.response.status_code"] == result["status"]
            assert predict.status == ("ERROR" if result["status"] >= 500 else "UNSET")
            assert 0 < predict.duration_seconds * 1000 < result["milliseconds"]
            phases = [span for span in spans.values() if span.name in PHASE_NAMES]
            assert {span.parent_span_id for span in phases} == {predict.span_id}
            assert sum(span.duration_seconds for span in phases) <= predict.duration_seconds

    def test_an_images_phases_and_its_reported_latency_are_there_once_each(self, results, telemetry):
        trace_id = next(result["trace_id"] for result in results if result["expected_digit"] is not None)
        spans = telemetry.wait_for_trace(trace_id, "predict digits", *PHASE_NAMES, "inference_latency")
        assert sorted(spans) == sorted(["predict digits", *PHASE_NAMES, "inference_latency"])

    def test_the_histogram_has_an_exemplar_of_one_of_them(self, results, telemetry):
        # Of requests that follow one another quickly a bucket keeps one.
        trace_ids = {result["trace_id"] for result in results}
        points = telemetry.wait_for(
            lambda: [
                point
                for point in telemetry.histogram_points("torchserve.request.duration")
                if point.exemplar_trace_ids & trace_ids
            ]
        )
        assert {point.attributes["torchserve.model.name"] for point in points} == {"digits"}

    def test_console_and_log_records_agree_and_are_under_the_requests_spans(self, results, server, telemetry):
        for result in results:
            spans = telemetry.wait_for_trace(result["trace_id"], "predict digits")
            records = telemetry.wait_for(lambda trace_id=result["trace_id"]: telemetry.log_records(trace_id))
            events = console_lines.events(server.console_lines())
            lines = [event for event in events if event.get("trace_id") == result["trace_id"]]
            assert [(line["event"], line["span_id"]) for line in lines] == [
                (record.body, record.span_id) for record in records
            ]
            assert {record.span_id for record in records} <= {span.span_id for span in spans.values()}
            assert {line["client_request_id"] for line in lines} == {result["request_id"]}


def _nanoseconds(timestamp: str) -> int:
    seconds, _, microseconds = timestamp.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(microseconds) * 1000


def test_torchserves_own_metrics_arrive_and_name_no_request(server, telemetry):
    server.predict("phases", {})

    def phases_gauge() -> list[dict[str, Any]]:
        attributes = telemetry.gauge_attributes("torchserve.handler_time")
        return [found for found in attributes if found["ModelName"] == "phases"]

    assert telemetry.wait_for(phases_gauge)[0] == {"ModelName": "phases", "Level": "Model"}
