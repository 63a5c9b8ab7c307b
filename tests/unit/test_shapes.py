"""Each shape of a line against what its publisher's specification says, held here as data."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import pty
import re
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from lines import Lines
from ts_otel_logging import BridgeHandler, _scope
from ts_otel_logging._config import CONSOLE_COLORS, SHAPE_NAMES, is_coloured

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACER = TracerProvider().get_tracer("test")
JSON_SHAPES = tuple(name for name in SHAPE_NAMES if name != "console")
RESOURCE = {
    "service.name": "digits-service",
    "service.version": "1.2.3",
    "service.instance.id": "627cc493-f310-47de-96bd-71410b7dec09",
    "deployment.environment.name": "production",
    "cloud.account.id": "my-project",
}

# elastic/ecs, ecs_flat.yml: the fields that a line may have, with their types; the same from v8.11.0 to v9.4.0.
ECS_TYPES = {
    "@timestamp": "date",
    "ecs.version": "keyword",
    "error.message": "match_only_text",
    "error.stack_trace": "wildcard",
    "error.type": "keyword",
    "event.dataset": "keyword",
    "event.id": "keyword",
    "http.request.id": "keyword",
    "labels": "object",
    "log.level": "keyword",
    "log.logger": "keyword",
    "message": "match_only_text",
    "service.environment": "keyword",
    "service.name": "keyword",
    "service.node.name": "keyword",
    "service.version": "keyword",
    "span.id": "keyword",
    "tags": "keyword[]",
    "trace.id": "keyword",
}
# elastic/ecs-logging, spec/spec.json: fields with "required" in the order of their "index".
ECS_REQUIRED = ("@timestamp", "log.level", "message", "ecs.version")

# https://cloud.google.com/logging/docs/structured-logging#special-payload-fields, with the types of LogEntry's fields.
GCP_TYPES = {
    "severity": str,
    "message": str,
    "time": str,
    "logging.googleapis.com/insertId": str,
    "logging.googleapis.com/spanId": str,
    "logging.googleapis.com/trace": str,
    "logging.googleapis.com/trace_sampled": bool,
    # https://cloud.google.com/error-reporting/docs/formatting-error-messages
    "stack_trace": str,
    "serviceContext": dict,
}
# google/logging/type/log_severity.proto
GCP_SEVERITIES = {"DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"}

# https://docs.datadoghq.com/standard-attributes/: "Reserved", and the errors' and loggers' of "Source code".
DATADOG_RESERVED = ("host", "source", "status", "service", "trace_id", "message")
DATADOG_ERROR = {"kind", "message", "stack"}
ODD_KEYS = (*DATADOG_RESERVED, *GCP_TYPES, *ECS_TYPES, "a.b", "a_b", "extra.host", "level", "error")
MAX_64_BITS = 2**64 - 1


def datadog_trace_id(trace_id: int) -> str:
    """As ddtrace 4.16, `ddtrace.internal.utils.formats.format_trace_id`."""
    return f"{trace_id:032x}" if trace_id > MAX_64_BITS else str(trace_id)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("acme.model")
    logger.setLevel(1)
    logger.propagate = False
    yield logger
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture
def in_request() -> Iterator[None]:
    """A worker's request."""
    _scope.set_process("digits", "1.0", "9000")
    token = _scope.enter(_scope.of_request("request-1", "client-1"))
    yield
    _scope.leave(token)
    _scope.reset_process()


def handler(shape: str, lines: Lines, **options: Any) -> BridgeHandler:
    return BridgeHandler(renderer=shape, stream=lines, resource=RESOURCE, **options)


def fail(logger: logging.Logger, **extra: Any) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logger.exception("it failed", extra=extra)


class TestEveryShape:
    @pytest.mark.parametrize("shape", JSON_SHAPES)
    @given(
        message=st.text(),
        extra=st.dictionaries(
            st.text(min_size=1)
            | st.sampled_from(
                [*DATADOG_RESERVED, *GCP_TYPES, *ECS_TYPES, "a.b", "a_b", "extra.host", "level", "error"]
            ),
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.binary(), max_size=2),
            max_size=6,
        ),
    )
    def test_any_record_is_one_strict_line(self, shape: str, message: str, extra: dict[str, Any]) -> None:
        lines = Lines()
        record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "levelno": 20, "name": "any"})
        record.__dict__.update({key: value for key, value in extra.items() if key not in record.__dict__})
        handler(shape, lines).handle(record)
        text = lines.getvalue()
        assert text.endswith("}\n")
        assert text.count("\n") == 1
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", text)
        json.loads(text, parse_constant=pytest.fail)
        assert lines.last  # no key twice

    @pytest.mark.parametrize("shape", JSON_SHAPES)
    def test_no_key_of_a_caller_takes_the_place_of_another(
        self, logger: logging.Logger, lines: Lines, shape: str, in_request: None
    ) -> None:
        keys = {*DATADOG_RESERVED, *GCP_TYPES, *ECS_TYPES, "level", "event", "request_id", "dd.trace_id", "error"}
        keys |= {f"extra.{key}" for key in keys}
        keys -= {"message"}  # logging itself refuses it
        logger.addHandler(handler(shape, lines))
        with TRACER.start_as_current_span("predict"):
            logger.info("ours", extra={key: f"theirs: {number}" for number, key in enumerate(sorted(keys))})
            logger.info("ours")
        # Without their times, which may be of two seconds, or years.
        times = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}|\d{10,}"
        theirs, ours = (re.sub(times, "…", line) for line in lines.getvalue().splitlines())
        assert len(set(re.findall(r'"theirs: \d+"', theirs))) == len(keys)
        missing = [member for member in ours.strip("{}").split(",") if member.strip("[]{}") not in theirs]
        assert missing == []

    @pytest.mark.parametrize("shape", SHAPE_NAMES)
    def test_a_long_event_is_cut_to_a_valid_line_and_marked(
        self, logger: logging.Logger, lines: Lines, shape: str
    ) -> None:
        logger.addHandler(handler(shape, lines, max_record_bytes=3_000))
        fail(logger, long="é" * 10_000, many={str(number): "x" * 50 for number in range(1_000)}, short=1)
        text = lines.getvalue()
        assert len(text.encode()) <= 3_000
        assert "it failed" in text
        assert "truncated" in text
        assert "ZeroDivisionError: division by zero" in text
        if shape != "console":
            assert lines.last

    @pytest.mark.parametrize("shape", SHAPE_NAMES)
    def test_what_processors_made_of_an_event_is_what_it_shows(
        self, logger: logging.Logger, lines: Lines, shape: str
    ) -> None:
        def change(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
            event_dict.pop("secret")
            return {**event_dict, "event": "changed", "region": "eu-central-1"}

        logger.addHandler(handler(shape, lines, processors=[change]))
        logger.info("as it was", extra={"secret": "s3cret"})
        text = lines.getvalue()
        assert "changed" in text
        assert "eu-central-1" in text
        assert "s3cret" not in text
        assert "as it was" not in text

    @pytest.mark.parametrize("shape", SHAPE_NAMES)
    def test_an_exception_that_a_processor_made_something_else_is_shown(
        self, logger: logging.Logger, lines: Lines, shape: str
    ) -> None:
        for made in ("a text", [{"exc_type": "in a list"}]):
            change = lambda _l, _m, event_dict, made=made: {**event_dict, "exception": made}  # noqa: E731
            logger.handlers = [handler(shape, lines, processors=[change])]
            fail(logger)
        assert "a text" in lines.getvalue()
        assert "in a list" in lines.getvalue()

    @pytest.mark.parametrize("shape", JSON_SHAPES)
    def test_the_frontend_takes_it_for_an_event(self, logger: logging.Logger, lines: Lines, shape: str) -> None:
        # _log4j2.xml, json_object: other lines of a worker are wrapped.
        logger.addHandler(handler(shape, lines))
        logger.info("x")
        assert re.fullmatch(r'\{\s*"[^"]*"\s*:.*\}', lines.getvalue().rstrip("\n"))


class TestTraceContextInJson:
    """https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/#json-formats."""

    def test_the_default_shape_has_the_three_fields_on_its_top_level(
        self, logger: logging.Logger, lines: Lines
    ) -> None:
        logger.addHandler(handler("structlog", lines))
        with TRACER.start_as_current_span("predict"):
            logger.info("x")
        assert re.fullmatch("[0-9a-f]{32}", lines.last["trace_id"])
        assert re.fullmatch("[0-9a-f]{16}", lines.last["span_id"])
        assert re.fullmatch("[0-9a-f]{2}", lines.last["trace_flags"])


class TestEcs:
    def check(self, line: dict[str, Any]) -> None:
        for field, value in line.items():
            if field.startswith("torchserve."):
                continue
            kind = ECS_TYPES[field]
            if kind == "date":
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", value)
            elif kind == "object":
                assert all(isinstance(label, (str, int, float, bool, type(None))) for label in value.values())
                assert not any(re.search(r"[.*\\]", name) for name in value)
            elif kind.endswith("[]"):
                assert all(isinstance(item, str) for item in value)
            else:
                assert isinstance(value, str)

    def test_every_field_is_one_of_the_reference_with_its_type(
        self, logger: logging.Logger, lines: Lines, in_request: None
    ) -> None:
        exporting = LoggerProvider(shutdown_on_exit=False)
        logger.addHandler(handler("ecs", lines, logger_provider=exporting))
        with TRACER.start_as_current_span("predict") as span:
            fail(logger, answer=42, **{"a.b": [1, {"c": None}], "a_b": "another", "*\\": None})
        line, context = lines.last, span.get_span_context()
        self.check(line)
        assert tuple(line)[: len(ECS_REQUIRED)] == ECS_REQUIRED
        assert line["trace.id"] == format(context.trace_id, "032x")
        assert line["span.id"] == format(context.span_id, "016x")
        assert line["log.logger"] == "acme.model"
        assert line["error.type"] == "ZeroDivisionError"
        assert line["error.stack_trace"].startswith("Traceback")
        assert line["http.request.id"] == "client-1"
        assert line["torchserve.request.id"] == "request-1"
        assert line["torchserve.model.name"] == "digits"
        assert line["service.node.name"] == RESOURCE["service.instance.id"]
        assert line["service.environment"] == "production"
        labels = line["labels"]
        assert labels["answer"] == 42
        assert [labels.pop(key) for key in list(labels) if key.startswith("a_b")] == ['[1,{"c":null}]', "another"]

    def test_a_cut_event_has_a_tag(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(handler("ecs", lines, max_record_bytes=2_000))
        logger.info("x" * 10_000)
        self.check(lines.last)
        assert lines.last["tags"] == ["truncated"]


class TestGcp:
    def check(self, line: dict[str, Any]) -> None:
        for field, kind in GCP_TYPES.items():
            assert isinstance(line.get(field, kind()), kind)
        assert line["severity"] in GCP_SEVERITIES
        # RFC 3339
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["time"])

    def test_special_fields_say_what_the_event_says(
        self, logger: logging.Logger, lines: Lines, in_request: None
    ) -> None:
        logger.addHandler(handler("gcp", lines, logger_provider=LoggerProvider(shutdown_on_exit=False)))
        with TRACER.start_as_current_span("predict") as span:
            fail(logger, httpRequest="mine", answer=42)
        line, context = lines.last, span.get_span_context()
        self.check(line)
        assert set(line) >= set(GCP_TYPES)
        # https://cloud.google.com/trace/docs/trace-log-integration
        assert line["logging.googleapis.com/trace"] == f"projects/my-project/traces/{context.trace_id:032x}"
        assert line["logging.googleapis.com/spanId"] == format(context.span_id, "016x")
        assert line["logging.googleapis.com/trace_sampled"] is True
        assert line["stack_trace"].startswith("Traceback (most recent call last):")
        assert line["error"] == {"type": "ZeroDivisionError", "message": "division by zero"}
        assert line["serviceContext"] == {"service": "digits-service", "version": "1.2.3"}
        assert line["extra.httpRequest"] == "mine"
        assert (line["request_id"], line["model_name"], line["answer"]) == ("request-1", "digits", 42)

    def test_without_a_project_the_trace_is_its_id(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(BridgeHandler(renderer="gcp", stream=lines, resource={}))
        with TRACER.start_as_current_span("predict") as span:
            logger.info("x")
        assert lines.last["logging.googleapis.com/trace"] == format(span.get_span_context().trace_id, "032x")

    @pytest.mark.parametrize(
        ("level", "name", "severity"),
        [
            (5, "TRACE", "DEBUG"),
            (10, "DEBUG", "DEBUG"),
            (20, "INFO", "INFO"),
            (25, "NOTICE", "NOTICE"),
            (25, "SUCCESS", "INFO"),
            (30, "WARNING", "WARNING"),
            (40, "ERROR", "ERROR"),
            (50, "CRITICAL", "CRITICAL"),
            (60, "FATAL", "CRITICAL"),
            (0, "none", "DEFAULT"),
        ],
    )
    def test_a_level_has_a_severity_and_keeps_its_name(
        self, lines: Lines, level: int, name: str, severity: str
    ) -> None:
        handler("gcp", lines).handle(logging.makeLogRecord({"msg": "x", "levelno": level, "levelname": name}))
        self.check(lines.last)
        assert lines.last["severity"] == severity
        assert lines.last.get("level", severity.lower()) == name.lower()


class TestDatadog:
    def test_reserved_and_standard_attributes_say_what_the_event_says(
        self, logger: logging.Logger, lines: Lines, in_request: None
    ) -> None:
        logger.addHandler(handler("datadog", lines))
        with TRACER.start_as_current_span("predict") as span:
            fail(logger, host="db1", level="mine", answer=42, **{"error.kind": "mine"})
        line, context = lines.last, span.get_span_context()
        assert (line["status"], line["message"], line["service"]) == ("error", "it failed", "digits-service")
        assert (line["dd.env"], line["dd.version"]) == ("production", "1.2.3")
        assert line["dd.trace_id"] == datadog_trace_id(context.trace_id)
        assert line["dd.span_id"] == str(context.span_id)
        assert line["logger"] == {"name": "acme.model"}
        assert set(line["error"]) == DATADOG_ERROR
        assert line["error"]["kind"] == "ZeroDivisionError"
        assert line["extra.host"] == "db1"
        assert line["extra.error.kind"] == line["extra.level"] == "mine"
        assert (line["request_id"], line["model_name"], line["answer"]) == ("request-1", "digits", 42)

    def test_a_trace_id_of_64_bits_is_decimal(self, logger: logging.Logger, lines: Lines) -> None:
        from opentelemetry import trace

        context = trace.SpanContext(trace_id=0xABC, span_id=1, is_remote=True, trace_flags=trace.TraceFlags(1))
        logger.addHandler(handler("datadog", lines))
        with trace.use_span(trace.NonRecordingSpan(context)):
            logger.info("x")
        assert lines.last["dd.trace_id"] == datadog_trace_id(0xABC) == "2748"


class TestOtel:
    def parse(self, line: str) -> ExportLogsServiceRequest:
        """Read OTLP JSON as protobuf does, whose own JSON has base64 where OTLP's has hex."""
        document = json.loads(line)
        for resource in document["resourceLogs"]:
            for scope in resource["scopeLogs"]:
                for record in scope["logRecords"]:
                    for field in {"traceId", "spanId"} & set(record):
                        record[field] = base64.b64encode(bytes.fromhex(record[field])).decode()
        return json_format.ParseDict(document, ExportLogsServiceRequest())

    def test_a_line_is_the_request_that_an_exporter_would_send(
        self, logger: logging.Logger, lines: Lines, in_request: None
    ) -> None:
        from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

        exporter = InMemoryLogRecordExporter()
        provider = LoggerProvider(Resource(RESOURCE), shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        logger.addHandler(BridgeHandler(renderer="otel", stream=lines, logger_provider=provider))
        logging.addLevelName(25, "NOTICE")
        with TRACER.start_as_current_span("predict"):
            logger.log(25, "x", extra={"answer": 42, "ratio": 0.5, "nested": {"a": [1, 2], "b": True}})
            fail(logger)
        sent = encode_logs(exporter.get_finished_logs())
        written = [self.parse(line) for line in lines.getvalue().splitlines()]
        expected = [record for scope in sent.resource_logs[0].scope_logs for record in scope.log_records]
        for line, record in zip(written, expected):
            (resource_logs,) = line.resource_logs
            (scope_logs,) = resource_logs.scope_logs
            (found,) = scope_logs.log_records
            assert resource_logs.resource == sent.resource_logs[0].resource
            assert scope_logs.scope == sent.resource_logs[0].scope_logs[0].scope
            # Above what the twin says: the caller's own id of the request.
            extra = [item for item in found.attributes if item.key == "http.request.header.x-request-id"]
            assert [item.value.array_value.values[0].string_value for item in extra] == ["client-1"]
            found.attributes.remove(extra[0])
            for message in (found, record):
                ordered = sorted(message.attributes, key=lambda item: item.key)
                del message.attributes[:]
                message.attributes.extend(ordered)
            # Bits above the first eight say where a parent came from; a log record's flags have none of them.
            record.flags &= 0xFF
            assert found == record

    def test_any_value_has_a_place(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(handler("otel", lines))
        logger.info("x", extra={"big": 10**30, "least": -(2**63), "mixed": [1, 0.5, True, None, "a", {"b": []}]})
        (record,) = self.parse(lines.getvalue()).resource_logs[0].scope_logs[0].log_records
        values = {item.key: item.value for item in record.attributes}
        assert values["big"].string_value == str(10**30)
        assert values["least"].int_value == -(2**63)
        kinds = [item.WhichOneof("value") for item in values["mixed"].array_value.values]
        assert kinds == ["int_value", "double_value", "bool_value", None, "string_value", "kvlist_value"]

    def test_a_provider_may_be_absent(self, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,team=a%20b,broken, =x")
        BridgeHandler(renderer="otel", stream=lines).handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
        (resource_logs,) = self.parse(lines.getvalue()).resource_logs
        attributes = {item.key: item.value.string_value for item in resource_logs.resource.attributes}
        assert attributes == {"service.name": "mine", "team": "a b"}


class TestConsole:
    def test_columns_line_up_and_the_callers_fields_come_first(
        self, logger: logging.Logger, lines: Lines, in_request: None
    ) -> None:
        logger.addHandler(handler("console", lines))
        with TRACER.start_as_current_span("predict"):
            logger.info("ready", extra={"answer": 42})
            logger.warning("a longer message", extra={"answer": 43})
        first, second = lines.getvalue().splitlines()
        assert first.index("[acme.model]") == second.index("[acme.model]")
        assert re.fullmatch(
            r"\S+Z \[info     \] ready +\[acme\.model\] answer=42 trace_id=\w{32} span_id=\w{16} request_id=request-1 "
            "client_request_id=client-1 model_name=digits model_version=1.0 worker_id=9000",
            first,
        )

    def test_a_stack_trace_stands_below_as_people_know_it(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(handler("console", lines))
        fail(logger)
        _, title, *_, last = lines.getvalue().splitlines()
        assert title == "    Traceback (most recent call last):"
        assert last == "    ZeroDivisionError: division by zero"

    @pytest.mark.parametrize("forged", ["[METRICS]x", "Torch worker started.", "[PID]1"])
    def test_what_is_logged_cannot_pass_for_a_control_line_nor_paint(
        self, logger: logging.Logger, lines: Lines, forged: str
    ) -> None:
        text = f"harmless\n{forged}\r{forged}\x1b[2J\x85{forged}\u2028{forged}\n{forged}"
        logger.addHandler(handler("console", lines))
        logger.error(text, extra={"value": text, text: 1, "short": "\x1b[2J"}, exc_info=ValueError(text))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", lines.getvalue())
        assert lines.getvalue().count(forged) > 10
        assert not [line for line in lines.getvalue().split("\n") if line.startswith(forged)]

    @pytest.mark.parametrize("key", ["stack", "exc_info", "logger_name"])
    def test_keys_that_the_renderer_takes_for_something_else_are_shown(
        self, logger: logging.Logger, lines: Lines, key: str
    ) -> None:
        logger.addHandler(handler("console", lines))
        logger.info("x", extra={key: 1} if key != "exc_info" else None)
        logger.info("x", extra={f"extra.{key}": 2})
        assert f"extra.{key}=2" in lines.getvalue()

    @pytest.mark.parametrize(
        ("environ", "terminal", "coloured"),
        [
            ({}, False, False),
            ({}, True, True),
            ({"NO_COLOR": "1"}, True, False),
            ({"NO_COLOR": ""}, True, True),
            ({"FORCE_COLOR": "1"}, False, True),
            ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
            ({CONSOLE_COLORS: "true"}, False, True),
            ({CONSOLE_COLORS: "false"}, True, False),
        ],
    )
    def test_it_is_coloured_on_a_terminal_unless_somebody_says_otherwise(
        self,
        environ: dict[str, str],
        terminal: bool,
        coloured: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in ("NO_COLOR", "FORCE_COLOR", CONSOLE_COLORS):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        reading, writing = pty.openpty() if terminal else os.pipe()
        with open(reading, "rb", 0) as reader, open(writing, "w", encoding="utf-8") as stream:
            BridgeHandler(renderer="console", stream=stream).handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
            assert (b"\x1b[" in reader.read(4_096)) is coloured

    def test_a_stream_without_a_terminal_is_plain(self) -> None:
        stream = io.StringIO()
        stream.close()
        assert not is_coloured({}, stream)
        assert not is_coloured({}, object())
