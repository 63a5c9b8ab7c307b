"""What a request brings besides its data: trace context from gRPC clients, headers that are put on lines and spans."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage, propagate
from opentelemetry.propagators.composite import CompositePropagator

from in_process import load_model, make_request, predict
from ts_otel_logging._redaction import Redaction
from ts_otel_logging._requests import ShownHeaders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from in_memory_worker import Worker

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
OTHER_TRACE_ID = "1bf7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER}-01"
INPUTS = {"data": b"x", "traceparent": TRACEPARENT.encode(), "tracestate": b"acme=1", "baggage": b"tenant=7"}
# As a real frontend hands over an HTTP request.
HTTP = {"Host": "model", "content-length": "0"}

# Answers what it sees: its inputs' names, the request's headers, and the baggage.
LOOKING = """
    import json
    import logging
    from opentelemetry import baggage

    logger = logging.getLogger("acme.model")

    class Handler:
        def initialize(self, context): pass
        def handle(self, data, context):
            logger.info("in handle", extra={"http.request.header.x-tenant": "a field of the handler's own"})
            return [
                {
                    "inputs": sorted(row),
                    "properties": sorted(context.get_all_request_header(index)),
                    "baggage": dict(baggage.get_all()),
                }
                for index, row in enumerate(data)
            ]
"""


def seen(reply: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.body)
    return found


@contextlib.contextmanager
def propagators(*chosen: Any) -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator(list(chosen)))
    try:
        yield
    finally:
        propagate.set_global_textmap(before)


class TestGrpc:
    def test_the_context_in_its_inputs_is_continued_and_the_handler_sees_none_of_it(self, worker: Worker) -> None:
        with worker.patched():
            (reply,) = predict(load_model(LOOKING), make_request(None, inputs=INPUTS))
        root = worker.span("predict tiny")
        assert format(root.context.trace_id, "032x") == TRACE_ID
        assert format(root.parent.span_id, "016x") == CALLER
        assert root.context.trace_state.get("acme") == "1"
        assert seen(reply) == {"inputs": ["data"], "properties": ["data"], "baggage": {"tenant": "7"}}

    def test_a_sequences_own_headers_are_no_http(self, worker: Worker) -> None:
        headers = {"ts_request_sequence_id": "s1", "ts_request_sequence_start": "true"}
        with worker.patched():
            (reply,) = predict(load_model(LOOKING), make_request(None, headers, inputs=INPUTS))
        assert format(worker.span("predict tiny").context.trace_id, "032x") == TRACE_ID
        assert seen(reply)["inputs"] == ["data"]

    def test_of_a_batch_each_has_its_own(self, worker: Worker) -> None:
        other = f"00-{OTHER_TRACE_ID}-{CALLER}-01".encode()
        with worker.patched():
            replies = predict(
                load_model(LOOKING, batch_size=3),
                make_request(None, inputs=INPUTS),
                make_request(None, inputs={"data": b"y", "traceparent": other}),
                make_request(None, inputs={"data": b"z"}),
            )
        roots = [span for span in worker.spans if span.name == "predict tiny"]
        trace_ids = [format(span.context.trace_id, "032x") for span in roots]
        assert trace_ids[:2] == [TRACE_ID, OTHER_TRACE_ID]
        assert roots[2].parent is None
        assert [seen(reply)["inputs"] for reply in replies] == [["data"]] * 3

    def test_a_header_wins_and_the_inputs_go_all_the_same(self, worker: Worker) -> None:
        header = {"traceparent": f"00-{OTHER_TRACE_ID}-{CALLER}-01"}
        with worker.patched():
            (reply,) = predict(load_model(LOOKING), make_request(None, header, inputs=INPUTS))
        assert format(worker.span("predict tiny").context.trace_id, "032x") == OTHER_TRACE_ID
        # Nor is the baggage of another context mixed in.
        assert seen(reply) == {"inputs": ["data"], "properties": ["data", "traceparent"], "baggage": {}}

    @pytest.mark.parametrize(
        "value", [b"", b"rubbish", b"\xff\xfe", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"0" * 1_000_000]
    )
    def test_what_cannot_be_used_starts_a_trace(self, worker: Worker, value: bytes) -> None:
        with worker.patched():
            (reply,) = predict(load_model(LOOKING), make_request(None, inputs={"data": b"x", "traceparent": value}))
        assert worker.span("predict tiny").parent is None
        assert seen(reply)["inputs"] == ["data"]

    def test_baggage_longer_than_any_http_header_is_dropped(self, worker: Worker) -> None:
        inputs = {**INPUTS, "baggage": b",".join(b"key%d=value" % number for number in range(1_000))}
        with worker.patched():
            (reply,) = predict(load_model(LOOKING), make_request(None, inputs=inputs))
        assert format(worker.span("predict tiny").context.trace_id, "032x") == TRACE_ID
        assert seen(reply) == {"inputs": ["data"], "properties": ["data"], "baggage": {}}

    def test_only_the_fields_of_the_propagators_in_use_are_reserved(self, worker: Worker) -> None:
        with propagators(), worker.patched():
            (reply,) = predict(load_model(LOOKING), make_request(None, inputs=INPUTS))
        assert worker.span("predict tiny").parent is None
        assert seen(reply)["inputs"] == sorted(INPUTS)
        assert not baggage.get_all()


class TestHttp:
    def test_a_query_string_or_form_is_data(self, worker: Worker) -> None:
        with worker.patched():
            (reply,) = predict(load_model(LOOKING), make_request(None, HTTP, inputs=INPUTS))
        root = worker.span("predict tiny")
        assert root.parent is None
        assert format(root.context.trace_id, "032x") != TRACE_ID
        assert seen(reply)["inputs"] == sorted(INPUTS)
        assert seen(reply)["baggage"] == {}


class TestShownHeaders:
    HEADERS = {**HTTP, "X-Tenant": "acme", "x-region": "\N{SNOWMAN}" * 100, "Authorization": "Digest hunter2"}  # noqa: RUF012

    def shown(self, *names: str) -> ShownHeaders:
        return ShownHeaders(names, Redaction().mapping)

    def test_those_on_the_list_are_on_the_line_and_on_the_span(self, worker: Worker) -> None:
        with worker.patched(shown_headers=self.shown("x-tenant", "x-region", "x-absent")):
            predict(load_model(LOOKING), make_request(b"x", self.HEADERS))
        root, line = worker.span("predict tiny"), worker.lines.last
        assert root.attributes["http.request.header.x-tenant"] == ("acme",)
        assert line["http.request.header.x-tenant"] == "acme"
        assert line["http.request.header.x-region"] == "\N{SNOWMAN}" * 85
        assert root.attributes["http.request.header.x-region"] == ("\N{SNOWMAN}" * 85,)
        assert len(("\N{SNOWMAN}" * 85).encode()) == 255
        headers = {name for name in (*line, *root.attributes) if name.startswith("http.")}
        assert headers == {"http.request.header.x-tenant", "http.request.header.x-region"}

    def test_a_field_of_the_handlers_with_such_a_name_is_kept_beside_it(self, worker: Worker) -> None:
        with worker.patched(shown_headers=self.shown("x-tenant")):
            predict(load_model(LOOKING), make_request(b"x", self.HEADERS))
        (line,) = [line for line in worker.lines.objects if line["event"] == "in handle"]
        assert line["http.request.header.x-tenant"] == "acme"
        assert line["extra.http.request.header.x-tenant"] == "a field of the handler's own"

    def test_secrets_are_masked_before_the_cut(self, worker: Worker) -> None:
        secret = "x" * 240 + " password=" + "s" * 50
        with worker.patched(shown_headers=self.shown("authorization", "x-note")):
            predict(load_model(LOOKING), make_request(b"x", {**self.HEADERS, "X-Note": secret}))
        root, line = worker.span("predict tiny"), worker.lines.last
        assert line["http.request.header.authorization"] == "[REDACTED]"
        assert root.attributes["http.request.header.authorization"] == ("[REDACTED]",)
        assert line["http.request.header.x-note"] == "x" * 240 + " password=[REDAC"

    def test_of_a_batch_each_member_has_its_own(self, worker: Worker) -> None:
        handler = LOOKING.replace(
            'logger.info("in handle"',
            """import ts_otel_logging
            with ts_otel_logging.request_scope(1): logger.info("of the second")
            logger.info("in handle\"""",
        )
        with worker.patched(shown_headers=self.shown("x-tenant")):
            predict(
                load_model(handler, batch_size=2),
                make_request(b"x", {**HTTP, "x-tenant": "one"}),
                make_request(b"x", {**HTTP, "x-tenant": "two"}),
            )
        roots = [span for span in worker.spans if span.name == "predict tiny"]
        assert [span.attributes["http.request.header.x-tenant"] for span in roots] == [("one",), ("two",)]
        lines = {line["event"]: line for line in worker.lines.objects}
        assert lines["of the second"]["http.request.header.x-tenant"] == "two"
        assert "http.request.header.x-tenant" not in lines["in handle"]
