"""Switching on in a process, and everything as it was afterwards."""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import structlog

import ts_otel_logging
from in_process import load_model, make_request, predict
from lines import Lines
from otlp_receiver import OtlpReceiver
from own_process import exported_spans
from ts_otel_logging import _activate, _diagnostics
from ts_otel_logging._torchserve import _seams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _nothing_is_exported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    yield
    ts_otel_logging.shutdown()
    for logger in logging.Logger.manager.loggerDict.values():
        # logging.config disables what it does not name.
        if isinstance(logger, logging.Logger):
            logger.disabled = False


class Console:
    """What the process has printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    @property
    def objects(self) -> list[dict[str, Any]]:
        self._text += self._capsys.readouterr().out
        # TorchServe's control lines are no events.
        return Lines("\n".join(line for line in self._text.splitlines() if not line.startswith("[METRICS]"))).objects

    @property
    def last(self) -> dict[str, Any]:
        return self.objects[-1]


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(capsys)


def state() -> list[Any]:
    root = logging.getLogger()
    return [
        list(root.handlers),
        root.level,
        logging.getLogger("acme").level,
        structlog.is_configured(),
        warnings.showwarning,
        *_seam_values(),
    ]


def _seam_values() -> list[Any]:
    import ts.model_loader
    import ts.service

    loader = ts.model_loader.TsModelLoader
    return [vars(loader)["load"], vars(loader)["_get_class_entry_point"], vars(ts.service.Service)["predict"]]


class TestConfigure:
    def test_the_root_logger_writes_lines(self, console: Console) -> None:
        ts_otel_logging.configure(level="WARNING", levels={"acme": "DEBUG"})
        logging.getLogger("other").info("too quiet")
        logging.getLogger("acme.model").debug("loud enough")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", UserWarning, stacklevel=1)
        structlog.get_logger("acme").warning("from structlog", answer=42)
        assert [line["logger"] for line in console.objects] == ["acme.model", "py.warnings", "acme"]
        assert console.last["answer"] == 42

    def test_shutdown_puts_everything_back(self, console: Console) -> None:
        before = state()
        ts_otel_logging.configure(levels={"acme": "DEBUG"})
        assert state() != before
        assert ts_otel_logging.shutdown() is True
        assert state() == before

    def test_a_second_call_replaces_the_first(self, console: Console) -> None:
        before = state()
        ts_otel_logging.configure()
        ts_otel_logging.configure(processors=[lambda _l, _m, event_dict: {**event_dict, "second": True}])
        logging.getLogger("acme").info("x")
        (line,) = console.objects
        assert line["second"] is True
        ts_otel_logging.shutdown()
        assert state() == before

    def test_a_handler_that_calls_it_in_an_active_worker_doubles_nothing(self, console: Console) -> None:
        ts_otel_logging.configure()
        handler = """
            import logging, ts_otel_logging
            class Handler:
                def initialize(self, context):
                    ts_otel_logging.configure(level="DEBUG")
                def inference(self, data):
                    logging.debug("in inference")
                    return data
                def handle(self, data, context):
                    return [row["body"] for row in self.inference(data)]
        """
        service = load_model(handler)
        predict(service, make_request(b"x"))
        lines = [line for line in console.objects if line["event"] == "in inference"]
        assert len(lines) == 1
        assert lines[0]["model_name"] == "tiny"
        assert not [line for line in console.objects if "put back" in line["event"]]
        handlers = [h for h in logging.getLogger().handlers if isinstance(h, ts_otel_logging.BridgeHandler)]
        assert len(handlers) == 1

    def test_what_it_prints_without_an_end_of_line_while_it_is_loaded_waits_for_no_request(
        self, console: Console
    ) -> None:
        ts_otel_logging.configure()
        load_model("print('weights read', end='')\ndef handle(data, context): return data")
        assert "weights read" in [line["event"] for line in console.objects]

    def test_one_that_calls_shutdown_is_not_switched_on_again(self, console: Console) -> None:
        before = logging.getLogger().handlers[:]
        ts_otel_logging.configure()
        load_model("import ts_otel_logging\nts_otel_logging.shutdown()\ndef handle(data, context): return data")
        assert logging.getLogger().handlers == before

    def test_a_seam_that_moved_does_not_break_the_import_of_torchserve(
        self, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_args: Any, **_options: Any) -> None:
            raise RuntimeError("no seam")

        monkeypatch.setattr(_seams, "patch_worker", fail)
        monkeypatch.setattr(_diagnostics, "reraise", False)
        ts_otel_logging.configure()
        assert any(line.get("where") == "patch of TorchServe" for line in console.objects)

    def test_an_exporter_that_cannot_be_made_is_told(
        self, console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
        for signal, exporter in (("TRACES", "otlp_json_file"), ("LOGS", "none"), ("METRICS", "none")):
            monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", exporter)
        ts_otel_logging.configure(file_dir=str(tmp_path / "file" / "otlp"))
        (line,) = [line for line in console.objects if line["event"] == "exporter off"]
        assert line["signal"] == "traces"
        assert "file" in line["reason"]

    def test_an_empty_list_is_a_value(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TS_OTEL_LOGGING_LATENCY_FIELDS", "wait")
        monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
        for signal in ("TRACES", "LOGS", "METRICS"):
            monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
        ts_otel_logging.configure(latency_fields=())
        outputs = ts_otel_logging._activate._active.handler.pipeline.outputs
        assert not [output for output in outputs if type(output).__name__ == "LatencyOutput"]

    def test_requests_of_this_process_are_seen(self, console: Console) -> None:
        ts_otel_logging.configure()
        service = load_model(
            "import logging\ndef handle(data, context):\n    logging.info('in handle')\n    return data"
        )
        predict(service, make_request(b"x", {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, request_id="r1"))
        line = next(line for line in console.objects if line["event"] == "in handle" and "request_id" in line)
        # OTEL_SDK_DISABLED: lines go on, with the caller's ids.
        assert (line["trace_id"], line["span_id"], line["request_id"]) == ("a" * 32, "b" * 16, "r1")

    def test_an_unknown_keyword_is_refused(self) -> None:
        with pytest.raises(TypeError, match="colour"):
            ts_otel_logging.configure(colour="red")

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"format": "xml"}, "format='xml': accepted is structlog"),
            ({"latency_fields": 5}, "latency_fields=5: accepted is a comma-separated list of names"),
            ({"redact": [7]}, r"redact=\[7\]: accepted is a comma-separated list"),
            ({"headers": {"x-tenant": "a"}}, "headers=.*: accepted is a comma-separated list"),
            ({"levels": ["acme"]}, "levels=.*: accepted is logger=LEVEL"),
            ({"headers": 5, "level": "LOUD"}, "headers=5: .*; level='LOUD': "),
            ({"processors": "no_such_module:all"}, "processors='no_such_module:all': .*ModuleNotFoundError"),
            ({"processors": "json:no_such_name"}, "processors='json:no_such_name': .* list of structlog processors"),
            ({"processors": [5]}, r"processors=\[5\]: .*not every item can be called"),
            ({"processors": 5}, "processors=5: accepted is a list of structlog processors"),
        ],
    )
    def test_a_wrong_value_is_refused_with_what_is_accepted(self, keywords: dict[str, Any], message: str) -> None:
        before = state()
        with pytest.raises(ValueError, match=message):
            ts_otel_logging.configure(**keywords)
        assert state() == before

    def test_a_wrong_variable_is_told_and_its_default_holds(
        self, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TS_OTEL_LOGGING_FORMAT", "xml")
        ts_otel_logging.configure()
        line = console.last
        assert (line["event"], line["variable"], line["value"]) == ("setting ignored", "TS_OTEL_LOGGING_FORMAT", "xml")
        assert "structlog" in line["accepted"]

    def test_processors_that_cannot_be_used_are_told(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TS_OTEL_LOGGING_PROCESSORS", "os:no_such_name")
        ts_otel_logging.configure()
        assert console.last["variable"] == "TS_OTEL_LOGGING_PROCESSORS"
        assert "no_such_name" in console.last["accepted"]


class TestHandlersThatResetLogging:
    RESET = """
        import logging, sys
        logging.basicConfig(force=True, stream=sys.stderr)
        def handle(data, context):
            logging.info("after the reset")
            return data
    """

    def test_ours_is_put_back_once_and_that_is_said(self, console: Console) -> None:
        ts_otel_logging.configure()
        load_model(self.RESET)
        assert any("put back" in line["event"] for line in console.objects)
        ours = [h for h in logging.getLogger().handlers if isinstance(h, ts_otel_logging.BridgeHandler)]
        assert len(ours) == 1
        assert len(logging.getLogger().handlers) == 2, "the handler that the model's code added stays"

    def test_it_is_said_also_where_other_loggers_were_disabled(self, console: Console) -> None:
        ts_otel_logging.configure()
        logging.getLogger("ts_otel_logging")
        load_model("""
            import logging.config
            logging.config.dictConfig({"version": 1, "root": {"level": "INFO", "handlers": []}})
            def handle(data, context): return data
        """)
        assert any("put back" in line["event"] for line in console.objects)

    def test_control_lines_leave_once_where_the_models_handler_prints_them_too(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ts_otel_logging.configure()
        service = load_model(self.RESET.replace("stream=sys.stderr", "stream=sys.stdout, format='%(message)s'"))
        capsys.readouterr()
        predict(service, make_request(b"x"))
        lines = capsys.readouterr().out.splitlines()
        assert len([line for line in lines if line.startswith("[METRICS]PredictionTime")]) == 1

    def test_a_second_removal_is_respected(self, console: Console) -> None:
        ts_otel_logging.configure()
        load_model(self.RESET)
        load_model(self.RESET)
        assert not [h for h in logging.getLogger().handlers if isinstance(h, ts_otel_logging.BridgeHandler)]

    LAZY = """
        import logging, sys
        count = 0
        def handle(data, context):
            global count
            if data is None:  # TorchServe also calls a function as it loads it
                return None
            count += 1
            if count % 2 == 0:
                logging.basicConfig(force=True, level=logging.INFO, stream=sys.stdout, format="MINE %(message)s")
            logging.info("request %d", count)
            return ["ok"]
    """

    def lazy(self) -> Any:
        """Load a handler that configures logging anew in its second and its fourth request."""
        ts_otel_logging.configure()
        return load_model(self.LAZY)

    def test_ours_is_put_back_after_the_request_that_removed_it(self, console: Console) -> None:
        lazy = self.lazy()
        for _ in range(3):
            predict(lazy, make_request(b"x"))
        events = [event for event in console.objects if event["logger"] != "ts_otel_logging"]
        assert [(event["logger"], event["event"]) for event in events if "request " in event["event"]] == [
            ("root", "request 1"),
            ("stdout", "MINE request 2"),
            ("root", "request 3"),
        ]
        assert len([event for event in console.objects if "put back" in event["event"]]) == 1

    def test_what_is_removed_again_stays_away_and_that_is_said_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        lazy = self.lazy()
        for _ in range(4):
            predict(lazy, make_request(b"x"))
        lines = capsys.readouterr().out.splitlines()
        assert len([line for line in lines if "console handlers muted" in line]) == 1, "the second's lines are its own"
        told = [json.loads(line) for line in lines if "stays away" in line]
        assert [(event["logger"], event["level"]) for event in told] == [("ts_otel_logging", "warning")]
        for _ in range(3):
            predict(lazy, make_request(b"x"))
        lines = capsys.readouterr().out.splitlines()
        assert not [line for line in lines if "stays away" in line or "put back" in line]
        # The frontend reads these; what the model's own handler makes of them is no line of its.
        assert len([line for line in lines if line.startswith("[METRICS]PredictionTime")]) == 3


class TestHandlersThatPrintToo:
    MODEL = """
        import logging, sys
        logger = logging.getLogger("acme.printing")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(logging.StreamHandler(sys.stdout))
        quiet = logging.getLogger("acme.alone")
        quiet.propagate = False
        quiet.addHandler(logging.StreamHandler(sys.stdout))
        def handle(data, context):
            if data is not None:  # TorchServe also calls a function as it loads it
                logger.warning("said once")
                logger.debug("below our level")
                quiet.warning("not ours")
            return ["answer"]
    """

    @pytest.fixture(autouse=True)
    def _loggers_are_restored(self) -> Iterator[None]:
        yield
        for name in ("acme.printing", "acme.alone"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)

    def test_do_not_double_a_line_and_go_on_with_what_is_not_ours(self, capsys: pytest.CaptureFixture[str]) -> None:
        ts_otel_logging.configure()
        service = load_model(self.MODEL)
        predict(service, make_request(b"x"))
        text = capsys.readouterr().out
        assert text.count("said once") == 1
        assert '"event":"said once"' in text
        # What they print themselves is captured like a print.
        assert text.count("below our level") == text.count("not ours") == 1
        assert text.count("console handlers muted") == 1
        assert '"loggers":["acme.printing","acme.alone"]' in text

    def test_are_told_behind_the_line_that_says_what_is_on(
        self, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TS_OTEL_LOGGING", "1")
        monkeypatch.setattr(logging.getLogger("acme.printing"), "handlers", [logging.StreamHandler(sys.stdout)])
        _activate.start_worker()
        first, second = console.objects
        assert first["event"] == "telemetry on"
        assert (second["event"].partition(":")[0], second["level"]) == ("console handlers muted", "info")

    def test_print_again_after_shutdown(self, capsys: pytest.CaptureFixture[str]) -> None:
        root_handler = logging.StreamHandler(sys.stdout)
        logging.getLogger().addHandler(root_handler)
        ts_otel_logging.configure()
        logging.getLogger("acme").warning("while on")
        ts_otel_logging.shutdown()
        logging.getLogger("acme").warning("after")
        text = capsys.readouterr().out
        assert text.count("while on") == 1
        assert text.endswith("\nafter\n")

    def test_with_an_emit_of_their_own_are_left_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Own(logging.StreamHandler):  # type: ignore[type-arg]
            def emit(self, record: logging.LogRecord) -> None:
                self.stream.write(f"own {record.getMessage()}\n")

        logging.getLogger().addHandler(Own(sys.stdout))
        ts_otel_logging.configure()
        logging.getLogger("acme").warning("x")
        assert "own x\n" in capsys.readouterr().out


class TestStructlogThatRendersText:
    @pytest.fixture(autouse=True)
    def _structlog_is_restored(self) -> Iterator[None]:
        yield
        structlog.reset_defaults()
        logging.setLoggerClass(logging.Logger)

    def test_is_told_once_with_what_would_give_fields(self, console: Console) -> None:
        ts_otel_logging.configure()
        model = """
            import structlog
            structlog.configure(
                processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.stdlib.LoggerFactory()
            )
            def handle(data, context):
                if data is not None:
                    structlog.get_logger("acme").warning("ready", answer=42)
                return ["answer"]
        """
        predict(load_model(model), make_request(b"x"))
        load_model(model)
        told = [line for line in console.objects if "structlog.stdlib.render_to_log_kwargs" in line["event"]]
        assert len(told) == 1
        assert [line["event"] for line in console.objects if line["logger"] == "acme"] == [
            '{"answer": 42, "event": "ready"}'
        ]


class TestAWorkerWithAWrongSetting:
    def test_says_nothing_of_it_as_the_launcher_has(
        self, console: Console, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with OtlpReceiver() as receiver:
            for name, value in {
                "TS_OTEL_LOGGING": "1",
                "OTEL_SDK_DISABLED": "",
                "OTEL_TRACES_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "otlp",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
                "OTEL_EXPORTER_OTLP_TIMEOUT": "10000",
                "OTEL_EXPORTER_OTLP_HEADERS": "api-key: hunter2,x-team=red",
            }.items():
                monkeypatch.setenv(name, value)
            _activate.start_worker()
            # For whatever reads them later, an exporter of the model's code for instance.
            assert os.environ["OTEL_EXPORTER_OTLP_HEADERS"] == "x-team=red"
            assert "OTEL_EXPORTER_OTLP_TIMEOUT" not in os.environ
            assert ts_otel_logging.shutdown()
            assert {request.headers["x-team"] for request in receiver.requests} == {"red"}
        assert [line["event"] for line in console.objects] == ["telemetry on"]
        assert "hunter2" not in caplog.text


class TestAStepThatFails:
    def test_everything_is_as_it_was(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        before = state()

        def fail(*_args: Any, **_options: Any) -> None:
            raise RuntimeError("no seam")

        monkeypatch.setattr(_seams, "patch_worker", fail)
        monkeypatch.setenv("TS_OTEL_LOGGING", "1")
        with pytest.raises(RuntimeError, match="no seam"):
            _activate.start_worker()
        assert state() == before


class TestOff:
    def test_the_api_does_nothing(self) -> None:
        assert ts_otel_logging.force_flush() is True
        assert ts_otel_logging.shutdown() is True
        with ts_otel_logging.span("x"), ts_otel_logging.request_scope(0):
            pass

    @pytest.mark.parametrize("value", ["0", "off", "rubbish"])
    def test_a_worker_is_left_alone(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        before = state()
        monkeypatch.setenv("TS_OTEL_LOGGING", value)
        _activate.start_worker()
        assert state() == before


class TestWhatAHandlerPrints:
    HANDLER = """
        import sys, threading

        def handle(data, context):
            if data is None:
                return None
            print("whole")
            print("no end", end="")
            print("[METRICS]Fake.ms:1|#Level:Model|#hostname:x,1")
            print("to the other stream", file=sys.stderr)
            print("begun", end="")
            return ["done"]
    """

    def test_belongs_to_its_request(self, console):
        ts_otel_logging.configure()
        service = load_model(self.HANDLER)
        request = make_request(b"{}")
        predict(service, request)
        printed = [event for event in console.objects if event["logger"] in ("stdout", "stderr")]
        assert [event["event"] for event in printed] == [
            "whole",
            "no end[METRICS]Fake.ms:1|#Level:Model|#hostname:x,1",
            "to the other stream",
            "begun",
        ]
        assert {event["request_id"] for event in printed} == {request["requestId"].decode()}
        assert {event["model_name"] for event in printed} == {"tiny"}

    def test_is_left_alone_when_capture_is_off(self, console, monkeypatch, capsys):
        monkeypatch.setenv("TS_OTEL_LOGGING_CAPTURE", "off")
        ts_otel_logging.configure()
        service = load_model("def handle(data, context):\n    print('as it is') if data else None\n    return ['x']\n")
        predict(service, make_request(b"{}"))
        assert "\nas it is\n" in "\n" + capsys.readouterr().out


class TestMetricsForTheFrontend:
    """``[METRICS]…``, which TorchServe's JVM reads from stdout."""

    HANDLER = """
        def handle(data, context):
            if data is not None:
                context.metrics.add_counter("Seen", 1)
            return ["x" for _ in data or ()]
    """
    LINE = r"\[METRICS\]Seen\.Count:1\|#ModelName:tiny,Level:Model\|#type:COUNTER\|#hostname:[^,]+,\d+,[-0-9a-f]{36}"

    def printed(self, capsys):
        capsys.readouterr()
        predict(load_model(self.HANDLER), make_request(b"{}"))
        return [line for line in capsys.readouterr().out.splitlines() if re.fullmatch(self.LINE, line)]

    def test_leave_as_they_are(self, capsys):
        ts_otel_logging.configure()
        assert len(self.printed(capsys)) == 1

    def test_need_no_record(self, capsys, monkeypatch):
        ts_otel_logging.configure()
        # pytest's own handlers would see one.
        monkeypatch.setattr(logging.root, "handlers", [_activate._active.handler])
        service, request = load_model(self.HANDLER), make_request(b"{}")
        factory = logging.getLogRecordFactory()
        logging.setLogRecordFactory(lambda *_args, **_kwargs: pytest.fail("a record was made"))
        try:
            capsys.readouterr()
            predict(service, request)
        finally:
            logging.setLogRecordFactory(factory)
        assert re.search(self.LINE, capsys.readouterr().out)

    @pytest.mark.parametrize("name", ["", "ts", "ts.metrics.caching_metric"])
    def test_reach_every_other_handler_as_records(self, capsys, monkeypatch, name):
        records = []
        other = logging.Handler()
        other.emit = records.append
        ts_otel_logging.configure()
        monkeypatch.setattr(logging.root, "handlers", [_activate._active.handler])
        logging.getLogger(name).addHandler(other)
        try:
            assert len(self.printed(capsys)) == 1
        finally:
            logging.getLogger(name).removeHandler(other)
        found = [record for record in records if re.fullmatch(self.LINE, record.getMessage())]
        assert [(record.name, record.funcName) for record in found] == [("ts.metrics.caching_metric", "emit_metrics")]

    def test_obey_a_filter_of_their_logger(self, capsys, monkeypatch):
        ts_otel_logging.configure()
        monkeypatch.setattr(logging.root, "handlers", [_activate._active.handler])
        logger = logging.getLogger("ts.metrics.caching_metric")
        monkeypatch.setattr(logger, "filters", [lambda record: "Seen" not in record.getMessage()])
        assert self.printed(capsys) == []

    def test_obey_a_level_of_their_logger(self, capsys, monkeypatch, caplog):
        ts_otel_logging.configure()
        monkeypatch.setattr(logging.root, "handlers", [_activate._active.handler])
        caplog.set_level(logging.ERROR, "ts.metrics.caching_metric")
        assert self.printed(capsys) == []

    def test_do_not_come_where_their_logger_does_not_propagate(self, capsys, monkeypatch):
        ts_otel_logging.configure()
        monkeypatch.setattr(logging.root, "handlers", [_activate._active.handler])
        monkeypatch.setattr(logging.getLogger("ts.metrics.caching_metric"), "propagate", False)
        assert self.printed(capsys) == []


class TestWhatTorchServeTellsOfEveryRequest:
    """``Backend received inference at: …``, which the span ``predict`` says as well."""

    class Connection:
        """The frontend's end: one inference command without a request."""

        def __init__(self):
            self.left = b"I" + struct.pack("!i", -1)

        def recv(self, size):
            taken, self.left = self.left[:size], self.left[size:]
            return taken

    def told(self, console):
        from ts.protocol.otf_message_handler import retrieve_msg

        assert retrieve_msg(self.Connection()) == (b"I", [])
        return [
            (event["level"], event["logger"])
            for event in console.objects
            if event["event"].startswith("Backend received inference at: ")
        ]

    def test_is_left_out(self, console):
        ts_otel_logging.configure()
        assert self.told(console) == []

    def test_makes_no_record_at_all(self, console):
        ts_otel_logging.configure()
        before = logging.getLogRecordFactory()
        logging.setLogRecordFactory(lambda *_args, **_kwargs: pytest.fail("a record was made"))
        try:
            assert self.told(console) == []
        finally:
            logging.setLogRecordFactory(before)

    def test_is_there_where_everything_is_wanted(self, console):
        ts_otel_logging.configure(level="DEBUG")
        assert self.told(console) == [("debug", "root")]

    def test_is_torchserves_own_again_while_we_are_off(self, capsys, caplog, tmp_path):
        from ts.protocol.otf_message_handler import retrieve_msg

        (tmp_path / "settings.yaml").write_text("enabled: false\n", encoding="utf-8")
        ts_otel_logging.configure(config=str(tmp_path / "settings.yaml"))
        # As a worker's is.
        caplog.set_level(logging.INFO)
        capsys.readouterr()
        retrieve_msg(self.Connection())
        assert capsys.readouterr().out.startswith("Backend received inference at: ")

    def test_names_the_place_that_logged_it(self, console):
        from ts.protocol import otf_message_handler

        records = []
        handler = logging.Handler(logging.DEBUG)
        handler.emit = records.append
        ts_otel_logging.configure(level="DEBUG")
        logging.root.addHandler(handler)
        try:
            self.told(console)
        finally:
            logging.root.removeHandler(handler)
        assert [(record.pathname, record.funcName) for record in records] == [
            (otf_message_handler.__file__, "retrieve_msg")
        ]


def test_a_load_that_fails_is_told_before_torchserve_can_end_the_process(tmp_path):
    program = """
        import os
        import ts_otel_logging
        from in_process import load_model

        ts_otel_logging.configure()
        try:
            load_model("raise FileNotFoundError('no weights')", model_name="broken")
        finally:
            # As the frontend does: nothing is flushed any more.
            os._exit(0)
    """
    assert "load broken" in exported_spans(tmp_path, program, OTEL_BSP_SCHEDULE_DELAY="600000")
