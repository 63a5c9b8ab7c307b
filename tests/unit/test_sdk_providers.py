"""Which providers the environment asks for, their resource and ids, and what is said when one cannot be had."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import textwrap
import types
import uuid

import pytest
from opentelemetry import _logs, trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, MetricExportResult
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

from otlp_receiver import OtlpReceiver, unused_endpoint
from sdk_room import room

NOTHING = {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
SPANS_ONLY = {"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
UUID_NAMESPACE = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")


@pytest.fixture
def register(monkeypatch):
    """Register something under an entry point group, as an installed package would."""
    registered = {}
    module = "ts_otel_logging._sdk._exporters"
    original = sys.modules[module].entry_points

    def entry_points(*, group, name):
        if (group, name) in registered:
            return [types.SimpleNamespace(load=lambda: registered[group, name])]
        return original(group=group, name=name)

    monkeypatch.setattr(f"{module}.entry_points", entry_points)
    return lambda group, name, thing: registered.__setitem__((group, name), thing)


class TestChoice:
    def test_a_signal_without_an_exporter_is_off(self):
        with room({**NOTHING, "OTEL_LOGS_EXPORTER": "console"}) as sdk:
            assert sdk.providers.logger_provider is not None
            assert sdk.providers.meter_provider is None
            assert sdk.providers.describe() == {"traces": "off", "logs": "console stderr", "metrics": "off"}

    def test_without_an_exporter_spans_still_have_ids(self):
        with room(NOTHING) as sdk:
            context = sdk.providers.tracer_provider.get_tracer("t").start_span("s").get_span_context()
            assert context.is_valid
            assert context.trace_flags.sampled

    def test_disabled_means_nothing_at_all(self):
        with room({"OTEL_SDK_DISABLED": "true"}) as sdk:
            assert (
                sdk.providers.tracer_provider is sdk.providers.logger_provider is sdk.providers.meter_provider is None
            )
            assert sdk.flush()

    def test_the_description_has_no_secrets(self):
        endpoint = "http://user:secret@collector:4318/v1/traces?key=secret"
        with room({**SPANS_ONLY, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}) as sdk:
            assert sdk.providers.describe()["traces"] == "otlp http://collector:4318/v1/traces"

    def test_several_exporters_get_everything(self, register):
        one, other = InMemorySpanExporter(), InMemorySpanExporter()
        register("opentelemetry_traces_exporter", "one", lambda: one)
        register("opentelemetry_traces_exporter", "other", lambda: other)
        with room({**SPANS_ONLY, "OTEL_TRACES_EXPORTER": "one, other"}) as sdk:
            sdk.span("predict")
            assert sdk.flush()
            assert [span.name for span in one.get_finished_spans()] == ["predict"]
            assert [span.name for span in other.get_finished_spans()] == ["predict"]

    def test_a_registered_metric_reader_serves_by_itself(self, register):
        reader = InMemoryMetricReader()
        register("opentelemetry_metrics_exporter", "pull", lambda: reader)
        with room({**NOTHING, "OTEL_METRICS_EXPORTER": "pull"}) as sdk:
            sdk.measure()
            assert reader.get_metrics_data().resource_metrics

    def test_a_registered_metric_exporter_is_collected_for(self, register):
        exported = []

        class Exporter(MetricExporter):
            def export(self, metrics_data, timeout_millis=10_000, **kwargs):
                exported.append(metrics_data)
                return MetricExportResult.SUCCESS

            def force_flush(self, timeout_millis=10_000):
                return True

            def shutdown(self, timeout_millis=30_000, **kwargs):
                pass

        register("opentelemetry_metrics_exporter", "mine", Exporter)
        with room({**NOTHING, "OTEL_METRICS_EXPORTER": "mine"}) as sdk:
            sdk.measure()
            assert sdk.flush()
            assert len(exported) == 1

    def test_an_exporter_that_cannot_be_built_is_off_alone_and_told(self, register):
        def broken():
            raise RuntimeError("no licence")

        register("opentelemetry_traces_exporter", "broken", broken)
        with room({**NOTHING, "OTEL_TRACES_EXPORTER": "broken", "OTEL_LOGS_EXPORTER": "console"}) as sdk:
            assert sdk.providers.describe()["traces"] == "off"
            assert sdk.providers.logger_provider is not None
            [report] = sdk.reports
            assert report.event == "exporter off"
            assert report.fields == {
                "signal": "traces",
                "exporter": "broken",
                "reason": "RuntimeError: no licence",
            }

    @pytest.mark.parametrize(
        "environ",
        [
            {"OTEL_TRACES_EXPORTER": "zipkin-of-the-moon"},
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        ],
        ids=str,
    )
    def test_a_setting_that_names_nothing_is_told(self, environ):
        with room({**SPANS_ONLY, **environ}) as sdk:
            assert sdk.providers.describe()["traces"] == "off"
            assert sdk.events() == ["exporter off"]

    def test_an_exporter_that_raises_costs_only_what_it_stumbles_on(self, register):
        class Picky(InMemorySpanExporter):
            def export(self, spans):
                if any(span.name == "poison" for span in spans):
                    raise TypeError("cannot encode")
                return super().export(spans)

        exporter = Picky()
        register("opentelemetry_traces_exporter", "picky", lambda: exporter)
        with room({**SPANS_ONLY, "OTEL_TRACES_EXPORTER": "picky"}) as sdk:
            for name in ("a", "poison", "b", "c"):
                sdk.span(name)
            sdk.flush()
            assert [span.name for span in exporter.get_finished_spans()] == ["a", "b", "c"]
            assert sdk.reports[0].fields["dropped_spans"] == 1
            assert "cannot encode" in sdk.reports[0].fields["reason"]

    def test_console_writes_one_line_of_json_an_item_to_stderr(self, capsys):
        environ = dict.fromkeys(NOTHING, "console")
        with room(environ) as sdk:
            sdk.span("predict")
            sdk.log("a line\nof two")
            sdk.measure()
            assert sdk.flush()
            out, err = capsys.readouterr()
        assert out == ""
        items = [json.loads(line) for line in err.splitlines()]
        names = [item.get("name") or item.get("body") for item in items]
        assert {"predict", "a line\nof two", "test.duration"} <= set(names)

    def test_what_is_sent_over_http_needs_neither_requests_nor_protobuf(self):
        program = textwrap.dedent("""
            import logging, sys
            import ts_otel_logging
            ts_otel_logging.configure(capture=False)
            with ts_otel_logging.span("predict"):
                logging.warning("a line")
            assert ts_otel_logging.force_flush(10)
            print(*sorted({"grpc", "requests", "urllib3", "google.protobuf", "structlog"} & set(sys.modules)))
        """)
        with OtlpReceiver() as receiver:
            environ = {
                **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TS_OTEL_"))},
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            }
            command = [sys.executable, "-c", program]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
            assert receiver.log_records
            assert receiver.metrics
        assert not done.stdout.splitlines()[-1].strip()

    def test_a_transport_is_imported_only_when_chosen(self):
        program = textwrap.dedent("""
            import sys
            from ts_otel_logging._sdk import build_providers
            build_providers(
                dict(OTEL_TRACES_EXPORTER=sys.argv[1], OTEL_LOGS_EXPORTER="none", OTEL_METRICS_EXPORTER="none",
                     OTEL_EXPORTER_OTLP_PROTOCOL=sys.argv[2]),
                resource_attributes={}, queue_bytes=1, file_dir="", worker_name=None, report=print)
            print(*sorted({"grpc", "requests", "urllib3", "google.protobuf"} & set(sys.modules)))
        """)

        def imported(*arguments):
            command = [sys.executable, "-c", program, *arguments]
            environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            return subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout.split()

        assert imported("otlp", "http/protobuf") == []
        assert "grpc" not in imported("console", "grpc")
        assert "grpc" in imported("otlp", "grpc")


class TestSettingsOfTheSdk:
    def test_what_was_found_wrong_is_not_read_from_the_process_again(self, monkeypatch):
        monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", " ")
        environ = {**SPANS_ONLY, "OTEL_SPAN_EVENT_COUNT_LIMIT": "1", "OTEL_EXPORTER_OTLP_TIMEOUT": " "}
        with room(environ) as sdk:
            assert sdk.reports == []
            span = sdk.providers.tracer_provider.get_tracer("test").start_span("predict")
            span.add_event("one")
            span.add_event("two")
            assert len(span.events) == 1
        assert os.environ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"] == "many"
        assert os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == ""
        assert "OTEL_SPAN_EVENT_COUNT_LIMIT" not in os.environ

    def test_a_signal_whose_provider_cannot_be_built_is_off_alone(self):
        environ = {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many", "OTEL_METRICS_EXPORTER": "none"}
        with room({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": unused_endpoint()}) as sdk:
            assert sdk.providers.tracer_provider is None
            assert sdk.providers.describe()["traces"] == "off"
            assert sdk.providers.logger_provider is not None
            assert sdk.events() == ["signal off"]

    def test_propagators_are_those_that_were_checked(self):
        program = textwrap.dedent("""
            from ts_otel_logging import _config
            from ts_otel_logging._sdk import build_providers
            import os
            environ = _config.load(os.environ).environ
            build_providers(environ, resource_attributes={}, queue_bytes=1, file_dir="", worker_name=None, report=print)
            from opentelemetry.propagate import get_global_textmap
            print(*sorted(get_global_textmap().fields))
        """)

        def fields(propagators, **more):
            environ = {**os.environ, **NOTHING, **more, "OTEL_PROPAGATORS": propagators}
            environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            command = [sys.executable, "-c", program]
            return subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout.split()

        # OpenTelemetry's API raises on an empty name.
        assert fields("baggage,") == ["baggage"]
        assert fields("pigeon", OTEL_SDK_DISABLED="true") == ["baggage", "traceparent", "tracestate"]

    def test_the_samplers_of_the_specification(self):
        with room({**SPANS_ONLY, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}) as sdk:
            assert "0.25" in sdk.providers.tracer_provider.sampler.get_description()

    def test_a_registered_sampler(self, register):
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        register("opentelemetry_traces_sampler", "mine", lambda argument: ALWAYS_OFF if argument == "x" else None)
        with room({**SPANS_ONLY, "OTEL_TRACES_SAMPLER": "mine", "OTEL_TRACES_SAMPLER_ARG": "x"}) as sdk:
            assert sdk.providers.tracer_provider.sampler is ALWAYS_OFF

    def test_a_span_that_is_only_recorded_is_not_exported(self, register):
        from opentelemetry.sdk.trace.sampling import Decision, StaticSampler

        exporter = InMemorySpanExporter()
        register("opentelemetry_traces_exporter", "memory", lambda: exporter)
        register("opentelemetry_traces_sampler", "record", lambda _: StaticSampler(Decision.RECORD_ONLY))
        environ = {**SPANS_ONLY, "OTEL_TRACES_EXPORTER": "memory", "OTEL_TRACES_SAMPLER": "record"}
        with room(environ) as sdk:
            sdk.span()
            assert sdk.flush()
            assert exporter.get_finished_spans() == ()


class TestIds:
    def ids(self, sdk):
        tracer = sdk.providers.tracer_provider.get_tracer("test")
        context = tracer.start_span("predict").get_span_context()
        return context.trace_id, context.span_id

    def test_a_model_that_seeds_the_generator_does_not_repeat_ids(self):
        with room(SPANS_ONLY) as sdk:
            random.seed(1)
            first = self.ids(sdk)
            random.seed(1)
            second = self.ids(sdk)
        assert first[0] != second[0]
        assert first[1] != second[1]

    def test_a_registered_generator_is_used(self, register):
        class Ones(IdGenerator):
            def generate_span_id(self):
                return 1

            def generate_trace_id(self):
                return 1

        register("opentelemetry_id_generator", "ones", Ones)
        with room({**SPANS_ONLY, "OTEL_PYTHON_ID_GENERATOR": "ones"}) as sdk:
            assert self.ids(sdk) == (1, 1)

    def test_a_generator_that_does_not_exist_is_told_and_replaced(self):
        with room({**SPANS_ONLY, "OTEL_PYTHON_ID_GENERATOR": "dice"}) as sdk:
            assert self.ids(sdk)[0] > 1
            assert sdk.reports[0].fields["variable"] == "OTEL_PYTHON_ID_GENERATOR"


class TestResource:
    def resource(self, environ=None, **changes):
        with room({**SPANS_ONLY, **(environ or {})}, **changes) as sdk:
            return dict(sdk.providers.tracer_provider.resource.attributes)

    def test_defaults(self):
        attributes = self.resource(resource_attributes={"torchserve.version": "0.12.0"})
        assert attributes["service.name"] == "torchserve"
        assert attributes["torchserve.version"] == "0.12.0"
        assert attributes["process.pid"] == os.getpid()
        assert attributes["telemetry.sdk.language"] == "python"
        assert attributes["service.instance.id"] == str(uuid.uuid5(UUID_NAMESPACE, f"{socket.gethostname()}/9000"))

    def test_the_instance_is_the_same_after_a_restart_and_unique_among_workers(self):
        first, again = (self.resource(worker_name="9000")["service.instance.id"] for _ in range(2))
        assert first == again
        assert len({first, *(self.resource(worker_name=name)["service.instance.id"] for name in ("9001", None))}) == 3

    def test_the_pod_counts_not_the_host(self):
        pods = [{"OTEL_RESOURCE_ATTRIBUTES": f"k8s.pod.uid={name}"} for name in ("a", "b")]
        assert len({self.resource(pod)["service.instance.id"] for pod in pods}) == 2

    @pytest.mark.parametrize(
        "environ",
        [{"OTEL_SERVICE_NAME": "digits"}, {"OTEL_RESOURCE_ATTRIBUTES": "service.name=digits,deployment=a%20b"}],
        ids=str,
    )
    def test_the_environment_wins(self, environ):
        assert self.resource(environ)["service.name"] == "digits"

    def test_an_instance_from_the_environment_is_kept(self):
        environ = {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=mine,torchserve.version=9"}
        attributes = self.resource(environ, resource_attributes={"torchserve.version": "0.12.0"})
        assert attributes["service.instance.id"] == "mine"
        assert attributes["torchserve.version"] == "9"


class TestConfigFile:
    @pytest.fixture
    def upstream(self, monkeypatch):
        """Stand in for the package opentelemetry-configuration, which the oldest environment cannot have."""
        exporter = InMemorySpanExporter()
        module = types.ModuleType("opentelemetry.configuration")
        provider = TracerProvider(shutdown_on_exit=False)
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        def configure_sdk(config):
            if config == "bad":
                raise ValueError("no such exporter")
            provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=600_000))
            monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

        # Another test of this process may have set one, which the API hands out for ever.
        monkeypatch.setattr(_logs._internal, "_LOGGER_PROVIDER", None)
        module.load_config_file = lambda path: path
        module.configure_sdk = configure_sdk
        monkeypatch.setitem(sys.modules, "opentelemetry.configuration", module)
        return exporter

    def test_the_file_alone_defines_the_providers(self, upstream):
        with room({"OTEL_CONFIG_FILE": "otel.yaml", "OTEL_LOGS_EXPORTER": "console"}) as sdk:
            assert sdk.providers.logger_provider is None
            assert sdk.providers.describe()["traces"] == "as otel.yaml says"
            sdk.span("predict")
            assert sdk.flush()
            assert [span.name for span in upstream.get_finished_spans()] == ["predict"]

    def test_a_file_that_is_wrong_is_told(self, upstream):
        with room({"OTEL_CONFIG_FILE": "bad"}) as sdk:
            assert sdk.providers.tracer_provider is None
            assert sdk.reports[0].fields["reason"] == "ValueError: no such exporter"

    def test_a_missing_package_is_told(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "opentelemetry.configuration", None)
        with OtlpReceiver() as receiver:
            environ = {"OTEL_CONFIG_FILE": "otel.yaml", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint}
            with room(environ) as sdk:
                assert sdk.providers.tracer_provider is None
                assert "not installed" in sdk.reports[0].fields["reason"]
            assert receiver.requests == []
