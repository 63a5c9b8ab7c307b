"""Our encoder against OpenTelemetry's own: the same messages for whatever spans and log records can hold."""

from __future__ import annotations

import contextlib
import enum
import logging
import math
from collections import OrderedDict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_spans_officially
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from ts_otel_logging import _diagnostics
from ts_otel_logging._sdk import _otlp_encoder, _otlp_log_records, _otlp_values
from ts_otel_logging._sdk._otlp_encoder import encode_log_records, encode_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Colour(str, enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    SEVEN = 7


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Both encoders tell of an attribute that they cannot encode, and go on."""
    _diagnostics.reraise = False
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        _diagnostics.reraise = True


def span_with(**changes: Any) -> ReadableSpan:
    fields = {"name": "predict digits", "context": SpanContext(2**127, 2**63, is_remote=False), **changes}
    fields.setdefault("resource", Resource({}))
    return ReadableSpan(**fields)


def log_record_with(
    resource: Any = None, scope: Any = None, ids: tuple[int, int, int] = (0, 0, 0), **changes: Any
) -> ReadableLogRecord:
    record = LogRecord(**changes)
    record.trace_id, record.span_id, record.trace_flags = ids[0], ids[1], TraceFlags(ids[2])
    return ReadableLogRecord(record, resource or Resource({}), scope)


def official_attributes(value: Any) -> Any:
    request = encode_spans_officially([span_with(attributes={"key": value})])
    return request.resource_spans[0].scope_spans[0].spans[0].attributes


with quietly():
    # Old releases leave None out in some places, and refuse it in others.
    KNOWS_NONE = bool(official_attributes(None))

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=300) | st.sampled_from(
    ["", "a", "é" * 64, "x" * 5_000]
)
# A lone surrogate is nothing that UTF-8 has.
ODD_TEXT = st.sampled_from(["\ud800", "é", "\U0001f600"])
ANY_TEXT = TEXT | st.text(st.characters(exclude_categories=()), max_size=10)
FIXED_64 = st.integers(0, 2**64 - 1)
TRACE_IDS, SPAN_IDS = st.integers(0, 2**128 - 1), FIXED_64
SCALARS = st.one_of(
    ANY_TEXT,
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.integers(-300, 300),
    st.floats(),
    st.binary(max_size=200),
    st.sampled_from(
        [Colour.RED, Number.SEVEN, np.float64(0.1), 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, object(), 1j]
    ),
    *([st.none()] if KNOWS_NONE else []),
)
VALUES = st.recursive(
    SCALARS,
    lambda values: st.one_of(
        st.lists(values, max_size=4),
        st.lists(values, max_size=4).map(tuple),
        st.dictionaries(ANY_TEXT | st.integers() | st.none(), values, max_size=3),
        st.dictionaries(ANY_TEXT, values, max_size=3).map(MappingProxyType),
    ),
    max_leaves=6,
)
FIELDS = st.dictionaries(ANY_TEXT, VALUES, max_size=4)
SDK_FIELDS = st.dictionaries(
    TEXT.filter(bool), st.sampled_from(["a", 1, True, 0.5, ("a", "b"), (1, 2), ()]), max_size=4
)
ATTRIBUTES = st.one_of(
    st.none(),
    FIELDS,
    FIELDS.map(OrderedDict),
    FIELDS.map(MappingProxyType),
    SDK_FIELDS.map(lambda fields: BoundedAttributes(2, fields)),
    SDK_FIELDS.map(lambda fields: BoundedAttributes(None, fields, immutable=False)),
)
RESOURCES = st.one_of(
    # Equal ones are one, also in another order; a number is not the same number as a float or as a truth.
    st.sampled_from([Resource({"a": "x", "b": 1}), Resource({"b": 1, "a": "x"}), Resource({"a": "x", "b": True})]),
    st.builds(Resource, SDK_FIELDS, st.none() | TEXT),
)
SCOPES = st.one_of(
    st.none(),
    st.sampled_from([InstrumentationScope("acme"), InstrumentationScope("acme"), InstrumentationScope("acme", "1.0")]),
    st.builds(InstrumentationScope, TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | SDK_FIELDS),
)
STATES = st.none() | st.lists(
    st.tuples(st.sampled_from(["a", "vendor@key", "b"]), st.sampled_from(["1", "x;y"])), max_size=3
).map(TraceState)
CONTEXTS = st.builds(
    SpanContext, TRACE_IDS, SPAN_IDS, st.booleans(), st.sampled_from([TraceFlags(0), TraceFlags(1)]), STATES
)
EVENTS = st.lists(st.builds(Event, ANY_TEXT, ATTRIBUTES, FIXED_64), max_size=2)
LINKS = st.lists(st.builds(Link, CONTEXTS, ATTRIBUTES), max_size=2)
STATUSES = st.one_of(
    st.builds(Status, st.sampled_from(StatusCode)), st.builds(lambda text: Status(StatusCode.ERROR, text), ANY_TEXT)
)


def bounded(lists: Any) -> Any:
    return lists | lists.map(lambda items: BoundedList.from_seq(1, items))


SPANS = st.builds(
    ReadableSpan,
    name=TEXT | ODD_TEXT,
    context=CONTEXTS,
    parent=st.none() | CONTEXTS,
    resource=RESOURCES,
    attributes=ATTRIBUTES,
    events=bounded(EVENTS),
    links=bounded(LINKS),
    kind=st.sampled_from(SpanKind),
    status=STATUSES,
    start_time=st.none() | FIXED_64,
    end_time=st.none() | FIXED_64,
    instrumentation_scope=SCOPES,
)
LOG_RECORDS = st.builds(
    log_record_with,
    resource=RESOURCES,
    scope=SCOPES,
    ids=st.tuples(TRACE_IDS, SPAN_IDS, st.integers(0, 255)),
    timestamp=st.none() | FIXED_64,
    observed_timestamp=st.none() | FIXED_64,
    severity_text=st.none() | TEXT | ODD_TEXT,
    severity_number=st.none() | st.sampled_from(SeverityNumber),
    body=VALUES,
    attributes=ATTRIBUTES,
    event_name=st.none() | TEXT,
)


def assert_same(encode: Callable[[Any], bytes], officially: Callable[[Any], Any], batch: list[Any]) -> None:
    """Both yield the same message, or neither any: what is no attribute costs its batch, which is then halved."""
    request_class = type(officially([]))

    def message(data: Callable[[], bytes]) -> Any:
        try:
            # Bytes, because a message with a NaN is not equal to itself.
            return request_class.FromString(data()).SerializeToString(deterministic=True)
        except Exception as error:  # noqa: BLE001 - they differ in what they raise
            return type(error) if isinstance(error, DecodeError) else None

    with quietly():
        assert message(lambda: encode(batch)) == message(lambda: officially(batch).SerializeToString())


@given(st.lists(SPANS, max_size=3))
def test_any_spans_are_the_message_that_the_official_encoder_makes(batch):
    assert_same(encode_spans, encode_spans_officially, batch)


@given(st.lists(LOG_RECORDS, max_size=3))
def test_any_log_records_are_the_message_that_the_official_encoder_makes(batch):
    assert_same(encode_log_records, encode_logs, batch)


class TestGroups:
    def test_equal_resources_and_scopes_are_one(self):
        batch = [
            span_with(
                name=str(number),
                resource=Resource({"a": 1, "b": 2}),
                instrumentation_scope=InstrumentationScope("acme"),
            )
            for number in range(3)
        ]
        [resource] = ExportTraceServiceRequest.FromString(encode_spans(batch)).resource_spans
        [scope] = resource.scope_spans
        assert [span.name for span in scope.spans] == ["0", "1", "2"]

    def test_items_stay_in_their_order_when_scopes_take_turns(self):
        scopes = [InstrumentationScope(f"scope {number}", attributes={"a": number}) for number in range(3)]
        resources = [Resource({"service.name": str(number)}) for number in range(2)]
        batch = [
            log_record_with(resources[number % 2], scopes[number % 3], body=number, severity_text="INFO")
            for number in range(50)
        ]
        assert_same(encode_log_records, encode_logs, batch)

    def test_nothing_is_an_empty_request(self):
        assert encode_spans([]) == encode_log_records([]) == b""


class TestValues:
    @pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 257, 16_383, 16_384, 2**21, 2**21 + 1])
    def test_a_text_of_any_length(self, length):
        # Twice: what was kept the first time is used the second time.
        for _ in range(2):
            batch = [log_record_with(body="b" * length, attributes={"short": "x", "k" * length: "v" * length})]
            assert_same(encode_log_records, encode_logs, batch)

    def test_none_is_a_value_that_holds_nothing(self):
        # As the newest encoder has it: the old ones lose the attribute of a span, or the key of a log record's.
        values = {"none": None, "among others": ["a", None], "deeper": {"none": None}}
        request = ExportTraceServiceRequest.FromString(encode_spans([span_with(attributes=values)]))
        attributes = {item.key: item.value for item in request.resource_spans[0].scope_spans[0].spans[0].attributes}
        assert list(attributes) == list(values)
        assert attributes["none"].WhichOneof("value") is None
        assert [item.WhichOneof("value") for item in attributes["among others"].array_value.values] == [
            "string_value",
            None,
        ]
        assert attributes["deeper"].kvlist_value.values[0].HasField("value")
        request = ExportLogsServiceRequest.FromString(encode_log_records([log_record_with(body=None)]))
        assert request.resource_logs[0].scope_logs[0].log_records[0].HasField("body")

    def test_what_looks_equal_is_not_the_same(self):
        values = [1, True, 1.0, "1", 0, False, 0.0, -0.0, math.nan]
        for value in values + values:
            assert_same(encode_spans, encode_spans_officially, [span_with(attributes={"key": value})])

    @pytest.mark.parametrize("value", [2**64, "\ud800", object(), {"deep": ["\udfff"]}], ids=repr)
    def test_an_attribute_that_cannot_be_encoded_costs_itself_and_is_told(self, value, monkeypatch, caplog):
        monkeypatch.setattr(_diagnostics, "reraise", False)
        monkeypatch.setattr(_diagnostics, "_last_told", {})
        data = encode_spans([span_with(attributes={"before": 1, "odd one": value, "after": 2}), span_with(name="next")])
        [scope] = ExportTraceServiceRequest.FromString(data).resource_spans[0].scope_spans
        assert [item.key for item in scope.spans[0].attributes] == ["before", "after"]
        assert scope.spans[1].name == "next"
        [record] = [record for record in caplog.records if record.name == _diagnostics.LOGGER_NAME]
        assert "'odd one' is not exported" in record.error

    @pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"key": value}], ids=["list", "mapping"])
    def test_what_no_parser_would_read_costs_itself(self, wrap):
        deepest = None
        value: Any = "bottom"
        with quietly():
            for depth in range(60):
                # An event's attributes are the deepest.
                data = encode_spans([span_with(events=[Event("event", {"deep": value, "next": 1}, 1)])])
                event = ExportTraceServiceRequest.FromString(data).resource_spans[0].scope_spans[0].spans[0].events[0]
                if len(event.attributes) == 2:
                    deepest = depth
                value = wrap(value)
        assert deepest is not None
        assert deepest >= 30

    def test_a_list_that_holds_itself_costs_itself(self):
        endless: list[Any] = []
        endless.extend([endless] * 300)
        with quietly():
            data = encode_spans([span_with(attributes={"endless": endless, "next": 1})])
        [span] = ExportTraceServiceRequest.FromString(data).resource_spans[0].scope_spans[0].spans
        assert [item.key for item in span.attributes] == ["next"]


def test_what_is_kept_has_a_bound():
    for number in range(1_500):
        text = f"made up {number}"
        batch = [
            log_record_with(
                body="b" * number, severity_text=text, attributes={text: 1, "number": number, "text": "x" * number}
            )
        ]
        encode_log_records(batch)
        encode_spans([span_with(name=text)])
    kept = [_otlp_values.varints, _otlp_values._keys, _otlp_values._keys["number"].numbers]
    kept += [_otlp_values._keys["text"].texts, _otlp_encoder._names, _otlp_log_records._severity_texts]
    assert max(map(len, kept)) <= 1_024
