"""Any program's log records as lines: `BridgeHandler` alone, without configure, SDK or TorchServe."""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider

from lines import Lines
from ts_otel_logging import BridgeHandler, _diagnostics, _scope, get_logger, request_scope

if TYPE_CHECKING:
    from pathlib import Path

HUGE = 10**5000
TRACER = TracerProvider().get_tracer("test")


@pytest.fixture
def log(logger: logging.Logger, lines: Lines) -> logging.Logger:
    logger.addHandler(BridgeHandler(stream=lines))
    return logger


class TestDefaultShape:
    def test_fields_come_in_the_order_of_the_contract(self, log: logging.Logger, lines: Lines) -> None:
        _scope.set_process("digits", "1.0", "9000")
        token = _scope.enter(_scope.of_request("request-1", "client-1"))
        try:
            with TRACER.start_as_current_span("predict"):
                log.info("ready", extra={"answer": 42}, exc_info=ValueError("bad"))
        finally:
            _scope.leave(token)
            _scope.reset_process()
        assert list(lines.last) == [
            "timestamp", "level", "logger", "event", "trace_id", "span_id", "trace_flags", "request_id",
            "client_request_id", "model_name", "model_version", "worker_id", "answer", "exception",
        ]  # fmt: skip

    def test_the_time_is_the_records_in_utc_to_the_microsecond(self, log: logging.Logger, lines: Lines) -> None:
        log.handle(
            logging.makeLogRecord({"created": 1_700_000_000.123456, "msg": "then", "levelno": 20, "levelname": "INFO"})
        )
        assert lines.last["timestamp"] == "2023-11-14T22:13:20.123456Z"

    def test_ids_are_hex_digits_of_the_current_span(self, log: logging.Logger, lines: Lines) -> None:
        with TRACER.start_as_current_span("predict") as span:
            log.info("inside")
        log.info("outside")
        context = span.get_span_context()
        inside, outside = lines.objects
        assert inside["trace_id"] == format(context.trace_id, "032x")
        assert inside["span_id"] == format(context.span_id, "016x")
        assert int(inside["trace_flags"], 16) & 1, "sampled"
        assert len(inside["trace_flags"]) == 2
        assert not {"trace_id", "span_id", "trace_flags"} & set(outside)

    def test_a_span_inside_another_shows_its_own_id(self, log: logging.Logger, lines: Lines) -> None:
        with TRACER.start_as_current_span("outer") as outer:
            log.info("before")
            with TRACER.start_as_current_span("inner") as inner:
                log.info("within")
            log.info("after")
        ids = [format(span.get_span_context().span_id, "016x") for span in (outer, inner, outer)]
        assert [line["span_id"] for line in lines.objects] == ids

    def test_levels_keep_their_names_custom_ones_too(self, log: logging.Logger, lines: Lines) -> None:
        logging.addLevelName(25, "NOTICE")
        for level in (logging.DEBUG, logging.INFO, 25, logging.WARNING, logging.ERROR, logging.CRITICAL):
            log.log(level, "x")
        assert [line["level"] for line in lines.objects] == [
            "debug", "info", "notice", "warning", "error", "critical",
        ]  # fmt: skip

    def test_a_key_that_collides_is_kept_under_a_prefix(self, log: logging.Logger, lines: Lines) -> None:
        log.info("x", extra={"timestamp": "theirs", "level": 9, "request_id": "theirs"})
        assert lines.last["extra.timestamp"] == "theirs"
        assert lines.last["extra.level"] == 9
        assert lines.last["extra.request_id"] == "theirs"
        assert lines.last["level"] == "info"

    def test_a_key_that_is_another_ones_prefixed_name_stands_beside_it(self, log: logging.Logger, lines: Lines) -> None:
        log.info("x", extra={"level": 1, "extra.level": 2})
        assert (lines.last["extra.level"], lines.last["extra.extra.level"]) == (1, 2)

    def test_an_exception_is_one_object_with_its_causes(self, log: logging.Logger, lines: Lines) -> None:
        try:
            try:
                _ = 1 / 0
            except ZeroDivisionError as error:
                raise KeyError("missing") from error
        except KeyError:
            log.exception("failed")
        exception = lines.last["exception"]
        assert exception["type"] == "KeyError"
        assert exception["message"] == "'missing'"
        assert exception["stacktrace"].startswith("Traceback (most recent call last):")
        assert exception["stacktrace"].rstrip().endswith("KeyError: 'missing'")
        assert exception["causes"] == [{"type": "ZeroDivisionError", "message": "division by zero"}]

    def test_an_exception_type_is_qualified(self, log: logging.Logger, lines: Lines) -> None:
        log.error("x", exc_info=subprocess.TimeoutExpired("cmd", 1))
        assert lines.last["exception"]["type"] == "subprocess.TimeoutExpired"

    def test_stack_info_is_a_field(self, log: logging.Logger, lines: Lines) -> None:
        log.info("x", stack_info=True)
        assert "test_stack_info_is_a_field" in lines.last["stack_info"]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class TestAnyValue:
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (float("nan"), "nan"),
            (float("-inf"), "-inf"),
            (HUGE, "an integer of 16610 bits"),
            (b"\xff\x00a", "\\xff\x00a"),
            ({1, 2}, [1, 2]),
            ((1, "a"), [1, "a"]),
            ({1: {"a": None}}, {"1": {"a": None}}),
            (dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc), "2026-01-02T00:00:00+00:00"),
            (Unprintable(), "<Unprintable: RuntimeError while rendering>"),
            ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_json_cannot_hold_is_shown_safely(
        self, log: logging.Logger, lines: Lines, value: Any, shown: Any
    ) -> None:
        log.info("x", extra={"value": value})
        assert lines.last["value"] == shown

    def test_a_cycle_ends(self, log: logging.Logger, lines: Lines) -> None:
        cycle: list[Any] = []
        cycle.append(cycle)
        log.info("x", extra={"cycle": cycle})
        assert lines.last["event"] == "x"

    def test_a_numpy_scalar_is_a_number_and_an_array_its_kind(self, log: logging.Logger, lines: Lines) -> None:
        import numpy as np

        log.info("x", extra={"scalar": np.float32(0.5), "small": np.zeros((2, 3)), "array": np.zeros((7, 3))})
        assert lines.last["scalar"] == 0.5
        assert lines.last["small"] == [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
        assert lines.last["array"].startswith("<ndarray shape=(7, 3), dtype=float64")

    def test_arguments_that_do_not_fit_cost_nothing_of_the_event(self, lines: Lines) -> None:
        BridgeHandler(stream=lines).handle(
            logging.makeLogRecord({"msg": "%d things", "args": ("many",), "levelno": 20})
        )
        assert "%d things" in lines.last["event"]
        assert "many" in lines.last["event"]

    @given(
        message=st.text(),
        extra=st.dictionaries(
            st.text(min_size=1),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
                lambda inner: (
                    st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
                ),
                max_leaves=8,
            ),
            max_size=4,
        ),
    )
    def test_any_record_is_one_strict_line(self, message: str, extra: dict[str, Any]) -> None:
        lines = Lines()
        record = logging.makeLogRecord({"msg": message, "args": (), "levelname": "INFO", "levelno": 20, "name": "any"})
        record.__dict__.update({key: value for key, value in extra.items() if key not in record.__dict__})
        BridgeHandler(stream=lines).handle(record)
        text = lines.getvalue()
        assert text.endswith("}\n")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", text)
        assert text.count("\n") == 1
        text.encode("utf-8")
        assert "event" in lines.last

    @given(text=st.text())
    def test_text_that_utf8_can_hold_reads_back_as_it_was(self, text: str) -> None:
        lines = Lines()
        BridgeHandler(stream=lines).handle(
            logging.makeLogRecord({"msg": text, "levelname": "INFO", "levelno": 20, "value": text})
        )
        if text.encode("utf-8", "replace").decode() == text:
            assert lines.last["event"] == text
            assert lines.last["value"] == text


class TestLimit:
    def test_a_long_event_is_cut_to_valid_json_and_marked(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(BridgeHandler(stream=lines, max_record_bytes=2_000))
        logger.error("x" * 10_000, extra={"long": "é" * 10_000, "list": list(range(10_000)), "short": 1})
        assert len(lines.getvalue().encode()) <= 2_000
        assert lines.last["truncated"] is True
        assert lines.last["short"] == 1
        assert lines.last["event"].startswith("xxx")

    def test_many_fields_give_way_before_ours_do(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(BridgeHandler(stream=lines, max_record_bytes=1_000))
        logger.info("kept", extra={f"field_{number}": "x" * 50 for number in range(200)})
        assert len(lines.getvalue().encode()) <= 1_000
        assert lines.last["event"] == "kept"

    def test_a_stack_trace_keeps_its_end(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(BridgeHandler(stream=lines, max_record_bytes=4_000))

        def recurse(depth: int) -> None:
            if depth == 0:
                raise ValueError("at the bottom")
            if depth % 2:
                recurse(depth - 1)
            else:
                recurse(depth - 1)

        try:
            recurse(200)
        except ValueError:
            logger.exception("deep")
        assert lines.last["exception"]["stacktrace"].rstrip().endswith("ValueError: at the bottom")


class TestProcessors:
    def test_they_see_the_event_and_what_they_return_is_the_line(self, logger: logging.Logger, lines: Lines) -> None:
        seen = []

        def add(_logger: Any, method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
            seen.append((method, dict(event_dict)))
            return {**event_dict, "added": True}

        logger.addHandler(BridgeHandler(processors=[add], stream=lines))
        logger.warning("x", extra={"answer": 42})
        assert seen == [("warning", {"level": "warning", "logger": "acme.model", "event": "x", "answer": 42})]
        assert lines.last["added"] is True

    def test_drop_event_drops_it(self, logger: logging.Logger, lines: Lines) -> None:
        def drop(*_: Any) -> Any:
            raise structlog.DropEvent

        logger.addHandler(BridgeHandler(processors=[drop], stream=lines))
        logger.info("x")
        assert lines.getvalue() == ""

    @pytest.mark.parametrize("broken", [lambda *_: 1 / 0, lambda *_: None])
    def test_a_broken_one_costs_only_its_own_effect_as_is_said(
        self,
        logger: logging.Logger,
        lines: Lines,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        broken: Any,
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        monkeypatch.setattr(_diagnostics, "_last_told", {})
        logger.addHandler(BridgeHandler(processors=[broken, lambda _l, _m, e: {**e, "later": 1}], stream=lines))
        logger.info("x")
        assert lines.last["event"] == "x"
        assert lines.last["later"] == 1
        (report,) = [record for record in caplog.records if record.name == _diagnostics.LOGGER_NAME]
        assert report.msg == "processor failed: its effect on the event is lost, nothing else"
        assert "<lambda>" in vars(report)["where"]

    def test_none_and_one_that_changes_nothing_give_the_same_bytes(self, logger: logging.Logger) -> None:
        record = logging.makeLogRecord(
            {"msg": "x %s", "args": ("é\u2028",), "name": "acme", "levelname": "ERROR", "levelno": 40, "created": 1.5,
             "f": 0.1, "level": "mine", "nested": {"a": [1, b"\xff"]}, "exc_info": (ValueError, ValueError("v"), None)}
        )  # fmt: skip
        fast, slow = Lines(), Lines()
        with TRACER.start_as_current_span("span"):
            BridgeHandler(stream=fast).handle(record)
            BridgeHandler(stream=slow, processors=[lambda _l, _m, event_dict: event_dict]).handle(record)
        assert fast.getvalue() == slow.getvalue()

    def test_a_structlog_renderer_may_write_the_line(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(BridgeHandler(renderer=structlog.processors.LogfmtRenderer(), stream=lines))
        logger.info("x", extra={"answer": 42})
        assert lines.getvalue() == "level=info logger=acme.model event=x answer=42\n"

    def test_an_event_that_cannot_be_processed_at_all_is_not_lost(
        self, lines: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        BridgeHandler(stream=lines).handle(logging.makeLogRecord({"msg": "no level", "levelno": None}))
        assert lines.last["event"] == "no level"

    def test_an_unknown_shape_is_refused_with_what_is_accepted(self) -> None:
        with pytest.raises(ValueError, match=r"'xml'.*structlog"):
            BridgeHandler(renderer="xml")


class TestStructlog:
    def test_its_loggers_end_in_the_same_lines(self, log: logging.Logger, lines: Lines) -> None:
        get_logger("acme.model").info("x", answer=42, name="collides")
        log.info("x", extra={"answer": 42})
        native, standard = lines.objects
        assert native["answer"] == standard["answer"] == 42
        assert native["extra.name"] == "collides"
        assert native["logger"] == standard["logger"]

    def test_positional_arguments_are_put_in(self, log: logging.Logger, lines: Lines) -> None:
        get_logger("acme.model").info("loaded %s in %d ms", "m", 3)
        assert lines.last["event"] == "loaded m in 3 ms"

    def test_bound_context_is_on_every_line(self, log: logging.Logger, lines: Lines) -> None:
        structlog.contextvars.bind_contextvars(tenant="acme")
        log.info("x")
        get_logger("acme.model").info("y")
        assert [line["tenant"] for line in lines.objects] == ["acme", "acme"]


class TestOtlpTwin:
    @pytest.fixture
    def exporter(self) -> InMemoryLogRecordExporter:
        return InMemoryLogRecordExporter()

    @pytest.fixture
    def twin(self, logger: logging.Logger, lines: Lines, exporter: InMemoryLogRecordExporter) -> logging.Logger:
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        logger.addHandler(BridgeHandler(stream=lines, logger_provider=provider))
        return logger

    def test_it_says_what_the_line_says(
        self, twin: logging.Logger, lines: Lines, exporter: InMemoryLogRecordExporter
    ) -> None:
        logging.addLevelName(25, "NOTICE")
        with TRACER.start_as_current_span("predict") as span:
            twin.log(25, "x %d", 1, extra={"answer": 42, "nested": {"a": [1]}}, exc_info=ValueError("bad"))
        (data,) = exporter.get_finished_logs()
        record, line = data.log_record, lines.last
        assert record.body == line["event"] == "x 1"
        assert record.trace_id == span.get_span_context().trace_id
        assert record.span_id == span.get_span_context().span_id
        assert data.instrumentation_scope.name == "acme.model"
        assert record.severity_text == "NOTICE"
        assert record.severity_number.value == 12
        assert record.attributes["answer"] == 42
        assert record.attributes["exception.type"] == "ValueError"
        assert record.attributes["exception.message"] == "bad"
        assert record.attributes["log.record.uid"] == line["log.record.uid"]
        assert not {"event", "logger", "level", "trace_id", "timestamp"} & set(record.attributes)
        assert record.timestamp // 1_000 % 1_000_000 == int(line["timestamp"][20:26])

    def test_every_event_has_an_id_of_its_own(self, twin: logging.Logger, lines: Lines) -> None:
        for _ in range(100):
            twin.info("x")
        assert len({line["log.record.uid"] for line in lines.objects}) == 100

    def test_it_is_a_copy_of_the_moment(self, twin: logging.Logger, exporter: InMemoryLogRecordExporter) -> None:
        value = {"a": [1]}
        twin.info("x", extra={"value": value})
        value["a"].append(2)
        (data,) = exporter.get_finished_logs()
        assert list(data.log_record.attributes["value"]["a"]) == [1]

    @pytest.mark.parametrize("text", ["\ud83d", b"\xff" * 100_000, "é" * 100_000])
    def test_its_text_is_bounded_and_utf8_can_hold_it(
        self, twin: logging.Logger, exporter: InMemoryLogRecordExporter, text: Any
    ) -> None:
        twin.error("broken %s", text, extra={"value": text, "nested": [text]}, exc_info=ValueError(text))
        (data,) = exporter.get_finished_logs()
        values = [data.log_record.body, *map(str, data.log_record.attributes.values())]
        assert max(len(value.encode("utf-8")) for value in values) < 300_000

    def test_a_cut_line_does_not_cut_it(
        self, logger: logging.Logger, lines: Lines, exporter: InMemoryLogRecordExporter
    ) -> None:
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        same = [lambda _l, _m, event_dict: event_dict]
        logger.addHandler(
            BridgeHandler(processors=same, stream=lines, logger_provider=provider, max_record_bytes=2_000)
        )
        logger.info("x", extra={"long": "y" * 10_000})
        (data,) = exporter.get_finished_logs()
        assert lines.last["truncated"] is True
        assert len(data.log_record.attributes["long"]) == 10_000

    def test_an_exception_that_a_processor_made_text_is_its_stack_trace(
        self, logger: logging.Logger, lines: Lines, exporter: InMemoryLogRecordExporter
    ) -> None:
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        flatten = [lambda _l, _m, event_dict: {**event_dict, "exception": "a type of text"}]
        logger.addHandler(BridgeHandler(processors=flatten, stream=lines, logger_provider=provider))
        logger.error("x", exc_info=ValueError())
        (data,) = exporter.get_finished_logs()
        assert data.log_record.attributes["exception.stacktrace"] == "a type of text"

    def test_a_key_that_collides_with_an_attribute_of_ours_is_prefixed(
        self, twin: logging.Logger, lines: Lines, exporter: InMemoryLogRecordExporter
    ) -> None:
        twin.info("x", extra={"log.record.uid": "mine"})
        (data,) = exporter.get_finished_logs()
        assert data.log_record.attributes["log.record.uid"] == lines.last["log.record.uid"] != "mine"
        assert data.log_record.attributes["extra.log.record.uid"] == "mine"

    @pytest.mark.parametrize("name", ["urllib3.connectionpool", "ts_otel_logging.export"])
    def test_what_the_exporter_says_is_not_exported(
        self, lines: Lines, exporter: InMemoryLogRecordExporter, twin: logging.Logger, name: str
    ) -> None:
        handler = twin.handlers[0]
        handler.handle(logging.makeLogRecord({"name": name, "msg": "Retrying", "levelno": 30}))
        assert lines.last["event"] == "Retrying"
        # Whoever drops lines that came by OTLP as well must not drop this one.
        assert "log.record.uid" not in lines.last
        assert exporter.get_finished_logs() == ()


class TestRequestScope:
    def test_it_narrows_a_batch_to_one_request(self, log: logging.Logger, lines: Lines) -> None:
        members = (_scope.of_request("r0", None), _scope.of_request("r1", "c1"))
        token = _scope.enter(_scope.of_batch(["r0", "r1"], ["t0", "t1"], members))
        try:
            log.info("batch")
            with request_scope(1):
                log.info("one")
            with request_scope(7):
                log.info("none such")
        finally:
            _scope.leave(token)
        batch, one, none_such = lines.objects
        assert (batch["request_ids"], batch["trace_ids"]) == (["r0", "r1"], ["t0", "t1"])
        assert (one["request_id"], one["client_request_id"]) == ("r1", "c1")
        assert none_such["request_ids"] == ["r0", "r1"]

    def test_a_processor_cannot_change_the_batch(self, logger: logging.Logger, lines: Lines) -> None:
        def append(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
            event_dict["request_ids"].append("mine")
            return event_dict

        logger.addHandler(BridgeHandler(processors=[append], stream=lines))
        token = _scope.enter(_scope.of_batch(["r0"], ["t0"], ()))
        try:
            logger.info("x")
            logger.info("y")
        finally:
            _scope.leave(token)
        assert [line["request_ids"] for line in lines.objects] == [["r0", "mine"]] * 2

    def test_outside_a_request_it_does_nothing(self, log: logging.Logger, lines: Lines) -> None:
        with request_scope(0):
            log.info("x")
        assert "request_id" not in lines.last


class TestWriting:
    def test_threads_never_tear_each_others_lines(self, logger: logging.Logger) -> None:
        read_end, write_end = os.pipe()
        received = bytearray()

        def drain() -> None:
            while chunk := os.read(read_end, 65_536):
                received.extend(chunk)

        reader = threading.Thread(target=drain)
        reader.start()
        with os.fdopen(write_end, "w") as stream:
            logger.addHandler(BridgeHandler(stream=stream))
            # Lines on both sides of PIPE_BUF, below which a write is whole by itself.
            threads = [
                threading.Thread(target=lambda size=size: [logger.info("x" * size) for _ in range(200)])
                for size in (10, 3_000, 9_000, 12_000)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        reader.join()
        os.close(read_end)
        lines = Lines(received.decode())
        assert sorted({len(line["event"]) for line in lines.objects}) == [10, 3_000, 9_000, 12_000]
        assert len(lines.objects) == 800

    def test_the_line_is_out_before_a_kill(self) -> None:
        program = """
            import logging, os, signal
            from ts_otel_logging import BridgeHandler
            logging.basicConfig(handlers=[BridgeHandler()], level="INFO")
            logging.info("last words")
            os.kill(os.getpid(), signal.SIGKILL)
        """
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
        )
        assert Lines(result.stdout).last["event"] == "last words"

    def test_a_descriptor_that_does_not_block_loses_nothing(self, logger: logging.Logger) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        received = bytearray()

        def drain() -> None:
            while chunk := os.read(read_end, 1_024):
                received.extend(chunk)

        with os.fdopen(write_end, "w") as stream:
            logger.addHandler(BridgeHandler(stream=stream))
            reader = threading.Timer(0.05, drain)
            reader.start()
            for _ in range(100):
                logger.info("x" * 2_000)
        reader.join()
        os.close(read_end)
        assert len(Lines(received.decode()).objects) == 100

    def test_a_signal_handler_may_log(self) -> None:
        program = """
            import logging, signal
            from ts_otel_logging import BridgeHandler
            logging.basicConfig(handlers=[BridgeHandler()], level="INFO")
            signal.signal(signal.SIGALRM, lambda *_: logging.info("from the handler"))
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for number in range(2000):
                logging.info("x" * 5000)
            signal.setitimer(signal.ITIMER_REAL, 0)
            logging.info("end")
        """
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=60
        )
        assert '"event":"end"' in result.stdout.splitlines()[-1]

    def test_a_child_after_a_fork_can_write(self, logger: logging.Logger) -> None:
        program = """
            import logging, os, threading
            from ts_otel_logging import BridgeHandler
            logging.basicConfig(handlers=[BridgeHandler()], level="INFO")
            stop = threading.Event()
            def chatter():
                while not stop.is_set():
                    logging.info("x" * 8000)
            thread = threading.Thread(target=chatter); thread.start()
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    logging.info("child")
                    os._exit(0)
                os.waitpid(pid, 0)
            stop.set(); thread.join()
        """
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )

    def test_a_reader_that_is_gone_raises_nothing(
        self, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        read_end, write_end = os.pipe()
        os.close(read_end)
        stream = os.fdopen(write_end, "w")
        handler = BridgeHandler(stream=stream)
        handler.passthrough = lambda record: record.msg.startswith("[METRICS]")
        logger.addHandler(handler)
        logger.info("an event")
        logger.info("[METRICS]a line of the protocol")
        stream.close()
        logger.info("its descriptor may be another file's by now")

    def test_a_closed_streams_descriptor_is_not_written_to(
        self, logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        stream = (tmp_path / "log").open("w")
        logger.addHandler(BridgeHandler(stream=stream))
        stream.close()
        with (tmp_path / "model.bin").open("w") as other:
            logger.info("x")
        assert other.closed
        assert (tmp_path / "model.bin").read_text() == ""


class TestLevels:
    def test_a_named_logger_may_say_more_or_less_than_the_others(self, lines: Lines) -> None:
        handler = BridgeHandler(stream=lines)
        handler.set_thresholds(logging.WARNING, {"acme": logging.DEBUG, "acme.loud": logging.ERROR})
        for name in ("other", "acme", "acme.model", "acme.loud", "acme.loud.child"):
            for level in (logging.DEBUG, logging.WARNING, logging.ERROR):
                handler.handle(logging.makeLogRecord({"name": name, "levelno": level, "levelname": "L", "msg": "x"}))
        counts = {name: [line["logger"] for line in lines.objects].count(name) for name in
                  ("other", "acme", "acme.model", "acme.loud", "acme.loud.child")}  # fmt: skip
        assert counts == {"other": 2, "acme": 3, "acme.model": 3, "acme.loud": 1, "acme.loud.child": 1}


class TestSinks:
    def test_a_sink_gets_the_processed_record(self, logger: logging.Logger, lines: Lines) -> None:
        class Sink(logging.Handler):
            records: list[logging.LogRecord] = []  # noqa: RUF012

            def emit(self, record: logging.LogRecord) -> None:
                self.records.append(record)

        sink = Sink(logging.WARNING)
        mask = lambda _l, _m, event_dict: {**event_dict, "event": "masked"}  # noqa: E731
        logger.addHandler(BridgeHandler(processors=[mask], stream=lines, sinks=[sink]))
        logger.info("below its level")
        logger.warning("secret %s", "word", extra={"answer": 42})
        (record,) = sink.records
        assert record.getMessage() == "masked"
        assert record.answer == 42
