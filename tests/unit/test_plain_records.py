"""The short way of plain records gives the very bytes of the long one, and is taken by them alone."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import textwrap
from collections import OrderedDict
from copy import deepcopy
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from ts_otel_logging import BridgeHandler, _diagnostics, _names, _scope
from ts_otel_logging._event import Event

texts = st.one_of(
    st.sampled_from(("Inference complete", "", "100 % done", "password=hunter2", "Bearer eyJhbGciOi.eyJzdWIi.c2lnbg")),
    st.sampled_from(("line one\nline two", "\u2028", "\x7f", "\ud800", "ä" * 300, "x" * 70_000, "4111 1111 1111 1111")),
    st.text(max_size=20),
)
keys = st.one_of(
    st.sampled_from(("digit", "password", "api_key", "event", "timestamp", "trace_id", "extra.event", "message", "ä")),
    st.sampled_from(("taskName", "asctime", "x" * 300, "\ud800", "", "http.request.header.x-a")),
    st.text(max_size=5),
    st.integers(0, 3),
)
values = st.one_of(
    texts,
    st.integers(),
    st.sampled_from((4111111111111111, 2**70, 10**1_001, float("nan"), float("inf"), -0.0, True, None, b"b")),
    st.sampled_from(([1], [0.5, None, True], [float("nan")], [10**1_001], [0.1] * 256, [0.1] * 257, ["a"], {"a": 1})),
    st.floats(),
)


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """The usual value nine times out of ten: a record is plain only if all that it has is usual."""
    return st.integers(0, 9).flatmap(lambda number: st.sampled_from(others) if number == 9 else st.just(usual))


spans = st.sampled_from((None, SpanContext(7, 9, is_remote=False, trace_flags=TraceFlags(1))))


class Record(logging.LogRecord):
    """A class of the program's own."""


def handlers(
    redact: tuple[str, ...], processors: Any = (), **more: Any
) -> tuple[list[BridgeHandler], list[io.StringIO]]:
    streams = [io.StringIO(), io.StringIO()]
    short, long = (BridgeHandler(processors, stream=stream, redact=redact, **more) for stream in streams)
    assert short.pipeline.write_plain is not None
    long.pipeline.write_plain = None
    return [short, long], streams


# Which way an event went, and its id.
HOW = {"record", "uid", "plain_characters"}


def with_events(both: list[BridgeHandler]) -> list[list[dict[str, Any]]]:
    """What another output sees of each event; without its record and id, which no two have in common."""
    seen: list[list[dict[str, Any]]] = [[], []]
    for handler, events in zip(both, seen):

        def output(event: Event, events: list[dict[str, Any]] = events) -> None:
            parts = {name: getattr(event, name) for name in (*Event.__slots__, "extra") if name not in HOW}
            # As text: what is no number equals nothing.
            texts = {name: AN_ID.sub("", repr(part)) for name, part in parts.items()}
            events.append({**texts, "has_uid": event.uid is not None})

        handler.add_output(output)
    both[1].pipeline.write_plain = None
    return seen


AN_ID = re.compile("[0-9a-f]{16}-[0-9a-f]+")
UID = re.compile(f'"log.record.uid":"{AN_ID.pattern}"')


class Text(str):
    """No plain text, but equal to one."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("broken")

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return "incomparable"


def put(name: str, value: Any) -> Any:
    return lambda _logger, _method, event: {**event, name: deepcopy(value)}


def leave_alone(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    return event


def put_last(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    event["event"] = event.pop("event", None)
    return event


def put_first(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    return {"event": event.pop("event", None), **event}


def put_last_of_ours_last(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    last = [name for name in event if name in _names.LINE_FIELDS][-1:]
    return {**{name: event.pop(name) for name in list(event) if name not in last}, **event}


def turn_round(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    return OrderedDict(reversed(list(event.items())))


def change_in_place(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    for value in event.values():
        if isinstance(value, list):
            value.append(5)
    return event


def remove(name: str) -> Any:
    return lambda _logger, _method, event: {key: value for key, value in event.items() if key != name}


def clear(*_: Any) -> dict[str, Any]:
    return {}


def drop(*_: Any) -> Any:
    raise structlog.DropEvent


PROCESSORS = (
    leave_alone, put_last, put_first, put_last_of_ours_last, turn_round, change_in_place, drop,
    put("region", "eu"), put("region", Text("eu")), put("password", "hunter2"), put("a", "password=hunter2"),
    put("event", "another"), put("event", "password=hunter2"), put("event", 5), put("event", Text("ready")),
    put("level", "info"), put("level", "fatal"), put("level", Incomparable()), put("logger", Text("acme.model")),
    put("trace_id", "0"), put("timestamp", "now"), put("request_id", "r2"), put("extra.level", 1), put("b", [1, 2]),
    put("c", {"a": ["b"]}), put("model_name", "digits"), put("", 1), put("x" * 300, 1), put("\ud800", "\ud800"),
    remove("event"), remove("logger"), remove("trace_id"), remove("digit"), remove("client_request_id"), clear,
)  # fmt: skip
SCOPES = (
    None,
    _scope.of_request("r1", "c1", {"http.request.header.x-tenant": "acme"}),
    _scope.of_batch(["r1", "r2"], ["1" * 32, "2" * 32], (_scope.of_request("r1", None),)),
)
REDACT = ((), ("card",), ("request_id", "/[12]{5}/"))


@given(
    message=st.one_of(texts, texts, st.sampled_from((5, {"a": 1}))),
    arguments=mostly((), (5,), ("five",)),
    extra=st.dictionaries(keys, values, max_size=2),
    level=mostly((20, "INFO"), (40, "ERROR"), (25, "NOTICE")),
    logger=st.sampled_from(("acme.model", "ä")),
    created=mostly(1_795_276_663.123456, 0.0, 1_795_276_664.9999999, -1.0, 1e15, float("nan")),
    kind=mostly(logging.LogRecord, Record),
    raised=mostly(False, True),
    span=spans,
    bound=mostly({}, {"user": "ada"}),
    processors=mostly([], [leave_alone]) | st.lists(st.sampled_from(PROCESSORS), min_size=1, max_size=3),
    scope=st.sampled_from(SCOPES),
    redact=st.sampled_from(REDACT),
    provider=st.sampled_from((None, NoOpLoggerProvider())),
)
def test_both_ways_give_the_same_bytes(  # noqa: PLR0913, PLR0917 - all that a record may have
    message, arguments, extra, level, logger, created, kind, raised, span, bound, processors, scope, redact, provider
):
    error = ValueError("broken") if raised else None
    both, streams = handlers(redact, processors, logger_provider=provider)
    seen = [[], []] if provider is None else with_events(both)
    context = Context() if span is None else trace.set_span_in_context(NonRecordingSpan(span), Context())
    token = attach(context)
    requests = _scope.enter(scope)
    try:
        with structlog.contextvars.bound_contextvars(**bound):
            # More than once: what was seen to be plain takes the short way only then.
            for _ in range(3):
                for handler in both:
                    exc_info = (ValueError, error, None) if raised else None
                    record = kind(logger, level[0], __file__, 1, message, arguments, exc_info)
                    record.levelname, record.created = level[1], created
                    record.__dict__.update(deepcopy(extra))
                    handler.handle(record)
    finally:
        _scope.leave(requests)
        detach(token)
    short, long = (UID.sub('"log.record.uid":""', stream.getvalue()).split("\n") for stream in streams)
    if 0 <= created < 253_402_300_800:
        assert short == long
        assert seen[0] == seen[1]
    else:
        # Where a record has no time it is that of the call.
        assert [line[42:] for line in short] == [line[42:] for line in long]


@pytest.mark.parametrize(
    "change",
    [
        {"msg": "password=hunter2"},
        {"msg": "%d of them", "args": (5,)},
        {"levelname": "NOTICE"},
        {"exc_info": (ValueError, ValueError("broken"), None)},
        {"exc_text": "Traceback"},
        {"stack_info": "Stack"},
        {"password": 5},
        {"note": "password=hunter2"},
        {"card": 4111111111111111},
        {"amount": 4111111111111111.0},
        {"event": 5},
        {"asctime": "now"},
        {"items": [1, 2]},
        {"items": [0.1] * 257},
        {"items": [10**1_001]},
        {"items": [float("nan")]},
        {"items": ["password=hunter2"]},
        {"big": 2**80},
        {"bigger": 10**1_001},
        {"long": "x" * 20_000},
        {"message": "formatted already"},
        {"nothing": float("nan")},
        {5: 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("redact", [(), ("card",)], ids=str)
def test_what_is_not_quite_plain_has_its_line_too(change, redact):
    both, streams = handlers(redact)
    for more in ({}, change, change, {}, change):
        for handler in both:
            plain = {"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20, "created": 5.0, "share": 0.5}
            handler.handle(logging.makeLogRecord({**plain, **more}))
    short, long = (stream.getvalue() for stream in streams)
    assert short == long
    assert "hunter2" not in short


@pytest.mark.parametrize("redact", REDACT, ids=str)
@pytest.mark.parametrize("scope", SCOPES, ids=("no request", "a request", "a batch"))
def test_whatever_processors_make_of_a_plain_record_has_its_line(scope, redact):
    token = _scope.enter(scope)
    try:
        for index, processor in enumerate(PROCESSORS):
            both, streams = handlers(redact, [processor])
            for _ in range(2):
                for handler in both:
                    plain = {"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20, "created": 5.0}
                    handler.handle(logging.makeLogRecord({**plain, "digit": 7, "text": "seven", "both": [1, 2]}))
            short, long = (stream.getvalue() for stream in streams)
            assert short == long, index
            for line in short.splitlines():
                json.loads(line)
    finally:
        _scope.leave(token)


def test_a_number_that_python_does_not_print_is_told_of_whatever_processors_change(lines):
    handler = BridgeHandler([put("level", "fatal")], stream=lines)
    for digits in (999, 1_001, 5_000):
        plain = {"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20}
        handler.handle(logging.makeLogRecord({**plain, "number": 10**digits}))
    small, big, bigger = (event["number"] for event in lines.objects)
    assert small == 10**999
    assert (big, bigger) == ("an integer of 3326 bits", "an integer of 16610 bits")


def test_a_python_without_the_usual_encoder_gives_the_same_bytes():
    program = """
        import json.encoder, logging, sys
        {change}
        from ts_otel_logging import BridgeHandler
        handler = BridgeHandler([lambda _logger, _method, event: dict(event, level="fatal")])
        fields = {{"text": "\\x7f \\u2028", "share": 0.5, "shape": [1, 2.5, None], "box": {{"x": float("nan")}}}}
        plain = {{"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20, "created": 5.0}}
        handler.handle(logging.makeLogRecord({{**plain, **fields}}))
    """
    changes = ("", "json.encoder.c_make_encoder = None", "json.encoder.c_make_encoder = lambda: None")
    usual, *others = (
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program.format(change=change))], check=True, capture_output=True
        ).stdout
        for change in changes
    )
    assert json.loads(usual)["shape"] == [1, 2.5, None]
    assert others == [usual, usual]


@pytest.mark.parametrize("processors", [[], [leave_alone]], ids=("none", "one"))
def test_what_a_formatter_has_left_on_a_record_is_no_field(lines, processors):
    plain = {"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20}
    BridgeHandler([put("message", 1)], stream=io.StringIO()).handle(logging.makeLogRecord(plain))
    handler = BridgeHandler(processors, stream=lines)
    for _ in range(2):
        handler.handle(logging.makeLogRecord({**plain, "digit": 7, "message": "ready"}))
    assert [(event["digit"], "message" in event) for event in lines.objects] == [(7, False)] * 2


def test_ids_are_those_from_before_the_processors(lines):
    def move(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        _scope.enter(SCOPES[1])
        return {**event, "password": "hunter2"}

    token = _scope.enter(SCOPES[0])
    try:
        handler = BridgeHandler([move], stream=lines)
        for _ in range(2):
            handler.handle(logging.makeLogRecord({"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20}))
    finally:
        _scope.leave(token)
    assert [event.get("request_id") for event in lines.objects] == [None, "r1"]


def test_a_variable_that_is_bound_later_is_on_the_line(lines):
    handler = BridgeHandler(stream=lines)
    record = logging.makeLogRecord({"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20})
    for _ in range(2):
        handler.handle(record)
    with structlog.contextvars.bound_contextvars(user="ada"):
        handler.handle(record)
    assert [event.get("user") for event in lines.objects] == [None, None, "ada"]


@pytest.mark.parametrize(
    "processors",
    [[], [put("region", "eu")], [put("event", "steady"), put("digit", [7.5, None]), leave_alone], [remove("digit")]],
    ids=("none", "a field", "message and value", "removed"),
)
def test_a_plain_record_makes_no_event(monkeypatch, processors):
    both, streams = handlers((), processors)
    record = logging.makeLogRecord(
        {"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20, "digit": 7, "text": "seven"}
    )
    both[0].handle(record)
    for module in ("_bridge", "_shapes._plain_records"):
        monkeypatch.setattr(sys.modules[f"ts_otel_logging.{module}"], "Event", None)
    both[0].handle(record)
    first, second = streams[0].getvalue().splitlines()
    assert first == second


def test_a_plain_record_reaches_every_output(lines):
    class Sink(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            emitted.append(record)

    def broken(_event: Event) -> None:
        raise ValueError("broken")

    emitted: list[Any] = []
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    handler = BridgeHandler(stream=lines, logger_provider=provider, sinks=[Sink()])
    for output in (broken, emitted.append):
        handler.add_output(output)
    record = {"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20, "digit": 7}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_diagnostics, "reraise", False)
        for _ in range(2):
            handler.handle(logging.makeLogRecord(record))
    assert [(item.getMessage() if isinstance(item, logging.LogRecord) else item.message) for item in emitted] == [
        "ready"
    ] * 4
    assert [item.log_record.attributes["digit"] for item in exporter.get_finished_logs()] == [7, 7]
    assert [item.log_record.attributes["log.record.uid"] for item in exporter.get_finished_logs()] == [
        event["log.record.uid"] for event in lines.objects
    ]


def test_what_exporters_say_has_no_id_and_goes_nowhere_else(lines):
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    handler = BridgeHandler(stream=lines, logger_provider=provider)
    for _ in range(2):
        handler.handle(
            logging.makeLogRecord({"name": "urllib3.pool", "msg": "ready", "levelname": "INFO", "levelno": 20})
        )
    assert [event.get("log.record.uid") for event in lines.objects] == [None, None]
    assert not exporter.get_finished_logs()


def test_in_other_shapes_every_record_is_an_event():
    handler = BridgeHandler(stream=io.StringIO(), renderer="ecs")
    assert handler.pipeline.write_plain is None


def test_a_redaction_that_comes_later_holds_for_plain_records(lines):
    handler = BridgeHandler(stream=lines)
    record = logging.makeLogRecord(
        {"name": "acme", "msg": "ready", "levelname": "INFO", "levelno": 20, "tenant": "blue"}
    )
    for _ in range(3):
        handler.handle(record)
    handler.set_redaction(handler.pipeline.redaction.tightened(["tenant"]))
    handler.handle(record)
    assert [event["tenant"] for event in lines.objects] == ["blue"] * 3 + ["[REDACTED]"]
