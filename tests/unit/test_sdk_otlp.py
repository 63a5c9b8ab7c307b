"""Export over OTLP: what arrives, and what is done about failures of every kind."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from email.utils import formatdate

import pytest
import requests
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from otlp_receiver import Answer, OtlpReceiver, unused_endpoint
from sdk_room import export_threads, room
from ts_otel_logging import _config, _diagnostics
from ts_otel_logging._sdk._health import Health
from ts_otel_logging._sdk._http_connection import is_loopback
from ts_otel_logging._sdk._otlp_http import ENCODERS, parse_retry_after
from ts_otel_logging._sdk._probe import probe


@pytest.fixture
def receiver():
    with OtlpReceiver() as receiver:
        yield receiver


def over_http(receiver, **more):
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, **more}


class TestDelivery:
    @pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
    def test_all_three_signals_arrive_with_one_resource(self, receiver, protocol):
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        with room(environ, resource_attributes={"torchserve.version": "0.12.0"}) as sdk:
            sdk.span("predict digits")
            sdk.log("a line")
            sdk.measure()
            assert sdk.flush()
        assert [item.span.name for item in receiver.spans] == ["predict digits"]
        assert [item.record.body.string_value for item in receiver.log_records] == ["a line"]
        assert "test.duration" in {item.metric.name for item in receiver.metrics}
        resources = {str(item.resource) for item in (*receiver.spans, *receiver.log_records, *receiver.metrics)}
        assert len(resources) == 1
        assert "torchserve.version" in resources.pop()
        assert sdk.reports == []

    def test_the_protocol_of_one_signal_wins(self, receiver):
        environ = over_http(
            receiver,
            OTEL_EXPORTER_OTLP_LOGS_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=receiver.grpc_endpoint,
        )
        with room(environ) as sdk:
            sdk.span()
            sdk.log()
            assert sdk.flush()
        assert {request.transport for request in receiver.requests_for("traces")} == {"http"}
        assert {request.transport for request in receiver.requests_for("logs")} == {"grpc"}

    def test_headers_and_compression_are_the_users(self, receiver):
        environ = over_http(
            receiver, OTEL_EXPORTER_OTLP_HEADERS="api-key=secret", OTEL_EXPORTER_OTLP_COMPRESSION="gzip"
        )
        names = ["first", "x" * 9_000, "third"]
        with room(environ) as sdk:
            for name in names:
                sdk.span(name)
                assert sdk.flush()
        for request in receiver.requests_for("traces"):
            assert request.headers["api-key"] == "secret"
            assert request.headers["content-encoding"] == "gzip"
        assert [item.span.name for item in receiver.spans] == names

    @pytest.mark.parametrize("protocol", ["HTTP/Protobuf", "GRPC"])
    @pytest.mark.parametrize("compression", ["None", "GZIP", "Deflate"])
    def test_what_the_check_accepts_works_in_any_case(self, receiver, protocol, compression):
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint if protocol == "GRPC" else receiver.http_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
            "OTEL_METRICS_EXEMPLAR_FILTER": "ALWAYS_ON",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "DELTA",
            "OTEL_TRACES_EXPORTER": "OTLP",
            "OTEL_TRACES_SAMPLER": "ALWAYS_ON",
        }
        settings = _config.load(environ)
        assert settings.problems == ()
        with room(dict(settings.environ)) as sdk:
            sdk.span()
            sdk.log()
            sdk.measure()
            assert sdk.flush()
            assert sdk.providers.tracer_provider.sampler is ALWAYS_ON
        assert sdk.reports == []
        assert receiver.spans
        assert receiver.log_records
        assert receiver.metrics

    def test_without_a_flush_items_go_out_after_the_schedule_delay(self, receiver):
        environ = over_http(receiver, OTEL_BSP_SCHEDULE_DELAY="20", OTEL_METRIC_EXPORT_INTERVAL="20")
        with room(environ) as sdk:
            sdk.measure()
            sdk.span()
            receiver.wait_for(lambda got: got.spans and got.metrics)

    def test_a_full_batch_goes_out_at_once(self, receiver):
        with room(over_http(receiver, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4")) as sdk:
            for _ in range(4):
                sdk.span()
            receiver.wait_for(lambda got: len(got.spans) == 4)

    def test_metrics_alone_need_no_first_item(self, receiver):
        environ = over_http(
            receiver, OTEL_TRACES_EXPORTER="none", OTEL_LOGS_EXPORTER="none", OTEL_METRIC_EXPORT_INTERVAL="20"
        )
        with room(environ) as sdk:
            sdk.measure()
            receiver.wait_for(lambda got: "test.duration" in {item.metric.name for item in got.metrics})

    def test_an_unsampled_span_stays(self, receiver):
        with room(over_http(receiver, OTEL_TRACES_SAMPLER="always_off")) as sdk:
            sdk.span()
            assert sdk.flush()
        assert receiver.spans == []

    def test_shutdown_sends_what_waits_and_ends_the_thread(self, receiver):
        with room(over_http(receiver)) as sdk:
            sdk.span()
            sdk.log()
            sdk.measure()
            assert len(export_threads()) == 1
            assert sdk.providers.shutdown(10)
            assert export_threads() == []
        assert (len(receiver.spans), len(receiver.log_records)) == (1, 1)
        assert "test.duration" in {item.metric.name for item in receiver.metrics}

    def test_the_sdks_own_flush_and_shutdown_go_the_same_way(self, receiver):
        with room(over_http(receiver)) as sdk:
            sdk.span()
            sdk.log()
            sdk.measure()
            for provider, signal in (
                (sdk.providers.logger_provider, "logs"),
                (sdk.providers.meter_provider, "metrics"),
                (sdk.providers.tracer_provider, "traces"),
            ):
                assert provider.force_flush()
                # Each its own signal alone.
                assert receiver.requests[-1].signal == signal
            assert len(receiver.requests) == 3
            assert receiver.spans
            assert receiver.log_records
            assert receiver.metrics
            sdk.span()
            sdk.providers.tracer_provider.shutdown()
            assert len(receiver.spans) == 2

    def test_a_loopback_endpoint_never_uses_a_proxy(self, receiver, monkeypatch):
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "grpc_proxy"):
            monkeypatch.setenv(variable, unused_endpoint())
        for environ in (
            over_http(receiver),
            {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        ):
            with room(environ) as sdk:
                sdk.span()
                assert sdk.flush()

    def test_another_endpoint_uses_the_proxy_and_honours_no_proxy(self, receiver, monkeypatch):
        monkeypatch.setenv("http_proxy", receiver.http_endpoint)
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.invalid:4318", "OTEL_METRICS_EXPORTER": "none"}
        with room(environ) as sdk:
            for _ in range(2):
                sdk.span()
                sdk.flush()
        # A proxy is asked for the whole URL.
        assert [request.signal for request in receiver.requests] == ["http://collector.invalid:4318/v1/traces"] * 2
        monkeypatch.setenv("no_proxy", "collector.invalid")
        with room(environ) as sdk:
            sdk.span()
            sdk.flush()
        assert len(receiver.requests) == 2


class TestRetry:
    @pytest.mark.parametrize(
        "answer", [*(Answer(status_code=code) for code in (429, 502, 503, 504)), Answer(reset=True)], ids=repr
    )
    def test_a_temporary_failure_keeps_the_batch(self, receiver, answer):
        receiver.script(answer)
        with room(over_http(receiver)) as sdk:
            sdk.span("first")
            assert not sdk.flush()
            sdk.span("second")
            assert sdk.flush()
        assert [item.span.name for item in receiver.spans] == ["first", "second"]
        assert sdk.events() == ["export failed", "export works again"]
        assert "dropped_spans" not in sdk.reports[-1].fields

    def test_a_kept_connection_that_the_receiver_closed_is_no_failure(self, receiver):
        with room(over_http(receiver)) as sdk:
            sdk.span()
            assert sdk.flush()
            receiver.script(Answer(reset=True))
            sdk.span()
            assert sdk.flush()
        assert len(receiver.spans) == 2
        assert sdk.reports == []

    def test_the_thread_tries_again_by_itself(self, receiver):
        receiver.script(Answer(status_code=503))
        with room(over_http(receiver, OTEL_BSP_SCHEDULE_DELAY="10")) as sdk:
            sdk.span()
            receiver.wait_for(lambda got: got.spans)
        assert len(receiver.requests_for("traces")) == 2

    def test_retry_after_is_waited_for(self, receiver):
        receiver.script(Answer(status_code=503, retry_after="0"))
        receiver.default_answer = Answer(status_code=429, retry_after="200")
        with room(over_http(receiver, OTEL_BSP_SCHEDULE_DELAY="5", OTEL_METRICS_EXPORTER="none")) as sdk:
            sdk.span()
            # Soon after the first answer, not within the test after the second.
            receiver.wait_for(lambda got: len(got.requests) == 2, timeout_seconds=5)
            with pytest.raises(AssertionError, match="got 2 requests"):
                receiver.wait_for(lambda got: len(got.requests) > 2, timeout_seconds=1.5)
            receiver.default_answer = Answer()

    def test_a_retry_after_that_is_over_asks_for_nothing(self, receiver):
        receiver.default_answer = Answer(status_code=503, retry_after="0")
        environ = over_http(receiver, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="1", OTEL_METRICS_EXPORTER="none")
        with room(environ) as sdk:
            # A full batch is due at once, and so would be each further try.
            sdk.span()
            receiver.wait_for(lambda got: got.requests)
            with pytest.raises(AssertionError):
                receiver.wait_for(lambda got: len(got.requests) > 9, timeout_seconds=1.0)
            receiver.default_answer = Answer()

    @pytest.mark.parametrize("code", [302, 400, 401, 404, 500])
    def test_a_final_failure_drops_the_batch_and_tells_why(self, receiver, code):
        receiver.script(Answer(status_code=code, headers={"Location": receiver.http_endpoint}))
        with room(over_http(receiver, OTEL_METRICS_EXPORTER="none")) as sdk:
            for _ in range(3):
                sdk.log()
            sdk.flush()
            assert len(receiver.requests) == 1
            [report] = sdk.reports
            assert (report.event, report.level) == ("export failed", logging.WARNING)
            assert report.fields["dropped_log_records"] == 3
            assert report.fields["signal"] == "logs"
            assert report.fields["endpoint"] == receiver.http_endpoint
            assert f"HTTP {code}" in report.fields["reason"]
        assert receiver.log_records == []

    def test_a_batch_that_is_too_large_is_halved(self, receiver):
        with room(over_http(receiver)) as sdk:
            for number in range(4):
                sdk.span(str(number))
            receiver.script(*[Answer(status_code=413)] * 2)
            assert sdk.flush()
        assert [request.items for request in receiver.requests_for("traces")] == [4, 2, 1, 1, 2]
        assert [item.span.name for item in receiver.spans] == ["0", "1", "2", "3"]
        assert sdk.reports == []

    def test_one_item_that_is_too_large_is_dropped_alone(self, receiver):
        with room(over_http(receiver)) as sdk:
            sdk.span("huge")
            sdk.span("small")
            receiver.script(Answer(status_code=413), Answer(status_code=413))
            sdk.flush()
        assert [item.span.name for item in receiver.spans] == ["small"]
        assert sdk.reports[0].fields["dropped_spans"] == 1

    def test_a_temporary_failure_of_a_half_keeps_both_in_order(self, receiver):
        with room(over_http(receiver)) as sdk:
            for number in range(4):
                sdk.span(str(number))
            receiver.script(Answer(status_code=413), Answer(status_code=503))
            assert not sdk.flush()
            assert sdk.flush()
        assert [item.span.name for item in receiver.spans] == ["0", "1", "2", "3"]

    def test_what_a_receiver_refuses_of_a_batch_is_told(self, receiver):
        receiver.script(Answer(rejected=2, message="too old"))
        with room(over_http(receiver)) as sdk:
            sdk.span()
            sdk.span()
            sdk.flush()
        [report] = sdk.reports
        assert report.event == "telemetry dropped"
        assert report.fields["dropped_spans"] == 2
        assert "too old" in report.fields["reason"]

    def test_an_answer_that_cannot_be_read_is_a_delivery(self, receiver, monkeypatch):
        monkeypatch.setattr(_diagnostics, "reraise", False)
        # As where the installed release of protobuf is another one than those that OpenTelemetry's messages need.
        monkeypatch.setitem(sys.modules, "opentelemetry.proto.collector.trace.v1.trace_service_pb2", None)
        receiver.default_answer = Answer(message="a remark")
        # Less than all of them weigh: what was delivered does not count.
        with room(over_http(receiver, OTEL_METRICS_EXPORTER="none"), queue_bytes=8_000) as sdk:
            for _ in range(9):
                sdk.span()
                assert sdk.flush()
        assert len(receiver.spans) == 9
        assert sdk.reports == []

    def test_over_grpc_a_batch_is_kept_too(self, receiver):
        receiver.script(Answer(grpc_status="INVALID_ARGUMENT"))
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        with room(environ) as sdk:
            sdk.span()
            assert not sdk.flush()
            assert "INVALID_ARGUMENT" in sdk.reports[0].fields["reason"]
            assert sdk.flush()
        assert len(receiver.spans) == 1

    def test_over_grpc_a_batch_is_tried_a_bounded_number_of_times(self, receiver):
        receiver.default_answer = Answer(grpc_status="INVALID_ARGUMENT")
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_METRICS_EXPORTER": "none",
        }
        with room(environ) as sdk:
            sdk.span()
            for _ in range(5):
                assert not sdk.flush()
            assert sdk.flush()
        assert len(receiver.requests) == 5

    def test_metrics_are_not_kept_and_come_again(self, receiver):
        receiver.script(Answer(status_code=503))
        with room(over_http(receiver, OTEL_TRACES_EXPORTER="none", OTEL_LOGS_EXPORTER="none")) as sdk:
            sdk.measure()
            assert not sdk.flush()
            sdk.measure()
            assert sdk.flush()
            [metric] = [item.metric for item in receiver.metrics if item.metric.name == "test.duration"]
            assert metric.histogram.data_points[0].count == 2


EXPORTERS = ("grpc.trace_exporter", "grpc._log_exporter")


@pytest.mark.parametrize("transport", ["http", "grpc"])
class TestEncoder:
    @staticmethod
    def environ(receiver, transport):
        endpoint = receiver.grpc_endpoint if transport == "grpc" else receiver.http_endpoint
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if transport == "grpc" else "http/protobuf",
        }

    def test_the_exporters_own_encoder_has_nothing_to_do(self, receiver, transport, monkeypatch):
        homes = ("common.trace_encoder", "common._log_encoder") if transport == "http" else EXPORTERS
        for home, name, encode in zip(homes, ("encode_spans", "encode_logs"), (encode_spans, encode_logs)):

            def checked(batch, encode=encode):
                assert not batch
                return encode(batch)

            monkeypatch.setattr(f"opentelemetry.exporter.otlp.proto.{home}.{name}", checked)
        with room(self.environ(receiver, transport)) as sdk:
            for number in range(3):
                sdk.span(f"span {number}")
                sdk.log(f"line {number}", text="x")
            assert sdk.flush()
        assert [item.span.name for item in receiver.spans] == ["span 0", "span 1", "span 2"]
        assert [item.record.body.string_value for item in receiver.log_records] == ["line 0", "line 1", "line 2"]
        assert sdk.reports == []

    def test_what_ours_fails_on_goes_through_the_exporters_own(self, receiver, transport, monkeypatch):
        def broken(_batch):
            raise KeyError("a mistake of ours")

        monkeypatch.setattr(_diagnostics, "reraise", False)
        for module in ("_exporters", "_otlp_http"):
            encoders = {**ENCODERS, "traces": broken, "logs": broken}
            monkeypatch.setattr(f"ts_otel_logging._sdk.{module}.ENCODERS", encoders)
        before = _diagnostics.counts.get("encoder", 0)
        with room(self.environ(receiver, transport)) as sdk:
            sdk.span()
            sdk.log()
            assert sdk.flush()
        assert (len(receiver.spans), len(receiver.log_records)) == (1, 1)
        assert _diagnostics.counts["encoder"] == before + 2


class TestAbsentEndpoint:
    def test_one_plain_report_for_all_signals(self):
        endpoint = unused_endpoint()
        with room({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, shutdown_seconds=0) as sdk:
            for _ in range(3):
                sdk.span()
                sdk.log()
                sdk.measure()
                assert not sdk.flush()
            assert sdk.events() == ["export failed"]
            [report] = sdk.reports
            assert report.fields["reason"] == "ConnectionRefusedError: Connection refused"
            assert report.fields["endpoint"] == endpoint

    def test_what_is_lost_at_the_end_is_counted(self):
        with room({"OTEL_EXPORTER_OTLP_ENDPOINT": unused_endpoint(), "OTEL_METRICS_EXPORTER": "none"}) as sdk:
            for _ in range(5):
                sdk.span()
            assert not sdk.providers.shutdown(5)
            assert sdk.reports[-1].event == "telemetry dropped"
            assert sdk.reports[-1].fields["dropped_spans"] == 5

    def test_the_sdks_own_loggers_stay_quiet_and_get_their_way_back(self, caplog):
        with room({"OTEL_EXPORTER_OTLP_ENDPOINT": unused_endpoint()}) as sdk:
            sdk.span()
            sdk.flush()
            assert not logging.getLogger("opentelemetry.exporter").propagate
        assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []
        assert logging.getLogger("opentelemetry.exporter").propagate
        assert logging.getLogger("opentelemetry.sdk").handlers == []

    def test_the_http_clients_loggers_stay_quiet_on_the_export_thread_alone(self, receiver, caplog):
        caplog.set_level(logging.DEBUG)
        names = [name for name in logging.Logger.manager.loggerDict if name.startswith("urllib3")]
        filters = {name: list(logging.getLogger(name).filters) for name in names}
        receiver.default_answer = Answer(hang=True)
        with room(over_http(receiver, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="1"), shutdown_seconds=0) as sdk:
            sdk.span()
            receiver.wait_for(lambda got: got.requests)
            # Another thread's requests, while an export is going on.
            with contextlib.suppress(requests.ConnectionError):
                requests.get(unused_endpoint(), timeout=5)
            receiver.default_answer = Answer()
        with room(over_http(receiver)) as sdk:
            sdk.span()
            sdk.log()
            sdk.measure()
            assert sdk.flush()
        threads = {record.threadName for record in caplog.records if record.name.startswith("urllib3")}
        assert threads == {threading.current_thread().name}
        assert {name: list(logging.getLogger(name).filters) for name in names} == filters

    def test_the_probe_is_quiet_too(self, receiver, caplog):
        caplog.set_level(logging.DEBUG)
        assert all(destination.answers for destination in probe(over_http(receiver), ""))
        assert [record for record in caplog.records if record.name.startswith("urllib3")] == []

    def test_a_misuse_that_the_sdk_complains_about_is_reported_once(self):
        with room({"OTEL_EXPORTER_OTLP_ENDPOINT": unused_endpoint()}, shutdown_seconds=0) as sdk:
            span = sdk.providers.tracer_provider.get_tracer("test").start_span("twice")
            for _ in range(3):
                span.end()
            assert sdk.events() == ["Calling end() on an ended span."]

    def test_a_caller_never_waits_for_a_hanging_receiver(self, receiver):
        receiver.default_answer = Answer(hang=True)
        environ = over_http(
            receiver,
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8",
            OTEL_BSP_MAX_QUEUE_SIZE="64",
            OTEL_EXPORTER_OTLP_TIMEOUT="60",
        )
        with room(environ, shutdown_seconds=0) as sdk:
            longest = 0.0
            for _ in range(500):
                started = time.perf_counter()
                sdk.span()
                longest = max(longest, time.perf_counter() - started)
            receiver.wait_for(lambda got: got.requests)
            started = time.perf_counter()
            assert not sdk.flush(timeout_seconds=0.2)
            assert time.perf_counter() - started < 5
            # Far from the time-out of 60 s; the benchmark measures it properly.
            assert longest < 1


class TestReports:
    def test_a_failing_destination_is_told_once_a_minute(self, monkeypatch):
        now = 0.0
        monkeypatch.setattr("ts_otel_logging._sdk._health.time.monotonic", lambda: now)
        told = []
        health = Health(lambda event, **fields: told.append((event, fields)), "http://collector:4318")
        for now in range(0, 130, 10):  # noqa: B007 - the clock reads it
            health.dropped("traces", 1)
            health.failed("traces", "no answer")
            health.failed("logs", "no answer")
        assert [event for event, _ in told] == ["export failed"] * 3
        assert [fields["dropped_spans"] for _, fields in told] == [1, 6, 6]
        health.worked("logs")
        assert len(told) == 3
        health.worked("traces")
        assert told[-1][0] == "export works again"


class TestRetryAfter:
    def test_seconds(self):
        assert parse_retry_after("7") == 7

    def test_a_date(self):
        assert parse_retry_after(formatdate(time.time() + 20, usegmt=True)) == pytest.approx(20, abs=2)

    @pytest.mark.parametrize(("text", "seconds"), [("-5", 0), ("1e9", 300), ("nan", None), ("", None), ("soon", None)])
    def test_what_is_out_of_reason(self, text, seconds):
        assert parse_retry_after(text) == seconds


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://localhost:4318", True),
        ("http://127.8.0.1:4318/v1/traces", True),
        ("http://[::1]:4318", True),
        ("localhost:4317", True),
        ("http://collector:4318", False),
        ("http://10.0.0.1", False),
        ("nonsense", False),
    ],
)
def test_loopback(endpoint, expected):
    assert is_loopback(endpoint) is expected


def test_every_thread_may_emit_at_once(receiver):
    with room(
        over_http(receiver, OTEL_BSP_MAX_QUEUE_SIZE="100000", OTEL_BSP_SCHEDULE_DELAY="5"), queue_bytes=10**9
    ) as sdk:
        threads = [threading.Thread(target=lambda: [sdk.span() for _ in range(500)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sdk.flush()
        ids = [item.span.span_id for item in receiver.spans]
        assert len(ids) == len(set(ids)) == 2000
