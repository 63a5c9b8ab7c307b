"""Every name that is emitted stands in docs/traces.md, where it says, and every name there is emitted."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from in_memory_worker import Worker
from in_process import load_model, make_request, predict
from ts_otel_logging import BridgeHandler, _names
from ts_otel_logging._latency import LatencyOutput
from ts_otel_logging._requests import ShownHeaders
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

PAGE = Path(__file__).parents[2] / "docs" / "traces.md"
# Needs the providers of the export room; test_callers.py looks at it.
ELSEWHERE = {("`predict`", "torchserve.sampling.reason")}
HANDLER = """
    import logging
    from ts.handler_utils.utils import send_intermediate_predict_response
    from ts.torch_handler.base_handler import BaseHandler

    class Handler(BaseHandler):
        def initialize(self, context): pass
        def preprocess(self, data): return [row["body"] for row in data]
        def inference(self, rows):
            logging.getLogger("acme.model").info("done", extra={"inference_latency": 0.012})
            if b"parts" in rows[0]:
                send_intermediate_predict_response(["part"], self.context.request_ids, "", 200, self.context)
            if b"failure" in rows[0]: raise ValueError("broken")
            return rows
        def postprocess(self, rows):
            if b"more" in rows: self.context.stopping_criteria = [lambda row: row != b"more"] * len(rows)
            return rows
        def explain_handle(self, data, raw): return data
        def describe_handle(self): return [{}]
"""
CALLER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-tenant": "acme"}


def serve(worker: Worker) -> list[Any]:
    """Serve in every way that has names of its own; returns the log records."""
    records = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(records))
    bridge = BridgeHandler(stream=worker.lines, logger_provider=provider)
    bridge.add_output(LatencyOutput(("inference_latency",), worker.tracer_provider, worker.metrics))
    logging.getLogger().addHandler(bridge)
    with worker.patched(shown_headers=ShownHeaders(["x-tenant"])):
        service = load_model(HANDLER, batch_size=2)
        for headers in (
            {},
            {"explain": "True"},
            {"describe": "True"},
            {"x-request-start": f"t={time.time() - 0.5:.3f}"},
        ):
            predict(service, make_request(b"x", {**CALLER, **headers}))
        for bodies in ([b"failure"], [b"a", b"b"], [b"failure", b"b"], [b"parts"], [b"parts and failure"]):
            predict(service, *(make_request(body, CALLER) for body in bodies))
        predict(service, make_request(b"more", CALLER))
        # Whose client has left.
        predict(service, make_request(b"x", CALLER))
        function = load_model("def handle(data, context): return data and ['x']")
        predict(function, make_request(b"x"))
        with pytest.raises(ValueError, match="broken"):
            load_model(
                """
                class Handler:
                    def initialize(self, context): raise ValueError("broken")
                    def handle(self, data, context): pass
                """
            )
    logging.getLogger().removeHandler(bridge)
    return list(records.get_finished_logs())


def place(span: ReadableSpan) -> str:
    word = span.name.partition(" ")[0]
    phases = ("preprocess", "inference", "postprocess", "explain", "describe", "handle")
    return "phases" if word in phases else "`inference_latency`" if word == "inference_latency" else f"`{word}`"


def emitted(worker: Worker, records: list[Any]) -> Iterator[tuple[str, str]]:  # noqa: C901 - one loop a place
    for span in worker.spans:
        for name in span.attributes:
            yield place(span), name
        for link in span.links:
            for name in link.attributes:
                yield "links of `batch`" if span.name.startswith("batch") else "?", name
        for event in span.events:
            for name in event.attributes:
                yield f"event `{event.name}`", name
    for item in records:
        for name in item.log_record.attributes:
            if name != "inference_latency":
                yield "log records", name
    for name, _ in metrics(worker):
        for point in worker.points(name):
            for attribute in point.attributes:
                yield f"`{name}`", attribute


def metrics(worker: Worker) -> set[tuple[str, str]]:
    worker.points("")
    return {
        (metric.name, metric.unit)
        for resource in worker._collected.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def rows(heading: str) -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8").partition("\n## Names\n")[2].partition(f"\n### {heading}\n")[2]
    table = text.partition("\n#")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if "| `" in line]


@pytest.fixture(scope="module")
def served() -> tuple[Worker, set[tuple[str, str]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "0")
        worker = Worker()
        return worker, set(emitted(worker, serve(worker)))


def test_every_attribute_stands_where_the_page_says(served: tuple[Worker, set[tuple[str, str]]]) -> None:
    documented = {
        (where.strip(), name.strip("`").replace("<name>", "x-tenant"))
        for name, _, places, _ in rows("Attributes")
        for where in places.split(", ")
    }
    documented |= {
        (metric, name.strip().strip("`")) for metric, _, names, _ in rows("Metrics") for name in names.split(", ")
    }
    assert served[1] == documented - ELSEWHERE


def test_every_metric_has_the_pages_unit(served: tuple[Worker, set[tuple[str, str]]]) -> None:
    assert metrics(served[0]) == {(name.strip("`"), unit.strip("`")) for name, unit, *_ in rows("Metrics")}


def test_every_span_has_the_pages_name_and_kind(served: tuple[Worker, set[tuple[str, str]]]) -> None:
    documented = {
        (name.strip("`").replace("<model>", "tiny"), kind.partition(";")[0]) for name, kind, _ in rows("Spans")
    }
    assert {(span.name, span.kind.name) for span in served[0].spans} == documented


def test_every_span_and_metric_has_one_scope(served: tuple[Worker, set[tuple[str, str]]]) -> None:
    scopes = {span.instrumentation_scope for span in served[0].spans}
    scopes |= {scope.scope for resource in served[0]._collected.resource_metrics for scope in resource.scope_metrics}
    (scope,) = scopes
    assert (scope.name, scope.version, scope.schema_url) == ("ts_otel_logging", __version__, _names.SCHEMA_URL)
    assert _names.SCHEMA_URL in PAGE.read_text(encoding="utf-8")


def test_every_name_of_ours_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    # What a shape of a line calls them.
    only_in_lines = {_names.ATTR_TRACE_IDS, _names.ATTR_CLIENT_REQUEST_ID}
    names = {value for name, value in vars(_names).items() if name.startswith(("ATTR_", "METRIC_"))} - only_in_lines
    assert [name for name in sorted(names) if f"| `{name}` |" not in page and f"`{name}`," not in page] == []
