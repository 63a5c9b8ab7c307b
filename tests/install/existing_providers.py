"""A process that has providers of its own; it serves one request and prints what they got, as JSON on stderr.

Run by test_existing_providers.py in a process of its own, since providers can be set once a process: under its own name
with the argument ``configure``, or under the name of TorchServe's worker, where the start-up file switches on.
"""

from __future__ import annotations

import json
import logging
import sys

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider, set_logger_provider
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk._logs import export as sdk_logs_export
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import ts_otel_logging
from in_process import HANDLERS, load_model, make_request, predict

MESSAGE = "a line of the handler"


def main() -> None:
    spans = InMemorySpanExporter()
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(tracer_provider)

    exporter_class = getattr(sdk_logs_export, "InMemoryLogRecordExporter", None) or sdk_logs_export.InMemoryLogExporter
    records = exporter_class()
    logger_provider = sdk_logs.LoggerProvider()
    logger_provider.add_log_record_processor(sdk_logs_export.SimpleLogRecordProcessor(records))
    set_logger_provider(logger_provider)

    reader = InMemoryMetricReader()
    meter_provider = MeterProvider([reader])
    metrics.set_meter_provider(meter_provider)

    if sys.argv[1:] == ["configure"]:
        ts_otel_logging.configure()
    service = load_model(HANDLERS / "phases.py", model_name="tiny")
    predict(service, make_request({"inference": {"log": [{"message": MESSAGE}]}}))
    ts_otel_logging.force_flush(timeout_seconds=5)

    data = reader.get_metrics_data()
    print(
        json.dumps(
            {
                "same": [
                    trace.get_tracer_provider() is tracer_provider,
                    get_logger_provider() is logger_provider,
                    metrics.get_meter_provider() is meter_provider,
                ],
                "spans": [span.name for span in spans.get_finished_spans()],
                "records": [item.log_record.body for item in records.get_finished_logs()],
                "metrics": [
                    metric.name
                    for resource in (data.resource_metrics if data else ())
                    for scope in resource.scope_metrics
                    for metric in scope.metrics
                ],
            }
        ),
        file=sys.__stderr__,
    )
    ts_otel_logging.shutdown(timeout_seconds=5)
    logging.shutdown()


if __name__ == "__main__":
    main()
