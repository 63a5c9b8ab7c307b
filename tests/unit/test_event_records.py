"""Events as bytes in the lanes: the same log records as by the SDK's own way, which is taken where anybody needs it."""

from __future__ import annotations

import gc
import logging
import math
import sys
import weakref
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry._logs import LogRecord
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from lines import Lines
from otlp_receiver import OtlpReceiver
from sdk_room import room
from ts_otel_logging import BridgeHandler, _diagnostics, _scope
from ts_otel_logging._event import Event, current_span_context
from ts_otel_logging._otlp_log import log_record_of
from ts_otel_logging._sdk import _couriers, _event_records, _otlp_encoder, _otlp_log_records
from ts_otel_logging._sdk._otlp_log_records import encode_log_record

SPAN = NonRecordingSpan(SpanContext(2**127, 2**63, is_remote=False, trace_flags=TraceFlags(1)))
REQUEST = _scope.Scope({}, {"torchserve.request.id": "one", "torchserve.model.name": "digits", "list": ["a", "b"]})


def parsed(data: bytes) -> logs_pb2.LogRecord:
    """The message behind its length."""
    request = logs_pb2.ScopeLogs.FromString(b"\x12" + data)
    [record] = request.log_records
    return record


TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
NAMES = (
    st.sampled_from(["digit", "torchserve.request.id", "extra.torchserve.request.id", "log.record.uid", "key"]) | TEXT
)
SCALARS = st.one_of(
    TEXT,
    st.sampled_from(["x" * 5_000, "\n" * 9_000, math.nan, math.inf, -0.0, 2**63 - 1, -(2**63), 2**63, object]),
    st.booleans(),
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
)
EXTRA = st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXT, SCALARS, max_size=2))
RECORDS = st.fixed_dictionaries(
    {
        "msg": TEXT | st.sampled_from(["x" * 9_000, 7]),
        "levelno": st.integers(-1, 60),
        "levelname": st.sampled_from(["INFO", "WARNING", "NOTICE", "\ud800"]),
        "created": st.sampled_from([0.0, 1.5e9, math.nan, -1.0]),
        "exc_info": st.sampled_from([None, None, (ValueError, ValueError("bad"), None)]),
    }
)


def assert_same_record(event: Event) -> bytes:
    """The bytes of an event are those of its log record; twice, as the scope keeps some the first time."""
    expected = parsed(encode_log_record(log_record_of(event))).SerializeToString(deterministic=True)
    for _ in range(2):
        got = parsed(_otlp_log_records.encode_event(event))
        assert got.SerializeToString(deterministic=True) == expected
    return expected


@given(RECORDS, EXTRA, st.sampled_from([None, "006b5e1588def672-c"]), st.booleans(), st.booleans())
def test_the_short_way_makes_the_record_that_the_long_way_makes(fields, extra, uid, is_in_span, is_in_request):
    record = logging.makeLogRecord({**fields, **{key: value for key, value in extra.items() if key not in fields}})
    with trace.use_span(SPAN if is_in_span else trace.INVALID_SPAN):
        event = Event(record)
        event.uid = uid
        if is_in_request:
            event.scope = REQUEST
        expected = assert_same_record(event)
    # What was kept of an event is encoded by another thread, which is in no span.
    if event.exception is None:
        for _ in range(2):
            got = parsed(_otlp_log_records.encode_plain_parts(_otlp_log_records.plain_parts(event)))
            assert got.SerializeToString(deterministic=True) == expected


@pytest.mark.parametrize("value", [math.nan, -math.inf, "\ud800", None, ["a", 1], {"a": 1}, "\n" * 9_000, True, 1, 1.0])
def test_one_value_of_each_kind(value):
    assert_same_record(
        Event(logging.makeLogRecord({"msg": "a line", "levelno": 20, "levelname": "INFO", "key": value}))
    )


def test_an_ordinary_event_goes_the_short_way(monkeypatch):
    monkeypatch.delattr(_otlp_log_records, "log_record_of")
    event = Event(logging.makeLogRecord({"msg": "a line", "levelname": "INFO", "levelno": 20, "digit": 7, "x": 0.5}))
    event.scope = REQUEST
    assert parsed(_otlp_log_records.encode_event(event)).body.string_value == "a line"


@pytest.fixture
def receiver():
    with OtlpReceiver() as receiver:
        yield receiver


def log_through(sdk: Any, message: str = "a line", **extra: Any) -> None:
    provider = sdk.providers.logger_provider
    # One a room: what it has seen before may be plain.
    sdk.handler = getattr(sdk, "handler", None) or BridgeHandler(stream=Lines(), logger_provider=provider)
    sdk.handler.handle(
        logging.makeLogRecord({"msg": message, "name": "acme.model", "levelname": "INFO", "levelno": 20, **extra})
    )


def over(receiver: OtlpReceiver, transport: str = "http", **more: str) -> dict[str, str]:
    endpoint = receiver.grpc_endpoint if transport == "grpc" else receiver.http_endpoint
    protocol = "grpc" if transport == "grpc" else "http/protobuf"
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, **more}


def attributes(item: Any) -> dict[str, Any]:
    return {pair.key: pair.value for pair in item.record.attributes}


@pytest.mark.parametrize("transport", ["http", "grpc"])
class TestBytes:
    def test_an_event_arrives_without_any_record_of_the_sdk(self, receiver, transport, monkeypatch):
        with room(over(receiver, transport)) as sdk:
            monkeypatch.setattr("opentelemetry.sdk._logs.Logger.emit", None)
            log_through(sdk, digit=7)
            assert sdk.flush()
        [item] = receiver.log_records
        assert item.record.body.string_value == "a line"
        assert item.scope.name == "acme.model"
        assert attributes(item)["digit"].int_value == 7
        assert "service.name" in {pair.key for pair in item.resource.attributes}

    def test_what_others_emit_goes_with_it(self, receiver, transport):
        with room(over(receiver, transport)) as sdk:
            log_through(sdk, "ours")
            sdk.log("theirs")
            log_through(sdk, "ours again")
            assert sdk.flush()
        assert sorted(item.record.body.string_value for item in receiver.log_records) == [
            "ours",
            "ours again",
            "theirs",
        ]
        assert len(receiver.requests_for("logs")) == 1

    def test_a_record_that_nobody_can_encode_costs_itself(self, receiver, transport, monkeypatch):
        monkeypatch.setattr(_diagnostics, "reraise", False)
        with room(over(receiver, transport)) as sdk:
            log_through(sdk, "ours")
            provider = sdk.providers.logger_provider
            provider.get_logger("theirs").emit(LogRecord(body="theirs", severity_text="\ud800"))
            log_through(sdk, "ours again")
            sdk.flush()
        assert [item.record.body.string_value for item in receiver.log_records] == ["ours", "ours again"]
        assert sdk.reports[0].fields["dropped_log_records"] == 1


class TestPlainEvents:
    """The second record of a kind is plain, and waits as what its bytes are made of."""

    @staticmethod
    def waiting(sdk: Any) -> list[Any]:
        return [item[1] for _, _, item in sdk.providers._couriers["logs"][0].lane.entries]

    @pytest.mark.parametrize("transport", ["http", "grpc"])
    def test_they_arrive_as_the_others(self, receiver, transport):
        with room(over(receiver, transport)) as sdk, trace.use_span(SPAN):
            for _ in range(2):
                log_through(sdk, digit=7, share=0.5, text="seven", sure=True)
            assert type(self.waiting(sdk)[-1]) is tuple
            assert sdk.flush()
        first, second = (item.record for item in receiver.log_records)
        for record in (first, second):
            assert record.trace_id == SPAN.get_span_context().trace_id.to_bytes(16, "big")
            [uid] = [pair for pair in record.attributes if pair.key == "log.record.uid"]
            uid.value.string_value = ""
            record.time_unix_nano = record.observed_time_unix_nano = 0
        assert first == second

    @pytest.mark.parametrize("value", [2**63, None], ids=repr)
    def test_a_value_that_needs_the_long_way_takes_it(self, receiver, value):
        with room(over(receiver)) as sdk, trace.use_span(SPAN):
            for _ in range(2):
                log_through(sdk, key=value)
            assert type(self.waiting(sdk)[-1]) is tuple
            assert sdk.flush()
        first, second = receiver.log_records
        assert attributes(first)["key"] == attributes(second)["key"]
        assert first.record.span_id == second.record.span_id != b""

    def test_with_as_many_attributes_as_there_may_be_they_are_cut(self, receiver):
        fields = {f"field {number}": number for number in range(200)}
        with room(over(receiver)) as sdk:
            for _ in range(2):
                log_through(sdk, **fields)
            assert sdk.flush()
        for item in receiver.log_records:
            assert len(item.record.attributes) == 128
            assert attributes(item)["truncated"].bool_value

    def test_one_that_waits_does_not_keep_its_span_alive(self, receiver):
        class Span(NonRecordingSpan):
            pass

        span = Span(SPAN.get_span_context())
        reference = weakref.ref(span)
        context = trace.set_span_in_context(span)
        scope = _scope.Scope({"request_id": "one"}, {"torchserve.request.id": "one"}, context=context)
        with room(over(receiver)) as sdk:
            with trace.use_span(span):
                token = _scope.enter(scope)
                for _ in range(2):
                    log_through(sdk, digit=7)
                _scope.leave(token)
            current_span_context()
            del span, context, scope
            gc.collect()
            assert reference() is None
            assert type(self.waiting(sdk)[-1]) is tuple
            assert sdk.flush()
        assert [attributes(item)["torchserve.request.id"].string_value for item in receiver.log_records] == ["one"] * 2

    @pytest.mark.parametrize(
        "fields", [{}, {"digit": 7}, {"text": "x" * 250}, {f"field {number}": number / 7 for number in range(60)}]
    )
    def test_they_weigh_about_what_they_take(self, receiver, fields):
        with room(over(receiver)) as sdk:
            for _ in range(2):
                log_through(sdk, **fields)
            _, weight, item = sdk.providers._couriers["logs"][0].lane.entries[-1]
            parts = item[1]
            assert type(parts) is tuple
            own = [item, parts, (1, 2, 3), parts[0], parts[7], parts[8], *parts[7].values()]
            takes = sum(map(sys.getsizeof, own))
            assert takes / 2 <= weight <= 2 * takes
            assert sdk.flush()

    @pytest.mark.parametrize(("records", "pauses"), [(400, 3), (800, 3)])
    def test_a_batch_lets_others_have_the_interpreters_lock_unless_more_wait_already(
        self, receiver, monkeypatch, records, pauses
    ):
        slept: list[float] = []
        monkeypatch.setattr(_couriers, "sleep", slept.append)
        environ = {"OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "400", "OTEL_METRICS_EXPORTER": "none"}
        with room(over(receiver, **environ)) as sdk:
            monkeypatch.setattr(sdk.providers._couriers["logs"][0].lane, "_wake", lambda: None)
            for number in range(records):
                log_through(sdk, digit=number)
            assert sdk.flush()
        assert len(receiver.log_records) == records
        # Of two batches the first one leaves another waiting.
        assert len(slept) == pauses

    def test_one_that_cannot_be_encoded_costs_itself(self, receiver, monkeypatch):
        def encode(parts: Any) -> bytes:
            if parts[3] == "broken":
                raise ValueError("broken")
            return encoded(parts)

        encoded = _otlp_log_records.encode_plain_parts
        monkeypatch.setattr(_diagnostics, "reraise", False)
        for module in (_otlp_encoder, _event_records):
            monkeypatch.setattr(module, "encode_plain_parts", encode)
        with room(over(receiver)) as sdk:
            for message in ("whole", "broken", "whole"):
                log_through(sdk, message)
            assert [type(item) for item in self.waiting(sdk)] == [tuple] * 3
            sdk.flush()
        assert [item.record.body.string_value for item in receiver.log_records] == ["whole"] * 2
        assert sdk.reports[0].fields["dropped_log_records"] == 1


class TestRecords:
    def test_another_processor_gets_records(self, receiver):
        exporter = InMemoryLogRecordExporter()
        with room(over(receiver)) as sdk:
            log_through(sdk, "before")
            sdk.providers.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
            log_through(sdk, "after")
            assert sdk.flush()
        assert [item.record.body.string_value for item in receiver.log_records] == ["before", "after"]
        assert [item.log_record.body for item in exporter.get_finished_logs()] == ["after"]

    def test_another_exporter_gets_records(self, receiver, capfd):
        with room(over(receiver, OTEL_LOGS_EXPORTER="otlp,console")) as sdk:
            log_through(sdk)
            assert sdk.flush()
        assert len(receiver.log_records) == 1
        assert '"body": "a line"' in capfd.readouterr().err

    @pytest.mark.parametrize("exporters", ["otlp", "otlp,console"])
    @pytest.mark.parametrize(("limit", "kept"), [(5, 3), (1, 0), (0, 0)])
    def test_the_limit_of_attributes_costs_the_callers_last_ones(self, receiver, monkeypatch, exporters, limit, kept):
        # The oldest SDK reads it with every record.
        monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", str(limit))
        fields = {f"field {number}": number for number in range(9)}
        with room(over(receiver, OTEL_ATTRIBUTE_COUNT_LIMIT=str(limit), OTEL_LOGS_EXPORTER=exporters)) as sdk:
            log_through(sdk, **fields)
            assert sdk.flush()
        [item] = receiver.log_records
        ours = ["log.record.uid", *list(fields)[:kept], "truncated"]
        assert list(attributes(item)) == (ours if kept else ["truncated"][:limit])
        assert item.record.dropped_attributes_count == 10 - max(limit - 1, 0)

    def test_the_default_limit_is_128_and_leaves_a_record_of_as_many_whole(self, receiver):
        with room(over(receiver)) as sdk:
            for count in (127, 128):
                log_through(sdk, **{f"field {number}": number for number in range(count)})
            assert sdk.flush()
        whole, cut = receiver.log_records
        assert len(whole.record.attributes) == len(cut.record.attributes) == 128
        assert "truncated" not in attributes(whole)
        assert whole.record.dropped_attributes_count == 0
        assert attributes(cut)["truncated"].bool_value
        assert cut.record.dropped_attributes_count == 2, "one for the mark"

    def test_a_record_that_is_too_large_as_well_keeps_the_limit(self, receiver):
        with room(over(receiver)) as sdk:
            log_through(sdk, **{f"field {number}": "x" * 2_000 for number in range(127)})
            assert sdk.flush()
        [item] = receiver.log_records
        assert len(item.record.attributes) == 128
        assert "log.record.uid" in attributes(item)
        assert attributes(item)["truncated"].bool_value

    def test_a_provider_of_the_programs_own_keeps_what_is_ours(self, monkeypatch):
        monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "4")
        exporter = InMemoryLogRecordExporter()
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        record = {"msg": "a line", "levelname": "INFO", "levelno": 20, "a": 1, "b": 2, "c": 3, "d": 4}
        BridgeHandler(stream=Lines(), logger_provider=provider).handle(logging.makeLogRecord(record))
        [item] = exporter.get_finished_logs()
        assert list(item.log_record.attributes) == ["log.record.uid", "a", "b", "truncated"]

    @pytest.mark.parametrize("exporters", ["otlp", "otlp,console"])
    def test_integers_of_more_than_64_bits_are_text(self, receiver, exporters):
        with room(over(receiver, OTEL_LOGS_EXPORTER=exporters)) as sdk:
            log_through(sdk, big=2**63, small=-(2**63) - 1, fits=2**63 - 1, inner={"list": [2**64, 2**65]})
            assert sdk.flush()
        found = attributes(receiver.log_records[0])
        assert (found["big"].string_value, found["small"].string_value) == (str(2**63), str(-(2**63) - 1))
        assert found["fits"].int_value == 2**63 - 1
        [pair] = found["inner"].kvlist_value.values
        assert [value.WhichOneof("value") for value in pair.value.array_value.values] == ["string_value"] * 2

    def test_the_limit_of_lengths_holds(self, receiver, monkeypatch):
        monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
        with room(over(receiver, OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="3")) as sdk:
            log_through(sdk, text="abcdef")
            assert sdk.flush()
        assert attributes(receiver.log_records[0])["text"].string_value == "abc"

    def test_a_provider_that_has_every_attribute_gets_records(self):
        provider = Mock()
        record = logging.makeLogRecord({"msg": "a line", "levelname": "INFO", "levelno": 20})
        BridgeHandler(stream=Lines(), logger_provider=provider).handle(record)
        [call] = provider.get_logger.return_value.emit.call_args_list
        assert call.args[0].body == "a line"


def test_a_huge_event_is_cut_as_ever(receiver):
    with room(over(receiver)) as sdk:
        log_through(sdk, "x" * 200_000, text="y" * 60_000)
        assert sdk.flush()
    [item] = receiver.log_records
    assert attributes(item)["truncated"].bool_value
    assert item.record.ByteSize() < 70_000


def test_an_event_weighs_about_what_it_takes(receiver):
    with room(over(receiver)) as sdk:
        for size in (1, 1_000, 50_000):
            # Not plain: it waits as its bytes.
            log_through(sdk, "x" * size, box={"x": 1})
        for _, weight, item in sdk.providers._couriers["logs"][0].lane.entries:
            takes = sys.getsizeof(item[1]) + sys.getsizeof(item) + sys.getsizeof((1, 2, 3))
            assert takes <= weight <= 2 * takes
        assert sdk.flush()
    assert len(receiver.log_records) == 3
