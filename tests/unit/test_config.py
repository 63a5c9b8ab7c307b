"""Settings: what is accepted, and what a user is told about what is not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from opentelemetry.util.re import parse_env_headers

from ts_otel_logging import _config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("1", True), ("true", True), ("ON", True), (" yes ", True),
        (None, False), ("", False), ("0", False), ("False", False), ("off", False), ("no", False),
        ("2", None), ("enable", None),
    ],
)  # fmt: skip
def test_the_switch(text: str | None, meaning: bool | None) -> None:
    assert _config.parse_switch(text) is meaning


def test_defaults_are_those_of_the_contract() -> None:
    settings = _config.load({})
    assert settings.problems == ()
    assert settings["FORMAT"] == "structlog"
    assert settings["LEVEL"] == logging.INFO
    assert settings["FRONTEND"] == "json"
    assert settings["MAX_RECORD_BYTES"] == 16_000
    assert settings["QUEUE_BYTES"] == 4_194_304
    assert settings["LATENCY_FIELDS"] == ("inference_latency",)
    assert settings["RESPONSE_HEADERS"] == ()
    assert settings["TRUST"] == "parent"
    assert settings["SAMPLE_ERRORS"] == 0
    assert settings.file_dir == "logs/otlp"
    assert _config.load({"LOG_LOCATION": "/var/log/ts"}).file_dir == "/var/log/ts/otlp"
    assert settings.exception_events


def test_values_are_read() -> None:
    settings = _config.load(
        {
            "TS_OTEL_LOGGING_LEVEL": "debug",
            "TS_OTEL_LOGGING_LEVELS": "acme=ERROR, ts.service = 15",
            "TS_OTEL_LOGGING_RESPONSE_HEADERS": "Server-Timing, traceparent",
            "TS_OTEL_LOGGING_HEADERS": "X-Tenant, user-agent, x-tenant",
            "TS_OTEL_LOGGING_TRUST": "Link",
            "TS_OTEL_LOGGING_SAMPLE_ERRORS": "0.5",
            "TS_OTEL_LOGGING_LATENCY_FIELDS": "a,b",
            "TS_OTEL_LOGGING_FILE_DIR": "/data",
            "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs",
        }
    )
    assert settings.problems == ()
    assert settings["LEVEL"] == logging.DEBUG
    assert settings["LEVELS"] == {"acme": logging.ERROR, "ts.service": 15}
    assert settings["RESPONSE_HEADERS"] == ("server-timing", "traceparent")
    assert settings["HEADERS"] == ("x-tenant", "user-agent")
    assert settings["TRUST"] == "link"
    assert settings["SAMPLE_ERRORS"] == 0.5
    assert settings["LATENCY_FIELDS"] == ("a", "b")
    assert settings.file_dir == "/data"
    assert not settings.exception_events


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("TS_OTEL_LOGGING", "maybe", "true"),
        ("TS_OTEL_LOGGING_FORMAT", "xml", "structlog"),
        ("TS_OTEL_LOGGING_LEVEL", "LOUD", "WARNING"),
        ("TS_OTEL_LOGGING_LEVELS", "acme", "logger=LEVEL"),
        ("TS_OTEL_LOGGING_LEVELS", "acme=LOUD", "logger=LEVEL"),
        ("TS_OTEL_LOGGING_PROCESSORS", "no colon", "package.module:name"),
        ("TS_OTEL_LOGGING_FRONTEND", "yaml", "json, json+files, json-only, off"),
        ("TS_OTEL_LOGGING_RESPONSE_HEADERS", "etag", "server-timing"),
        ("TS_OTEL_LOGGING_HEADERS", "x-tenant:acme", "a request header's name"),
        ("TS_OTEL_LOGGING_MAX_RECORD_BYTES", "1k", "whole number"),
        ("TS_OTEL_LOGGING_QUEUE_BYTES", "1", "65536"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:port", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon", "http/protobuf, grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "zip", "gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "number of seconds"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000", "at most 600: OpenTelemetry for Python reads seconds"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "600.1", "at most 600"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file", "readable file"),
        ("OTEL_CONFIG_FILE", "/no/such/file", "readable file"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "parentbased_always_on"),
        ("OTEL_TRACES_SAMPLER", "always_on,always_off", "parentbased_always_on"),
        ("OTEL_LOGS_EXPORTER", ",", "comma-separated"),
        ("OTEL_TRACES_EXPORTER", "otlp,pigeon", "otlp_json_file"),
        ("OTEL_PROPAGATORS", "pigeon", "tracecontext"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "from 1"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "fast", "from 1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "milliseconds"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some", "trace_based"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1", "from 0"),
        ("OTEL_SDK_DISABLED", "perhaps", "true, false"),
        ("TS_OTEL_LOGGING_FROMAT", "structlog", "no such setting"),
        ("TS_OTEL_LOGGING_TRUST", "friends", "parent, link, ignore"),
        ("TS_OTEL_LOGGING_SAMPLE_ERRORS", "-1", "requests a second"),
        ("TS_OTEL_LOGGING_SAMPLE_ERRORS", "inf", "requests a second"),
        ("TS_OTEL_LOGGING_AGENT", "on", "nothing yet"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_is_accepted(variable: str, value: str, accepted: str) -> None:
    settings = _config.load({variable: value})
    (problem,) = settings.problems
    assert (problem.variable, problem.value) == (variable, value)
    assert accepted in problem.accepted
    assert variable not in settings.environ, "the SDK must not stumble over it"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://[::1]:4318/prefix"),
        ("OTEL_TRACES_EXPORTER", "console,otlp_json_file"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_PROPAGATORS", "tracecontext,baggage"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "600"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "0.5"),
        ("TS_OTEL_LOGGING_FORMAT", ""),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", " "),
    ],
)
def test_what_is_accepted_is_no_problem(variable: str, value: str) -> None:
    assert _config.load({variable: value}).problems == ()


@pytest.mark.parametrize(
    ("variable", "value", "seen"),
    [
        ("OTEL_SDK_DISABLED", "TRUE", "true"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "HTTP/PROTOBUF", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", " gRPC ", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "GZIP", "gzip"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "ALWAYS_ON", "always_on"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta", "delta"),
        ("OTEL_TRACES_SAMPLER", "ALWAYS_ON", "always_on"),
        ("OTEL_TRACES_EXPORTER", "OTLP, Console,", "otlp,console"),
        ("OTEL_PROPAGATORS", "NONE", "none"),
        ("OTEL_PROPAGATORS", "tracecontext, baggage,", "tracecontext,baggage"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", " http://Collector:4318/Path ", "http://Collector:4318/Path"),
    ],
)
def test_the_sdk_sees_the_specifications_spelling(variable: str, value: str, seen: str) -> None:
    settings = _config.load({variable: value})
    assert settings.problems == ()
    assert settings.environ == {variable: seen}


@pytest.mark.parametrize("signal", ["", "TRACES_", "LOGS_", "METRICS_"])
@pytest.mark.parametrize(
    ("text", "places", "holds"),
    [
        ("api-key: s3cr3t,x-team s3cr3t", "1, 2", None),
        ("x-a=1, api-key: s3cr3t ,x-b=2", "2", "x-a=1,x-b=2"),
        ("x-a=1,=s3cr3t", "2", "x-a=1"),
        ('x-a="s3cr3t"', "1", None),
        ("x-a=s3cr3t;b", "1", None),
        ("x-a=s3cr3t\u20ac", "1", None),
        ("x-a=s3cr3t%0Ax-b: 1,x-c=%20", "1", "x-c=%20"),
        ("x%20a=s3cr3t", "1", None),
    ],
)
def test_of_an_exporters_headers_the_usable_ones_hold_and_no_text_is_told(
    signal: str, text: str, places: str, holds: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    variable = f"OTEL_EXPORTER_OTLP_{signal}HEADERS"
    settings = _config.load({variable: text})
    assert settings.problems == (
        (variable, "***", f"name=value,name=value, each value URL-encoded; not so is item {places}"),
    )
    assert settings.environ.get(variable) == holds
    parse_env_headers(holds or "", liberal=True)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "text", ["authorization=Basic YTpi==", " x-a = 1 ,,x_b=%C3%B6, X!#$%25&'*+-.^`|~9=a b ", "x-empty="]
)
def test_headers_that_the_exporters_take_are_no_problem(text: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = _config.load({"OTEL_EXPORTER_OTLP_HEADERS": text})
    assert settings.problems == ()
    assert parse_env_headers(settings.environ["OTEL_EXPORTER_OTLP_HEADERS"], liberal=True)
    assert caplog.messages == []


@pytest.mark.parametrize("header", ["x!y=s3cr3t", "x-bin=s3cr3t", "x-c=s3cr3t%C3%B6"])
def test_headers_that_grpc_refuses_are_told_by_name_and_the_others_hold(header: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": f"X-A=1,{header}", "OTEL_EXPORTER_OTLP_LOGS_HEADERS": header}
    assert _config.load(environ).problems == ()
    settings = _config.load({**environ, "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"})
    assert [(problem.variable, problem.value) for problem in settings.problems] == [(name, "***") for name in environ]
    assert all(problem.accepted.endswith(f"not so is {header.partition('=')[0]}") for problem in settings.problems)
    assert [settings.environ[name] for name in environ] == ["X-A=1", ""]


def test_an_endpoint_without_a_scheme_is_for_grpc_alone() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "logs:4317"}
    settings = _config.load(environ)
    assert [problem.variable for problem in settings.problems] == list(environ)
    assert all("http://collector:4318" in problem.accepted for problem in settings.problems)
    assert not set(environ) & set(settings.environ)
    assert _config.load({**environ, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).problems == ()
    assert _config.load({**environ, "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"}).problems == ()


def test_a_samplers_argument_is_checked_where_it_is_used() -> None:
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "110%"}
    assert [problem.variable for problem in _config.load(environ).problems] == ["OTEL_TRACES_SAMPLER_ARG"]
    upper_case = {**environ, "OTEL_TRACES_SAMPLER": "PARENTBASED_TRACEIDRATIO"}
    assert [problem.variable for problem in _config.load(upper_case).problems] == ["OTEL_TRACES_SAMPLER_ARG"]
    assert _config.load({**environ, "OTEL_TRACES_SAMPLER": "always_on"}).problems == ()


def test_every_mistake_is_found_in_one_pass() -> None:
    environ = {"TS_OTEL_LOGGING_FORMAT": "xml", "OTEL_TRACES_SAMPLER": "x", "OTEL_BSP_SCHEDULE_DELAY": "x"}
    assert {problem.variable for problem in _config.load(environ).problems} == set(environ)


def test_a_module_of_processors_that_is_not_there_is_found_without_importing() -> None:
    problem = _config.check_processors(_config.load({"TS_OTEL_LOGGING_PROCESSORS": "no_such_module:all"}))
    assert problem is not None
    assert "no such module" in problem.accepted
    assert _config.check_processors(_config.load({"TS_OTEL_LOGGING_PROCESSORS": "antigravity:all"})) is None
    assert _config.check_processors(_config.load({})) is None


def test_paths_hold_in_a_workers_own_folder(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": "ca.pem", "OTEL_CONFIG_FILE": "/absolute.yaml", "LOG_LOCATION": "out"}
    assert _config.with_absolute_paths(environ, str(tmp_path)) == {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem"),
        "TS_OTEL_LOGGING_FILE_DIR": str(tmp_path / "out" / "otlp"),
    }
