"""Files of OTLP JSON lines: their format, their names, and the bound of their folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._importlib_metadata import entry_points

from sdk_room import room
from ts_otel_logging._sdk import _json_file
from ts_otel_logging._sdk._json_file import RotatingFile

TO_FILES = dict.fromkeys(("OTEL_TRACES_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_METRICS_EXPORTER"), "otlp_json_file")
TRACE_ID, SPAN_ID, PARENT_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, 0x00F067AA0BA902B7


def documents(folder, signal):
    [path] = folder.glob(f"{signal}-*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def implementations(signal):
    """Our exporter, and upstream's where it is installed."""
    ours = getattr(_json_file.OWN_EXPORTERS, signal)
    upstreams = [
        point.load() for point in entry_points(group=f"opentelemetry_{signal}_exporter", name="otlp_json_file")
    ]
    return [pytest.param(build, id=build.__module__.partition(".")[0]) for build in (ours, *upstreams)]


class Stream:
    """What exporters write to."""

    closed = False

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass


class TestFormat:
    def test_whole_lines_of_each_signal_in_a_file_of_their_own(self, tmp_path):
        with room(TO_FILES, file_dir=str(tmp_path / "made")) as sdk:
            for number in range(2):
                sdk.span(f"predict {number}")
                sdk.log(f"line {number}")
                sdk.measure()
                assert sdk.flush()
            folder = tmp_path / "made"
            names = sorted(path.name for path in folder.iterdir())
            assert [re.sub(r"-.*-", "-HOST-", name) for name in names] == [
                f"{signal}-HOST-{os.getpid()}.jsonl" for signal in ("logs", "metrics", "traces")
            ]
            for signal, field in (
                ("traces", "resourceSpans"),
                ("logs", "resourceLogs"),
                ("metrics", "resourceMetrics"),
            ):
                found = documents(folder, signal)
                assert len(found) == 2
                assert all(list(document) == [field] for document in found)
            assert sdk.providers.describe()["traces"] == f"otlp_json_file {folder / names[2]}"

    @pytest.mark.parametrize("build", implementations("traces"))
    def test_spans(self, build):
        memory = InMemorySpanExporter()
        with room(
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
        ) as sdk:
            from opentelemetry.sdk.trace.export import SimpleSpanProcessor

            provider = sdk.providers.tracer_provider
            provider.add_span_processor(SimpleSpanProcessor(memory))
            flags = trace.TraceFlags(1)
            parent = trace.NonRecordingSpan(trace.SpanContext(TRACE_ID, PARENT_ID, is_remote=True, trace_flags=flags))
            span = provider.get_tracer("scope", "1").start_span(
                "predict",
                trace.set_span_in_context(parent),
                trace.SpanKind.SERVER,
                {"text": "é", "number": 2**60, "ratio": 0.5, "yes": True, "list": ["a", "b"], "traceId": "kept"},
                [trace.Link(trace.SpanContext(TRACE_ID, SPAN_ID, is_remote=False), {"index": 1})],
                start_time=10,
            )
            span.add_event("event", {"key": "value"}, timestamp=15)
            span.set_status(trace.StatusCode.ERROR, "why")
            span.end(20)
            stream = Stream()
            build(stream=stream).export(memory.get_finished_spans())
        assert stream.text.endswith("}\n")
        [resource] = json.loads(stream.text)["resourceSpans"]
        [scope] = resource["scopeSpans"]
        assert scope["scope"] == {"name": "scope", "version": "1"}
        [found] = scope["spans"]
        assert found.pop("spanId") == f"{span.get_span_context().span_id:016x}"
        assert found == {
            "traceId": f"{TRACE_ID:032x}",
            "parentSpanId": f"{PARENT_ID:016x}",
            "name": "predict",
            "kind": 2,
            "startTimeUnixNano": "10",
            "endTimeUnixNano": "20",
            "attributes": [
                {"key": "text", "value": {"stringValue": "é"}},
                {"key": "number", "value": {"intValue": str(2**60)}},
                {"key": "ratio", "value": {"doubleValue": 0.5}},
                {"key": "yes", "value": {"boolValue": True}},
                {"key": "list", "value": {"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}}},
                {"key": "traceId", "value": {"stringValue": "kept"}},
            ],
            "events": [
                {
                    "timeUnixNano": "15",
                    "name": "event",
                    "attributes": [{"key": "key", "value": {"stringValue": "value"}}],
                }
            ],
            "links": [
                {
                    "traceId": f"{TRACE_ID:032x}",
                    "spanId": f"{SPAN_ID:016x}",
                    "attributes": [{"key": "index", "value": {"intValue": "1"}}],
                    "flags": 256,
                }
            ],
            "status": {"message": "why", "code": 2},
            "flags": 768,
        }

    @pytest.mark.parametrize("build", implementations("logs"))
    def test_log_records(self, build):
        taken = []

        class Exporter:
            def export(self, batch):
                taken.extend(batch)

            def shutdown(self):
                pass

        with room(
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none"}
        ) as sdk:
            from opentelemetry._logs import LogRecord, SeverityNumber
            from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

            provider = sdk.providers.logger_provider
            provider.add_log_record_processor(SimpleLogRecordProcessor(Exporter()))
            provider.get_logger("acme.model").emit(
                LogRecord(
                    timestamp=10,
                    observed_timestamp=20,
                    trace_id=TRACE_ID,
                    span_id=SPAN_ID,
                    trace_flags=trace.TraceFlags(1),
                    severity_text="WARNING",
                    severity_number=SeverityNumber.WARN,
                    body={"deep": [1, "two"]},
                    attributes={"key": 1},
                )
            )
            stream = Stream()
            build(stream=stream).export(taken)
        [resource] = json.loads(stream.text)["resourceLogs"]
        [scope] = resource["scopeLogs"]
        assert scope["scope"]["name"] == "acme.model"
        [found] = scope["logRecords"]
        assert found == {
            "timeUnixNano": "10",
            "observedTimeUnixNano": "20",
            "severityNumber": 13,
            "severityText": "WARNING",
            "body": {
                "kvlistValue": {
                    "values": [
                        {
                            "key": "deep",
                            "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "two"}]}},
                        }
                    ]
                }
            },
            "attributes": [{"key": "key", "value": {"intValue": "1"}}],
            "flags": 1,
            "traceId": f"{TRACE_ID:032x}",
            "spanId": f"{SPAN_ID:016x}",
        }

    @pytest.mark.parametrize("build", implementations("metrics"))
    def test_metrics_and_their_exemplars(self, build):
        from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider

        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], exemplar_filter=AlwaysOnExemplarFilter(), shutdown_on_exit=False)
        span = trace.NonRecordingSpan(trace.SpanContext(TRACE_ID, SPAN_ID, is_remote=False))
        provider.get_meter("scope").create_histogram(
            "duration", "s", "How long", explicit_bucket_boundaries_advisory=[1.0]
        ).record(0.5, {"model": "digits"}, trace.set_span_in_context(span))
        stream = Stream()
        build(stream=stream).export(reader.get_metrics_data())
        provider.shutdown()
        [resource] = json.loads(stream.text)["resourceMetrics"]
        [found] = resource["scopeMetrics"][0]["metrics"]
        [point] = found["histogram"].pop("dataPoints")
        [exemplar] = point.pop("exemplars")
        assert {point.pop("startTimeUnixNano").isdigit(), point.pop("timeUnixNano").isdigit()} == {True}
        assert exemplar.pop("timeUnixNano").isdigit()
        assert found == {
            "name": "duration",
            "unit": "s",
            "description": "How long",
            "histogram": {"aggregationTemporality": 2},
        }
        assert point == {
            "attributes": [{"key": "model", "value": {"stringValue": "digits"}}],
            "count": "1",
            "sum": 0.5,
            "bucketCounts": ["1", "0"],
            "explicitBounds": [1.0],
            "min": 0.5,
            "max": 0.5,
        }
        assert exemplar == {"asDouble": 0.5, "traceId": f"{TRACE_ID:032x}", "spanId": f"{SPAN_ID:016x}"}

    @pytest.mark.parametrize("signal", ["traces", "logs", "metrics"])
    def test_our_exporters_are_whole_ones(self, signal):
        exporter = getattr(_json_file.OWN_EXPORTERS, signal)(stream=Stream())
        assert exporter.force_flush()
        exporter.shutdown()
        assert isinstance(exporter, MetricExporter) is (signal == "metrics")


_FORKING_WRITER = """
import os, sys
from ts_otel_logging._sdk._json_file import RotatingFile

def write():
    file.write("{}\\n")
    file.flush()

file = RotatingFile(sys.argv[1], "logs")
write()
child = os.fork()
if child == 0:
    write()
    os._exit(0)
os.waitpid(child, 0)
print(os.getpid(), child)
"""


def write_lines(file, count, *, size=100):
    for number in range(count):
        file.write(json.dumps({"number": number, "text": "x" * size}) + "\n")
        file.flush()


class TestRotation:
    def test_a_full_file_is_renamed_and_no_line_is_lost(self, tmp_path):
        file = RotatingFile(str(tmp_path), "traces", max_file_bytes=1_000)
        write_lines(file, 30)
        file.close()
        paths = [*sorted(tmp_path.glob("*.jsonl.*"), key=lambda path: int(path.suffix[1:])), *tmp_path.glob("*.jsonl")]
        assert len(paths) > 2
        assert all(path.stat().st_size <= 1_000 for path in paths)
        numbers = [json.loads(line)["number"] for path in paths for line in path.read_text().splitlines()]
        assert numbers == list(range(30))

    def test_the_folder_stays_below_its_bound_and_the_oldest_go(self, tmp_path):
        file = RotatingFile(str(tmp_path), "traces", max_file_bytes=1_000, max_folder_bytes=5_000)
        for _ in range(20):
            write_lines(file, 10)
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5_000
        newest = max(int(path.suffix[1:]) for path in tmp_path.glob("*.jsonl.*"))
        assert not (tmp_path / f"{os.path.basename(file.path)}.1").exists()
        assert newest > 20
        file.close()

    def test_rotated_files_of_others_may_go_but_never_their_live_one(self, tmp_path):
        file = RotatingFile(str(tmp_path), "traces", max_file_bytes=1_000, max_folder_bytes=5_000)
        host = os.path.basename(file.path).split("-", 1)[1].rpartition("-")[0]
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        old = [
            tmp_path / f"logs-{host}-{os.getppid()}.jsonl.1",  # rotated
            tmp_path / f"logs-{host}-{gone.pid}.jsonl",  # of a process that ended
        ]
        live = [
            tmp_path / f"logs-{host}-{os.getppid()}.jsonl",
            tmp_path / "logs-another-host-1.jsonl",  # nobody knows
            tmp_path / "notes.txt",
        ]
        for path in (*old, *live):
            path.write_bytes(b"x" * 1_500)
            os.utime(path, (1, 1))
        write_lines(file, 20)
        file.close()
        assert [path.exists() for path in old] == [False, False]
        assert [path.exists() for path in live] == [True, True, True]

    def test_a_forked_child_writes_a_file_of_its_own(self, tmp_path):
        file = RotatingFile(str(tmp_path), "traces")
        write_lines(file, 1)
        process = subprocess.run(
            [
                sys.executable,
                "-c",
                _FORKING_WRITER,
                str(tmp_path),
            ],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        file.close()
        pids = process.stdout.split()
        assert sorted(path.stem.rpartition("-")[2] for path in tmp_path.glob("logs-*")) == sorted(pids)
        assert {path.read_text() for path in tmp_path.glob("logs-*")} == {"{}\n"}


class TestTrouble:
    def test_a_folder_that_cannot_be_made_costs_the_files_only(self, tmp_path):
        (tmp_path / "taken").write_text("a file")
        with room({**TO_FILES, "OTEL_LOGS_EXPORTER": "console"}, file_dir=str(tmp_path / "taken" / "folder")) as sdk:
            assert sdk.providers.describe()["traces"] == "off"
            assert sdk.providers.meter_provider is None
            assert sdk.providers.logger_provider is not None
            assert sdk.events() == ["exporter off", "exporter off"]
            assert "NotADirectoryError" in sdk.reports[0].fields["reason"]

    def test_a_full_disk_leaves_no_half_line_and_the_batch_waits(self, tmp_path, monkeypatch):
        environ = {**TO_FILES, "OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
        with room(environ, file_dir=str(tmp_path)) as sdk:
            sdk.span("first")
            assert sdk.flush()
            write = os.write
            left = [10]

            def write_a_little(descriptor, data):
                if not left:
                    raise OSError(28, "No space left on device")
                return write(descriptor, data[: left.pop()])

            monkeypatch.setattr(_json_file.os, "write", write_a_little)
            sdk.span("second")
            assert not sdk.flush()
            assert len(documents(tmp_path, "traces")) == 1
            assert "No space left" in sdk.reports[0].fields["reason"]
            monkeypatch.setattr(_json_file.os, "write", write)
            assert sdk.flush()
            names = [
                document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"]
                for document in documents(tmp_path, "traces")
            ]
            assert names == ["first", "second"]
