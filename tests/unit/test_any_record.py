"""Whatever somebody logs: one line of strict JSON within the limit, and the same as an OTLP log record."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import logging
import pathlib
import re
import sys
import time
import uuid
from typing import Any, Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from lines import Lines
from ts_otel_logging import BridgeHandler, _diagnostics

MAX_OTLP_BYTES = 65_536


class Hostile:
    """Raises at whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class HostileError(Exception):
    def __str__(self) -> str:
        raise HostileError


class Endless(list[Any]):
    """Holds itself."""


def _endless() -> list[Any]:
    value: list[Any] = []
    value.extend([value] * 300)
    return value


@dataclasses.dataclass
class Config:
    batch: int
    names: list[str]
    secret: str = dataclasses.field(default="hidden", repr=False)


class Colour(enum.Enum):
    RED = "red"


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
ODD: dict[str, Callable[[], Any]] = {
    "huge": lambda: 10**5000,
    "hostile": Hostile,
    "type": lambda: object,
    "enum": lambda: Colour.RED,
    "path": lambda: pathlib.Path("/tmp"),
    "dataclass": lambda: Config(1, ["a"]),
    "numpy nan": lambda: np.float16("nan"),
    "array": lambda: np.arange(3),
    "array of text": lambda: np.array("\ud800"),
    "tensor": lambda: torch.ones(2, 2),
    "large tensor": lambda: torch.ones(50),
    "infinite tensor": lambda: torch.tensor(float("inf")),
    "tensor on a device": lambda: torch.ones(2, device="meta"),
    "error": HostileError,
    "endless": _endless,
    "range": lambda: range(10**9),
    "iterator": lambda: iter({1, 2}),
}
# Made long in the test: hypothesis prints what it draws.
LONG = "<long>"
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT, st.binary(max_size=40), st.decimals(),
    st.datetimes(), st.uuids(), st.complex_numbers(), st.fractions(),
    # By name: hypothesis prints what it draws from, and some of these cannot be printed.
    st.sampled_from(sorted(ODD)).map(lambda name: ODD[name]()),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(ANY_TEXT, st.integers(), st.booleans(), st.none()), inner, max_size=4),
        st.builds(collections.deque, st.lists(inner, max_size=3)),
    ),
    max_leaves=10,
)
KEYS = st.one_of(
    ANY_TEXT,
    st.sampled_from(["level", "extra.level", "extra.extra.level", "1", "\ud800", "\\ud800", "truncated", "exc_info"]),
    st.integers(0, 2),
    st.just(LONG),
    st.tuples(st.integers(0, 1)),
)
ERRORS = st.one_of(
    st.none(),
    st.sampled_from([ValueError("v"), HostileError(), KeyError(), RecursionError("\ud800\u2028")]).map(
        lambda error: (type(error), error, None)
    ),
    st.just((None, None, None)),
)
RECORDS = st.fixed_dictionaries(
    {
        "msg": st.one_of(ANY_TEXT, VALUES, st.sampled_from(["%s", "%d", "%(a)s", "%s %s", "100%"]), st.just(LONG)),
        "args": st.one_of(st.just(()), st.lists(VALUES, max_size=3).map(tuple), st.dictionaries(ANY_TEXT, VALUES)),
        "name": st.one_of(ANY_TEXT, st.just(LONG)),
        "levelno": st.integers(0, 100),
        "levelname": st.one_of(st.just("INFO"), ANY_TEXT, st.just(LONG)),
        "created": st.one_of(st.floats(), st.just(1_700_000_000.5)),
        "exc_info": ERRORS,
        "exc_text": st.one_of(st.none(), ANY_TEXT),
        "stack_info": st.one_of(st.none(), ANY_TEXT),
    }
)
KEEP = [lambda _logger, _method, event_dict: event_dict]


def strict(text: str) -> dict[str, Any]:
    """Read one line as JSON that any reader takes."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), [key for key, _ in pairs]
        return dict(pairs)

    assert text.endswith("\n")
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", text[:-1])
    text.encode("utf-8")
    value = json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def log(logger: logging.Logger, lines: Lines) -> logging.Logger:
    logger.addHandler(BridgeHandler(stream=lines))
    return logger


class TestAnyRecord:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        attributes=RECORDS,
        extra=st.dictionaries(KEYS, VALUES, max_size=6),
        processors=st.sampled_from([[], KEEP]),
        limit=st.sampled_from([512, 16_000]),
    )
    def test_is_one_strict_line_and_one_log_record(
        self, attributes: dict[str, Any], extra: dict[Any, Any], processors: list[Any], limit: int
    ) -> None:
        lines, exporter = Lines(), InMemoryLogRecordExporter()
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        long = "é" * 200_000
        record = logging.makeLogRecord({key: long if value == LONG else value for key, value in attributes.items()})
        record.__dict__.update(
            {long if key == LONG else key: value for key, value in extra.items() if key not in record.__dict__}
        )
        # Floats that are no time, and the like, are errors inside that cost no event.
        before, _diagnostics.reraise = _diagnostics.reraise, False
        muted, logging.lastResort = logging.lastResort, None
        try:
            BridgeHandler(processors=processors, stream=lines, logger_provider=provider, max_record_bytes=limit).handle(
                record
            )
        finally:
            _diagnostics.reraise, logging.lastResort = before, muted
        text = lines.getvalue()
        assert text.count("\n") == 1
        line = strict(text)
        assert len(text.encode("utf-8")) <= limit
        assert {"timestamp", "level", "logger", "event"} <= set(line)
        (log,) = exporter.get_finished_logs()
        assert log.log_record.body.startswith(line["event"][:20].rstrip("…"))
        assert len(encode_logs([log]).SerializeToString()) <= MAX_OTLP_BYTES + 3_000, "the rest is the SDK's frame"

    def test_a_record_whose_attributes_are_of_any_kind_is_not_lost(
        self, lines: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        handler = BridgeHandler(stream=lines)
        for attribute in ("name", "levelname", "levelno", "created", "exc_info", "exc_text", "args", "stack_info"):
            for value in (Hostile(), None, [], {}, 1.5, "text", (1, 2), b"bytes"):
                handler.handle(logging.makeLogRecord({"msg": f"{attribute} is odd", "levelno": 20, attribute: value}))
        odd = [strict(line + "\n") for line in lines.getvalue().splitlines()]
        counted = collections.Counter(line["event"].partition(" ")[0] for line in odd if "is odd" in line["event"])
        assert counted == dict.fromkeys(
            ("name", "levelname", "levelno", "created", "exc_info", "exc_text", "args", "stack_info"), 8
        )

    def test_the_least_that_can_be_said_is_within_the_limit_too(
        self, lines: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        odd = {"levelno": None, "levelname": "\u2028" * 900, "name": "\u2028" * 900, "msg": "\u2028" * 900}
        BridgeHandler(stream=lines, max_record_bytes=512).handle(logging.makeLogRecord(odd))
        assert set(strict(lines.getvalue())) == {"timestamp", "level", "logger", "event"}
        assert len(lines.getvalue().encode()) <= 512

    def test_a_caller_at_the_end_of_its_stack_gets_no_error_of_ours(self, lines: Lines) -> None:
        handler = BridgeHandler(stream=lines)
        record = logging.makeLogRecord({"msg": "deep", "levelno": 20})

        def deeper() -> None:
            try:
                deeper()
            except RecursionError:
                handler.handle(record)
                raise

        before = _diagnostics.reraise
        _diagnostics.reraise = False
        try:
            with pytest.raises(RecursionError):
                deeper()
        finally:
            _diagnostics.reraise = before
        assert lines.last["event"] == "deep"

    def test_a_time_that_no_calendar_has_is_now(self, lines: Lines) -> None:
        BridgeHandler(stream=lines).handle(logging.makeLogRecord({"msg": "x", "levelno": 20, "created": 1e30}))
        age = dt.datetime.now(dt.timezone.utc) - dt.datetime.fromisoformat(
            lines.last["timestamp"].replace("Z", "+00:00")
        )
        assert abs(age) < dt.timedelta(minutes=5)


class TestKeys:
    def test_each_keeps_its_value_whatever_it_is(self, lines: Lines) -> None:
        record = logging.makeLogRecord({"msg": "x", "levelno": 20})
        odd = {1: "number", "1": "text", "\ud800": "lone", "\\ud800": "escaped", "k" * 1_000: "long", ("a",): "tuple"}
        record.__dict__.update(odd)
        BridgeHandler(stream=lines).handle(record)
        line = strict(lines.getvalue())
        assert set(odd.values()) <= set(line.values())
        assert line["1"] == "text", "a key that can stand as it is keeps its name"
        assert max(map(len, line)) <= 256

    def test_a_prefixed_name_never_meets_another(self, log: logging.Logger, lines: Lines) -> None:
        log.info("x", extra={"level": 1, "extra.level": 2, "extra.extra.level": 3, "extra.other": 4})
        line = strict(lines.getvalue())
        assert [line["extra." * count + "level"] for count in (1, 2, 3)] == [1, 2, 3]
        assert line["extra.other"] == 4

    def test_keys_of_a_mapping_that_look_alike_stand_beside_each_other(self, log: logging.Logger, lines: Lines) -> None:
        log.info("x", extra={"value": {1: "a", "1": "b", None: "c", "None": "d"}})
        assert sorted(strict(lines.getvalue())["value"].values()) == ["a", "b", "c", "d"]


class TestValues:
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (decimal.Decimal("1.50"), "1.50"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (pathlib.PurePosixPath("/models/digits"), "/models/digits"),
            (Colour.RED, "red"),
            (dt.date(2026, 1, 2), "2026-01-02"),
            (dt.timedelta(seconds=90), "0:01:30"),
            (1 + 2j, "(1+2j)"),
            (Config(2, ["a"]), {"batch": 2, "names": ["a"]}),
            (collections.OrderedDict(a=(1, 2)), {"a": [1, 2]}),
            (collections.deque([1, 2]), [1, 2]),
            ({"a": 1}.keys(), ["a"]),
            (np.float64("inf"), "inf"),
            (np.bool_(True), True),
            (np.int64(7), 7),
            (np.array([1.5, float("nan")]), [1.5, "nan"]),
            (bytearray(b"ab\xff"), "ab\\xff"),
            (ValueError("v"), "ValueError('v')"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_have_the_form_that_json_has_for_them(
        self, log: logging.Logger, lines: Lines, value: Any, shown: Any
    ) -> None:
        log.info("x", extra={"value": value, "nested": [value]})
        line = strict(lines.getvalue())
        assert line["value"] == shown
        assert line["nested"] == [shown]

    def test_a_dataclass_with_a_text_of_its_own_keeps_it(self, log: logging.Logger, lines: Lines) -> None:
        @dataclasses.dataclass(repr=False)
        class Account:
            number: str

            def __repr__(self) -> str:
                return "Account(…)"

        log.info("x", extra={"value": Account("4111")})
        assert strict(lines.getvalue())["value"] == "Account(…)"

    def test_a_list_that_holds_itself_many_times_ends_at_once(self, log: logging.Logger, lines: Lines) -> None:
        started = time.thread_time()
        log.info("x %s", "y", extra={"value": _endless(), "deep": [[[[[[[[[[[[1]]]]]]]]]]]]})
        # 300 to the power of eight otherwise: no machine is so slow, and none so fast.
        assert time.thread_time() - started < 20
        assert strict(lines.getvalue())["event"] == "x y"

    def test_a_huge_collection_is_cut_and_says_how_much_is_left(self, log: logging.Logger, lines: Lines) -> None:
        log.info("x", extra={"list": list(range(1_000_000)), "dict": dict.fromkeys(range(1_000))})
        line = strict(lines.getvalue())
        assert line["list"][255:] == [255, "… 999744 more"]
        assert line["dict"]["…"] == "744 more"

    def test_a_change_after_the_call_shows_nowhere(self, logger: logging.Logger, lines: Lines) -> None:
        exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        logger.addHandler(BridgeHandler(stream=lines, logger_provider=provider))
        value = {"list": [1], "array": np.zeros(2), "config": Config(1, ["a"])}
        logger.info("%s", value["list"], extra={"value": value})
        value["list"].append(2)
        value["array"][0] = 9
        value["config"].names.append("b")
        expected = {"list": [1], "array": [0.0, 0.0], "config": {"batch": 1, "names": ["a"]}}
        assert strict(lines.getvalue())["value"] == expected
        (log,) = exporter.get_finished_logs()
        assert log.log_record.body == "[1]"
        assert json.loads(json.dumps(log.log_record.attributes["value"], default=dict)) == expected


class OnDevice(torch.Tensor):
    """A tensor that says it is on a GPU, and fails the test when anything reads it."""

    @classmethod
    def of_shape(cls, *shape: int) -> OnDevice:
        tensor: OnDevice = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device="cuda:0")
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, _args: Any = (), _kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} would wait for the device")


@dataclasses.dataclass
class Batch:
    tensor: torch.Tensor


class Detection:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __repr__(self) -> str:
        return f"Detection({self.tensor!r}, {self.tensor})"


class TestTensors:
    def test_a_small_one_in_memory_is_its_numbers_and_a_large_one_its_kind(
        self, log: logging.Logger, lines: Lines
    ) -> None:
        log.info(
            "x",
            extra={
                "scalar": torch.tensor(0.5, requires_grad=True),
                "small": torch.tensor([[1, 2]]),
                "half": torch.tensor([1.5], dtype=torch.bfloat16),
                "large": torch.zeros(3, 224, 224),
                "sparse": torch.eye(2).to_sparse(),
            },
        )
        line = strict(lines.getvalue())
        assert (line["scalar"], line["small"], line["half"]) == (0.5, [[1, 2]], [1.5])
        assert line["large"] == "<Tensor shape=(3, 224, 224), dtype=torch.float32, device=cpu>"
        assert line["sparse"] == "<Tensor shape=(2, 2), dtype=torch.float32, device=cpu>"

    @pytest.mark.parametrize("make", [lambda: OnDevice.of_shape(2), lambda: torch.ones(2, device="meta")])
    def test_one_on_a_device_is_not_copied_to_print_it(self, lines: Lines, make: Any) -> None:
        exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        # Past `logging`: pytest has a handler there that prints everything.
        handler = BridgeHandler(processors=KEEP, stream=lines, logger_provider=provider)
        tensor = make()
        handler.handle(
            logging.makeLogRecord(
                {
                    "msg": "%s %r %s",
                    "args": (tensor, [tensor], Detection(tensor)),
                    "levelno": logging.ERROR,
                    "exc_info": (ValueError, ValueError(tensor), None),
                    "value": tensor,
                    "nested": {"a": [tensor]},
                    "batch": Batch(tensor),
                    "own": Detection(tensor),
                    "error": ValueError(tensor),
                    "layer": torch.nn.Identity(),
                }
            )
        )
        handler.handle(logging.makeLogRecord({"msg": tensor, "levelno": logging.INFO}))
        first, second = (strict(line + "\n") for line in lines.getvalue().splitlines())
        shown = first["value"]
        assert shown.startswith(f"<{type(tensor).__name__} shape=(2,), dtype=torch.float32, device=")
        assert first["event"] == f"{shown} [{shown}] Detection({shown}, {shown})"
        assert first["nested"] == {"a": [shown]}
        assert first["batch"] == {"tensor": shown}
        assert first["own"] == f"Detection({shown}, {shown})"
        assert first["error"] == f"ValueError({shown})"
        assert first["exception"]["message"] == shown
        assert first["exception"]["stacktrace"].rstrip().endswith(f"ValueError: {shown}")
        assert first["layer"] == "Identity()"
        assert second["event"] == shown
        assert len(exporter.get_finished_logs()) == 2

    def test_one_in_memory_is_printed_by_torch_as_ever(self, log: logging.Logger, lines: Lines) -> None:
        log.info("%s", torch.tensor([1, 2]))
        assert strict(lines.getvalue())["event"] == "tensor([1, 2])"


class TestExceptions:
    def test_a_group_names_its_members(self, log: logging.Logger, lines: Lines) -> None:
        if sys.version_info >= (3, 11):
            error: Exception = ExceptionGroup("several", [ValueError("one"), KeyError("two")])  # noqa: F821
        else:  # as the backport has it

            class BackportError(Exception):
                exceptions = (ValueError("one"), KeyError("two"))

            error = BackportError("several")
        log.error("x", exc_info=error)
        exception = strict(lines.getvalue())["exception"]
        assert exception["message"].startswith("several")
        assert exception["exceptions"] == [
            {"type": "ValueError", "message": "one"},
            {"type": "KeyError", "message": "'two'"},
        ]

    def test_notes_are_kept(self, log: logging.Logger, lines: Lines) -> None:
        error = ValueError("v")
        error.__notes__ = ["while reading row 7"]
        log.error("x", exc_info=error)
        exception = strict(lines.getvalue())["exception"]
        assert exception["notes"] == ["while reading row 7"]
        assert list(exception) == ["type", "message", "stacktrace", "notes"]

    def test_a_chain_that_closes_on_itself_ends(self, log: logging.Logger, lines: Lines) -> None:
        first, second = ValueError("first"), KeyError("second")
        first.__cause__, second.__cause__ = second, first
        log.error("x", exc_info=first)
        assert [cause["type"] for cause in strict(lines.getvalue())["exception"]["causes"]] == ["KeyError"]

    def test_a_long_stack_trace_keeps_its_end_in_the_otlp_record_too(self, logger: logging.Logger) -> None:
        exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        logger.addHandler(BridgeHandler(stream=Lines(), logger_provider=provider))
        logger.error("x", exc_info=ValueError("start " + "x" * 100_000 + " end"))
        (log,) = exporter.get_finished_logs()
        assert log.log_record.attributes["exception.stacktrace"].rstrip().endswith(" end")
        assert log.log_record.attributes["truncated"] is True


class TestRecordLimits:
    def test_an_otlp_record_is_cut_to_64_kib_and_marked(self, logger: logging.Logger, lines: Lines) -> None:
        exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        logger.addHandler(BridgeHandler(stream=lines, logger_provider=provider))
        logger.info("kept", extra={f"field_{number}": "é" * 9_000 for number in range(40)})
        logger.info("kept", extra={"field": "x" * 60_000})
        cut, whole = exporter.get_finished_logs()
        assert cut.log_record.body == "kept"
        assert cut.log_record.attributes["truncated"] is True
        assert len(encode_logs([cut]).SerializeToString()) <= MAX_OTLP_BYTES
        assert len(whole.log_record.attributes["field"]) == 60_000
        assert "truncated" not in whole.log_record.attributes

    def test_ten_thousand_fields_are_cut_in_one_go(self, logger: logging.Logger, lines: Lines) -> None:
        renders = []

        def render(_logger: Any, _method: str, event_dict: dict[str, Any]) -> str:
            renders.append(len(event_dict))
            return json.dumps(event_dict)

        logger.addHandler(BridgeHandler(stream=lines, renderer=render, max_record_bytes=1_000))
        logger.info("kept", extra={f"field_{number}": number for number in range(10_000)})
        assert strict(lines.getvalue())["event"] == "kept"
        assert len(lines.getvalue()) <= 1_000
        assert len(renders) < 20

    def test_our_own_fields_give_way_too_when_they_alone_are_too_long(
        self, logger: logging.Logger, lines: Lines
    ) -> None:
        logger.addHandler(BridgeHandler(stream=lines, max_record_bytes=512))
        error = ValueError("\u2028" * 500)
        error.__notes__ = ["\u2028" * 500] * 16
        logger.error("\u2028" * 500, exc_info=error)
        line = strict(lines.getvalue())
        assert len(lines.getvalue().encode()) <= 512
        assert line["event"].startswith("\u2028")
        assert line["truncated"] is True


class TestRenderers:
    @pytest.mark.parametrize("broken", [lambda *_: 1 / 0, lambda *_: None])
    def test_one_that_fails_costs_its_form_not_the_event(
        self, logger: logging.Logger, lines: Lines, monkeypatch: pytest.MonkeyPatch, broken: Any
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        logger.addHandler(BridgeHandler(stream=lines, renderer=broken))
        logger.info("kept", extra={"answer": 42})
        line = strict(lines.getvalue())
        assert (line["event"], line["answer"]) == ("kept", 42)
