"""structlog and logging end in the same pipeline, whoever configured them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from lines import Lines
from ts_otel_logging import BridgeHandler, _diagnostics, _structlog, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def log(lines: Lines) -> Iterator[logging.Logger]:
    """The logger of this module, which structlog finds by its caller."""
    logger = logging.getLogger(__name__)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(BridgeHandler(stream=lines))
    yield logger
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def _configured() -> Iterator[None]:
    undo = _structlog.configure()
    yield
    undo()


def without_time(lines: Lines) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "timestamp"} for line in lines.objects]


@pytest.mark.usefixtures("_configured")
class TestSameFields:
    def test_of_both_kinds_of_logger(self, log: logging.Logger, lines: Lines) -> None:
        structlog.contextvars.bind_contextvars(tenant="acme")
        fields = {"answer": 42, "level": "mine", "nested": {"a": [1]}, "extra.level": "theirs"}
        log.warning("loaded %s", "digits", extra=fields)
        structlog.get_logger().warning("loaded %s", "digits", **fields)
        get_logger(__name__).warning("loaded %s", "digits", **fields)
        get_logger(__name__, answer=42).bind(nested={"a": [1]}).warning(
            "loaded %s", "digits", level="mine", **{"extra.level": "theirs"}
        )
        standard, *others = map(dict.items, without_time(lines))
        assert dict(standard)["tenant"] == "acme"
        for other in others:
            assert dict(other) == dict(standard)

    def test_of_exceptions_and_stacks(self, log: logging.Logger, lines: Lines) -> None:
        try:
            raise KeyError("missing")  # noqa: TRY301 - to have one with a traceback
        except KeyError:
            log.exception("failed", stack_info=True)
            structlog.get_logger().exception("failed", stack_info=True)
        standard, native = lines.objects
        assert native["exception"] == standard["exception"]
        assert native["exception"]["type"] == "KeyError"
        assert "test_of_exceptions_and_stacks" in native["stack_info"]

    def test_levels_of_loggers_hold_for_both(self, log: logging.Logger, lines: Lines) -> None:
        log.setLevel(logging.WARNING)
        log.info("x")
        structlog.get_logger().info("x")
        assert lines.getvalue() == ""


class TestAConfigurationOfTheProgramsOwn:
    def configure(self, *processors: Any) -> None:
        structlog.configure(
            processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level, *processors],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def test_that_renders_json_keeps_its_text_as_the_event(self, log: logging.Logger, lines: Lines) -> None:
        self.configure(structlog.processors.JSONRenderer(sort_keys=True))
        structlog.contextvars.bind_contextvars(tenant="acme")
        structlog.get_logger().info("ready", answer=42)
        assert lines.last["event"] == '{"answer": 42, "event": "ready", "level": "info", "tenant": "acme"}'
        assert (lines.last["logger"], lines.last["level"], lines.last["tenant"]) == (__name__, "info", "acme")
        assert _structlog.is_rendering()

    @pytest.mark.parametrize(
        "last",
        [structlog.stdlib.ProcessorFormatter.wrap_for_formatter, structlog.stdlib.render_to_log_kwargs],
    )
    def test_that_hands_its_fields_on_gives_fields(self, log: logging.Logger, lines: Lines, last: Any) -> None:
        self.configure(last)
        structlog.get_logger().info("ready", answer=42)
        assert (lines.last["event"], lines.last["answer"], lines.last["level"]) == ("ready", 42, "info")
        assert not {"_logger", "_name"} & set(lines.last)
        assert not _structlog.is_rendering()

    def test_for_a_processor_formatter_keeps_exceptions(self, log: logging.Logger, lines: Lines) -> None:
        self.configure(structlog.stdlib.ProcessorFormatter.wrap_for_formatter)
        try:
            raise KeyError("missing")  # noqa: TRY301 - to have one with a traceback
        except KeyError as error:
            structlog.get_logger().exception("by True")
            structlog.get_logger().error("by itself", exc_info=error)
        self.configure(structlog.processors.format_exc_info, structlog.stdlib.ProcessorFormatter.wrap_for_formatter)
        structlog.get_logger().error("as text", exc_info=ValueError("v"))
        first, second, third = (line["exception"] for line in lines.objects)
        assert first["type"] == second["type"] == "KeyError"
        assert third["stacktrace"].endswith("ValueError: v")

    def test_a_dict_that_somebody_logs_is_text(self, log: logging.Logger, lines: Lines) -> None:
        log.info({"event": "forged", "level": "critical"})
        assert lines.last["event"] == "{'event': 'forged', 'level': 'critical'}"
        assert lines.last["level"] == "info"

    def test_is_left_alone(self) -> None:
        self.configure(structlog.processors.JSONRenderer())
        before = structlog.get_config()["processors"]
        _structlog.configure()()
        assert structlog.get_config()["processors"] is before

    def test_a_class_of_loggers_of_its_own_stays(self) -> None:
        class Mine(logging.Logger):
            pass

        logging.setLoggerClass(Mine)
        try:
            undo = _structlog.configure()
            assert logging.getLoggerClass() is Mine
            undo()
        finally:
            logging.setLoggerClass(logging.Logger)
        undo = _structlog.configure()
        undo()
        assert logging.getLoggerClass() is logging.Logger


class TestProcessors:
    def test_what_one_does_to_a_nested_value_reaches_neither_the_caller_nor_the_next_if_it_fails(
        self, log: logging.Logger, lines: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)

        def half(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
            event_dict["value"]["list"].append("half")
            raise RuntimeError

        def whole(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
            event_dict["value"]["list"].append("whole")
            return event_dict

        log.handlers = [BridgeHandler(processors=[half, whole], stream=lines)]
        value: dict[str, Any] = {"list": [1]}
        value["self"] = value
        log.info("x", extra={"value": value})
        assert lines.last["value"]["list"] == [1, "whole"]
        assert value["list"] == [1]

    @pytest.mark.parametrize("rubbish", [None, "text", [], 7, {1: "a", "1": "b", "\ud800": "c"}])
    def test_rubbish_costs_its_own_effect_and_is_told_once(
        self, log: logging.Logger, lines: Lines, monkeypatch: pytest.MonkeyPatch, rubbish: Any
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        monkeypatch.setattr(_diagnostics, "_last_told", {})
        reports = Lines()
        ours = logging.getLogger(_diagnostics.LOGGER_NAME)
        ours.addHandler(reporter := BridgeHandler(stream=reports))
        try:
            log.handlers = [
                BridgeHandler(
                    processors=[lambda *_: rubbish, lambda _l, _m, event_dict: {**event_dict, "later": 1}], stream=lines
                )
            ]
            for _ in range(3):
                log.info("x")
        finally:
            ours.removeHandler(reporter)
        assert [line["later"] for line in lines.objects] == [1, 1, 1]
        if isinstance(rubbish, dict):
            assert sorted(value for value in lines.last.values() if value in {"a", "b", "c"}) == ["a", "b", "c"]
        else:
            assert [line["event"] for line in lines.objects] == ["x"] * 3
            (report,) = reports.objects
            assert report["where"].startswith("processor ")


class TestWarnings:
    def test_one_that_is_captured_is_one_event(self, lines: Lines) -> None:
        logger = logging.getLogger("py.warnings")
        handler = BridgeHandler(stream=lines)
        logger.addHandler(handler)
        logging.captureWarnings(capture=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                logging.captureWarnings(capture=False)
                logging.captureWarnings(capture=True)
                warnings.warn("old\u2028model", DeprecationWarning, stacklevel=1)
        finally:
            logging.captureWarnings(capture=False)
            logger.removeHandler(handler)
        (line,) = lines.objects
        assert (line["level"], line["logger"]) == ("warning", "py.warnings")
        assert "DeprecationWarning: old\u2028model" in line["event"]


def test_structlog_is_imported_by_who_uses_it_and_configured_then():
    program = """
import json, logging, sys
import ts_otel_logging
ts_otel_logging.configure()
logging.getLogger("acme").info("plain", extra={"imported": "structlog" in sys.modules or "rich" in sys.modules})
import structlog
structlog.contextvars.bind_contextvars(user="ada")
structlog.get_logger("acme").info("bound", digit=7)
logging.getLogger("acme").info("plain again")
"""
    environ = {**os.environ, "OTEL_SDK_DISABLED": "true"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, check=True, capture_output=True, text=True, timeout=60
    )
    plain, bound, again = (json.loads(line) for line in done.stdout.splitlines())
    assert plain["imported"] is False
    assert (bound["event"], bound["digit"], bound["user"]) == ("bound", 7, "ada")
    assert again["user"] == "ada"
