"""Requests that fail: told in the trace and in one log record, answered exactly as stock TorchServe answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import console_lines
import httpx
import pytest
from answers import REQUESTS, comparable
from telemetry import Telemetry, new_caller

if TYPE_CHECKING:
    from torchserve_server import TorchServe

pytestmark = pytest.mark.torchserve


@pytest.fixture(scope="module")
def failure(server: TorchServe, telemetry: Telemetry) -> dict[str, Any]:
    """A request whose handler raises, and all that came of it."""
    caller = new_caller()
    since = server.console_size_bytes()
    response = server.predict("phases", REQUESTS["unhandled exception"], caller.headers)
    spans = telemetry.wait_for_trace(caller.trace_id, "predict phases", "preprocess", "inference")
    telemetry.wait_for(lambda: telemetry.log_records(caller.trace_id))
    server.wait_for_line(lambda line: caller.trace_id in line and line.startswith("{"), "the failure", since)
    return {
        "response": response,
        "spans": spans,
        "records": telemetry.log_records(caller.trace_id),
        "lines": [
            event
            for event in console_lines.events(server.console_lines(since))
            if event.get("trace_id") == caller.trace_id
        ],
        "caller": caller,
    }


class TestAnswers:
    @pytest.mark.parametrize("name", REQUESTS)
    @pytest.mark.parametrize("with_context", [True, False])
    def test_an_answer_is_stocks_own(self, server, stock_server, name, with_context):
        headers = new_caller().headers if with_context else {}
        ours, stock = (each.predict("phases", REQUESTS[name], headers) for each in (server, stock_server))
        assert comparable(ours) == comparable(stock)

    @pytest.mark.parametrize(("path", "status_code"), [("/predictions/nobody", 404), ("/ping", 200), ("/nowhere", 404)])
    def test_an_answer_without_a_worker_is_stocks_own(self, server, stock_server, path, status_code):
        ours, stock = (each.client.get(path) for each in (server, stock_server))
        assert ours.status_code == status_code
        assert comparable(ours) == comparable(stock)


class TestUnhandledException:
    def test_the_answer_is_503(self, failure):
        assert failure["response"].status_code == httpx.codes.SERVICE_UNAVAILABLE

    def test_the_request_and_the_failed_phase_have_the_status_error(self, failure):
        assert {name: span.status for name, span in failure["spans"].items()} == {
            "predict phases": "ERROR",
            "preprocess": "UNSET",
            "inference": "ERROR",
        }

    def test_the_request_says_which_error_and_answer(self, failure):
        attributes = failure["spans"]["predict phases"].attributes
        assert attributes["error.type"] == "ValueError"
        assert attributes["torchserve.response.status_code"] == httpx.codes.SERVICE_UNAVAILABLE

    def test_the_exception_is_one_span_event(self, failure):
        [event] = [event for span in failure["spans"].values() for event in span.events]
        assert event.name == "exception"
        assert event.attributes["exception.type"] == "ValueError"
        assert event.attributes["exception.message"] == "broken on purpose"
        assert "raise_with_cause" in event.attributes["exception.stacktrace"]

    def test_the_exception_is_one_log_record_in_the_trace(self, failure):
        [record] = [record for record in failure["records"] if "exception.type" in record.attributes]
        assert record.attributes["exception.type"] == "ValueError"
        assert record.attributes["exception.message"] == "broken on purpose"
        assert "raise_with_cause" in record.attributes["exception.stacktrace"]
        assert record.span_id in {span.span_id for span in failure["spans"].values()}

    def test_the_traceback_is_one_object_in_one_console_line(self, failure):
        [line] = [line for line in failure["lines"] if "exception" in line]
        exception = line["exception"]
        assert (line["level"], line["event"]) == ("warning", "Invoking custom service failed.")
        assert (exception["type"], exception["message"]) == ("ValueError", "broken on purpose")
        assert "raise_with_cause" in exception["stacktrace"]
        assert "KeyError" in str(exception["causes"])
        assert line["request_id"] == failure["response"].headers["x-request-id"]

    def test_no_line_of_a_traceback_is_a_console_line_of_its_own(self, failure, server):
        events = console_lines.events(server.console_lines())
        assert [event for event in events if event["event"].startswith("Traceback (most recent call last)")] == []

    def test_the_histograms_count_it_under_its_error_type(self, failure, telemetry):
        for metric in ("torchserve.request.duration", "torchserve.phase.duration"):
            assert telemetry.wait_for_exemplar(metric, failure["caller"].trace_id, {"error.type": "ValueError"})


class TestRefusal:
    def test_a_client_error_is_no_error_of_the_span(self, server, telemetry):
        caller = new_caller()
        response = server.predict("phases", REQUESTS["client error"], caller.headers)
        assert response.status_code == httpx.codes.BAD_REQUEST
        predict = telemetry.wait_for_trace(caller.trace_id, "predict phases")["predict phases"]
        assert predict.status == "UNSET"
        assert predict.attributes["torchserve.response.status_code"] == httpx.codes.BAD_REQUEST

    @pytest.mark.parametrize(("name", "status_code"), [("server error of its own", 503), ("out of memory", 507)])
    def test_an_answer_from_500_up_is_an_error_of_the_span(self, server, telemetry, name, status_code):
        caller = new_caller()
        assert server.predict("phases", REQUESTS[name], caller.headers).status_code == status_code
        predict = telemetry.wait_for_trace(caller.trace_id, "predict phases")["predict phases"]
        assert predict.status == "ERROR"
        assert predict.attributes["error.type"]
        assert predict.attributes["torchserve.response.status_code"] == status_code

    @pytest.mark.parametrize("model", ["own", "function"])
    def test_a_handler_without_phases_fails_the_same_way(self, server, telemetry, model):
        caller = new_caller()
        response = server.predict(model, REQUESTS["unhandled exception"], caller.headers)
        assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE
        spans = telemetry.wait_for_trace(caller.trace_id, f"predict {model}", "handle")
        assert {span.status for span in spans.values()} == {"ERROR"}
        assert [event.name for span in spans.values() for event in span.events] == ["exception"]
