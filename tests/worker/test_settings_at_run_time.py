"""The settings file while the process runs: what takes effect, how it goes back, and what a mistake changes."""

from __future__ import annotations

import json
import logging
import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog

import ts_otel_logging
from in_process import load_model, make_request, predict
from lines import Lines
from otlp_receiver import OtlpReceiver
from ts_otel_logging import _activate, _activation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANDLER = """
    import logging
    logger = logging.getLogger("acme.model")
    class Handler:
        def initialize(self, context):
            logger.debug("loading")
        def inference(self, data):
            logger.debug("fine detail", extra={"iban": "DE02"})
            logger.info("in inference", extra={"inference_latency": 0.01})
            return data
        def handle(self, data, context):
            return [row["body"] for row in self.inference(data)]
"""
CALLER = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}


class File:
    """A settings file that the process looks at when it is edited."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def edit(self, text: str) -> None:
        before = os.stat(self.path)
        self.path.write_text(text, encoding="utf-8")
        # Two edits within one tick of the file system's clock are two edits.
        os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        self.look()

    def remove(self) -> None:
        self.path.unlink()
        self.look()

    def look(self) -> None:
        # What the thread does every two seconds: a change counts when it has stood still from one look to the next.
        for _ in range(3):
            _activate._active._watcher.look()


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "settings.yaml")


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
        yield receiver
        ts_otel_logging.shutdown()


def signals(receiver: OtlpReceiver, since: int) -> set[str]:
    """Send what waits, and say of which signals something has come."""
    assert ts_otel_logging.force_flush()
    return {request.signal for request in receiver.requests[since:]}


@pytest.fixture(autouse=True)
def _is_off_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "TS_OTEL_LOGGING")):
            monkeypatch.delenv(name)
    # The tests look at the file by themselves, at the right moment.
    monkeypatch.setattr(_activation, "_LOOK_SECONDS", 3_600)
    yield
    ts_otel_logging.shutdown()


@pytest.fixture
def disabled_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")


def events(text: str) -> list[str]:
    return [line["event"] for line in objects(text) if line["logger"] != "ts_otel_logging"]


def objects(text: str) -> list[dict[str, Any]]:
    return Lines("\n".join(line for line in text.splitlines() if line.startswith("{"))).objects


@pytest.mark.usefixtures("disabled_sdk")
class TestLevels:
    def test_take_effect_and_go_back(self, file: File, capsys: pytest.CaptureFixture[str]) -> None:
        ts_otel_logging.configure(config=str(file.path), levels={"quiet": "ERROR"})
        acme, other, quiet = (logging.getLogger(name) for name in ("acme.model", "other", "quiet"))

        def log() -> list[str]:
            capsys.readouterr()
            for logger in (acme, other, quiet):
                logger.debug("%s debug", logger.name)
                logger.info("%s info", logger.name)
            return events(capsys.readouterr().out)

        assert log() == ["acme.model info", "other info"]
        file.edit("levels: {acme: DEBUG}\nlevel: WARNING")
        assert log() == ["acme.model debug", "acme.model info"]
        file.edit("levels: {quiet: DEBUG}")
        assert log() == ["acme.model info", "other info", "quiet debug", "quiet info"]
        file.edit("")
        assert log() == ["acme.model info", "other info"]
        assert [logging.getLogger(name).level for name in ("acme", "acme.model", "quiet")] == [0, 0, logging.ERROR]

    def test_what_the_file_says_wins_over_the_variable(
        self, file: File, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TS_OTEL_LOGGING_LEVEL", "ERROR")
        monkeypatch.setenv("TS_OTEL_LOGGING_CONFIG", str(file.path))
        file.path.write_text("level: DEBUG")
        ts_otel_logging.configure()
        logging.getLogger("acme").debug("heard")
        assert events(capsys.readouterr().out) == ["heard"]

    def test_a_workers_control_lines_are_never_too_quiet(self, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "sys.argv", ["/ts/model_service_worker.py", "--sock-type", "unix", "--sock-name", "/tmp/.ts.sock.9000"]
        )
        ts_otel_logging.configure(config=str(file.path))
        file.edit("level: ERROR\nlevels: {ts.service: ERROR, ts: ERROR, tsunami: ERROR}")
        levels = [logging.getLogger(name).level for name in ("", "ts.service", "ts", "tsunami")]
        assert levels == [logging.INFO, logging.INFO, logging.INFO, logging.ERROR]


@pytest.mark.usefixtures("disabled_sdk")
class TestMistakes:
    def test_a_broken_edit_changes_nothing_and_is_said_once(
        self, file: File, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ts_otel_logging.configure(config=str(file.path))
        file.edit("levels: {acme: DEBUG}")
        capsys.readouterr()
        for text, key, words in (
            ("levels: {acme: DEBUG", "line 1", "well-formed YAML"),
            ("level: ERROR\nlevels: {acme: LOUD}", "levels.acme", "WARNING"),
        ):
            file.edit(text)
            file.look()
            (line,) = objects(capsys.readouterr().out)
            assert (line["level"], line["file"], line["key"]) == ("error", str(file.path), key)
            assert words in line["accepted"]
            assert "refused" in line["event"]
            logging.getLogger("acme").debug("still heard")
            logging.getLogger("other").info("still heard")
            assert events(capsys.readouterr().out) == ["still heard"] * 2

    def test_a_mistake_that_was_there_before_does_not_keep_a_switch_from_working(
        self, file: File, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file.path.write_text("handlers: [{handler: x, type: Pigeon}]")
        ts_otel_logging.configure(config=str(file.path))
        assert [line["key"] for line in objects(capsys.readouterr().out)] == ["handlers.x.type"]
        file.edit("handlers: [{handler: x, type: Pigeon}]\nlevel: DEBUG")
        logging.getLogger("acme").debug("heard")
        assert events(capsys.readouterr().out) == ["heard"]

    def test_a_file_that_is_removed_changes_nothing_and_is_said(
        self, file: File, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ts_otel_logging.configure(config=str(file.path))
        file.edit("level: DEBUG")
        capsys.readouterr()
        file.remove()
        (line,) = objects(capsys.readouterr().out)
        assert (line["file"], line["value"]) == (str(file.path), "No such file or directory")
        logging.getLogger("acme").debug("still heard")
        assert events(capsys.readouterr().out) == ["still heard"]

    def test_a_file_that_is_not_there_yet_is_told_and_taken_when_it_comes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "later.yaml"
        ts_otel_logging.configure(config=str(path))
        (line,) = objects(capsys.readouterr().out)
        assert (line["event"], line["file"]) == ("setting ignored", str(path))
        File(path).edit("level: DEBUG")
        logging.getLogger("acme").debug("heard")
        assert events(capsys.readouterr().out) == ["heard"]

    def test_what_the_launcher_has_told_a_worker_does_not_repeat(
        self, file: File, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TS_OTEL_LOGGING", "1")
        monkeypatch.setenv("TS_OTEL_LOGGING_CONFIG", str(file.path))
        # What the launcher leaves its workers.
        monkeypatch.setenv("_TS_OTEL_LOGGING_CHECKED", "")
        file.path.write_text("level: LOUD")
        _launch(monkeypatch)
        assert "LOUD" in capsys.readouterr().err
        _activate.start_worker()
        assert "LOUD" not in capsys.readouterr().out
        ts_otel_logging.shutdown()
        file.path.write_text("level: LOUDER")
        _activate.start_worker()
        assert "LOUDER" in capsys.readouterr().out


def _launch(monkeypatch: pytest.MonkeyPatch) -> None:
    from ts import model_server

    from ts_otel_logging._torchserve import _launch

    monkeypatch.setenv("TS_OTEL_LOGGING_FRONTEND", "off")
    monkeypatch.setattr(model_server, "subprocess", model_server.subprocess)
    monkeypatch.setattr(model_server, "print", print, raising=False)
    monkeypatch.setattr(_launch, "subprocess", SimpleNamespace(Popen=lambda *_args, **_options: None))
    _activate.start_launcher()
    model_server.subprocess.Popen(["java", "org.pytorch.serve.ModelServer"])


class TestSwitches:
    def test_off_prints_once_what_a_model_with_a_console_handler_of_its_own_logs(
        self, file: File, capsys: pytest.CaptureFixture[str], disabled_sdk: None
    ) -> None:
        # As TorchServe's worker has it.
        logging.getLogger().setLevel(logging.INFO)
        ts_otel_logging.configure(config=str(file.path))
        service = load_model(
            "import logging, sys\n"
            "logging.basicConfig(force=True, level=logging.INFO, stream=sys.stdout, format='MINE %(message)s')\n"
            "def handle(data, context):\n"
            "    logging.info('told') if data else None\n"
            "    return ['x']\n"
        )

        def request() -> list[str]:
            capsys.readouterr()
            predict(service, make_request(b"{}"))
            return capsys.readouterr().out.splitlines()

        file.edit("enabled: false")
        assert capsys.readouterr().out.count("settings file taken") == 1
        lines = request()
        # Without this package TorchServe's own handler is gone, too.
        assert [line for line in lines if "told" in line] == ["MINE told"]
        assert len([line for line in lines if line.startswith("[METRICS]PredictionTime")]) == 1
        file.edit("enabled: true")
        assert [json.loads(line)["event"] for line in request() if "told" in line] == ["told"]

    def test_off_is_what_torchserve_prints_by_itself_and_nothing_leaves(
        self, file: File, capsys: pytest.CaptureFixture[str], receiver: OtlpReceiver
    ) -> None:
        # As TorchServe's worker has it.
        logging.getLogger().setLevel(logging.INFO)
        ts_otel_logging.configure(config=str(file.path))
        service = load_model(HANDLER)

        def request() -> tuple[str, set[str]]:
            ts_otel_logging.force_flush()
            capsys.readouterr()
            since = len(receiver.requests)
            assert predict(service, make_request(b"x", CALLER))[0].body == b"x"
            return capsys.readouterr().out, signals(receiver, since)

        out, sent = request()
        assert "in inference" in events(out)
        assert sent == {"traces", "logs", "metrics"}

        file.edit("enabled: false")
        out, sent = request()
        assert [line for line in out.splitlines() if not line.startswith("[METRICS]")] == ["in inference"]
        assert any(line.startswith("[METRICS]PredictionTime") for line in out.splitlines())
        assert sent == set()

        file.edit("enabled: true")
        out, sent = request()
        assert "in inference" in events(out)
        assert sent == {"traces", "logs", "metrics"}

    def test_without_traces_lines_and_measurements_go_on_with_the_callers_ids(
        self, file: File, capsys: pytest.CaptureFixture[str], receiver: OtlpReceiver
    ) -> None:
        ts_otel_logging.configure(config=str(file.path))
        service = load_model(HANDLER)
        file.edit("traces: false")
        ts_otel_logging.force_flush()
        capsys.readouterr()
        since = len(receiver.requests)
        predict(service, make_request(b"x", CALLER))
        (line,) = [line for line in objects(capsys.readouterr().out) if line["event"] == "in inference"]
        assert (line["trace_id"], line["span_id"]) == ("a" * 32, "b" * 16)
        assert signals(receiver, since) == {"logs", "metrics"}
        file.edit("")
        predict(service, make_request(b"x", CALLER))
        assert "traces" in signals(receiver, since)

    def test_without_otlp_logs_lines_and_spans_go_on(
        self, file: File, capsys: pytest.CaptureFixture[str], receiver: OtlpReceiver
    ) -> None:
        ts_otel_logging.configure(config=str(file.path))
        service = load_model(HANDLER)
        file.edit("otlp_logs: false")
        ts_otel_logging.force_flush()
        capsys.readouterr()
        since = len(receiver.requests)
        predict(service, make_request(b"x", CALLER))
        line = next(line for line in objects(capsys.readouterr().out) if line["event"] == "in inference")
        # The id that tells a line from its OTLP twin.
        assert "log.record.uid" not in line
        assert signals(receiver, since) == {"traces", "metrics"}

    @pytest.mark.usefixtures("disabled_sdk")
    def test_off_keeps_tracebacks_and_masks_and_leaves_structlog_alone(
        self, file: File, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ts_otel_logging.configure(config=str(file.path))
        file.edit("enabled: false")
        capsys.readouterr()
        try:
            int("no digit")
        except ValueError:
            logging.getLogger("acme").exception("failed with password=hunter2")
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "failed with password=[REDACTED]"
        assert (lines[1], lines[-1]) == (
            "Traceback (most recent call last):",
            "ValueError: invalid literal for int() with base 10: 'no digit'",
        )
        assert not structlog.is_configured()
        file.edit("level: LOUD")
        assert f"file={file.path} key=level value=LOUD" in capsys.readouterr().out
        file.edit("enabled: true")
        assert structlog.is_configured()

    @pytest.mark.usefixtures("disabled_sdk")
    def test_more_is_masked_while_the_file_says_so(self, file: File, capsys: pytest.CaptureFixture[str]) -> None:
        ts_otel_logging.configure(config=str(file.path), redact=["ticket"])

        def log() -> list[Any]:
            logging.getLogger("acme").info("x", extra={"iban": "DE02", "ticket": "T1"})
            line = objects(capsys.readouterr().out)[-1]
            return [line["iban"], line["ticket"]]

        assert log() == ["DE02", "[REDACTED]"]
        file.edit("redact: [iban]")
        assert log() == ["[REDACTED]", "[REDACTED]"]
        file.edit("")
        assert log() == ["DE02", "[REDACTED]"]

    @pytest.mark.usefixtures("disabled_sdk")
    def test_the_file_is_looked_at_without_being_asked(
        self, file: File, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_activation, "_LOOK_SECONDS", 0.01)
        ts_otel_logging.configure(config=str(file.path))
        taken = _Waiting()
        logging.getLogger("ts_otel_logging").addHandler(taken)
        try:
            file.path.write_text("level: DEBUG")
            assert taken.event.wait(10)
            assert logging.getLogger().level == logging.DEBUG
        finally:
            logging.getLogger("ts_otel_logging").removeHandler(taken)
            # Before the console of this test is closed.
            ts_otel_logging.shutdown()


class _Waiting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "settings file taken":
            self.event.set()


@pytest.mark.usefixtures("disabled_sdk")
class TestSinks:
    def test_come_change_and_go(self, file: File, tmp_path: Path) -> None:
        ts_otel_logging.configure(config=str(file.path))
        logger, log, other = logging.getLogger("acme"), tmp_path / "a.log", tmp_path / "b.log"
        sink = f"handlers: [{{handler: a, type: logging.FileHandler, filename: {log}, level: %s}}"
        file.edit(sink % "ERROR" + "]")
        logger.warning("too quiet")
        logger.error("first")
        file.edit(sink % "INFO" + f", {{handler: b, type: logging.FileHandler, filename: {other}}}]")
        logger.warning("second")
        file.edit("")
        logger.error("nobody hears")
        assert ts_otel_logging.force_flush()
        assert [path.read_text().replace("settings file taken\n", "") for path in (log, other)] == [
            "first\nsecond\n",
            "second\n",
        ]

    def test_one_that_cannot_be_made_costs_no_other(
        self, file: File, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file.path.write_text(f"""
            handlers:
              - {{handler: bad, type: no_such_module.Handler}}
              - {{handler: worse, type: structlog.PrintLogger}}
              - {{handler: console, type: logging.StreamHandler, stream: "ext://logging.sys.stdout"}}
              - {{handler: good, type: logging.FileHandler, filename: {tmp_path / "good.log"}}}
        """)
        ts_otel_logging.configure(config=str(file.path))
        told = {line["key"]: line["accepted"] for line in objects(capsys.readouterr().out)}
        assert list(told) == ["handlers.bad", "handlers.worse", "handlers.console"]
        assert "package.module.Class" in told["handlers.bad"]
        assert "no_such_module" in told["handlers.bad"]
        assert told["handlers.console"] == "a handler for another place: every event is on the console already"
        logging.getLogger("acme").info("heard")
        assert ts_otel_logging.force_flush()
        assert (tmp_path / "good.log").read_text().endswith("heard\n")

    def test_the_standard_librarys_form_sends_loggers_where_it_says(self, file: File, tmp_path: Path) -> None:
        file.path.write_text(f"""
            version: 1
            formatters: {{named: {{format: "%(name)s %(message)s %(user)s"}}}}
            handlers:
              all: {{class: logging.FileHandler, filename: {tmp_path / "all.log"}}}
              audit: {{class: logging.FileHandler, filename: {tmp_path / "audit.log"}, formatter: named}}
            loggers: {{acme.audit: {{handlers: [audit], propagate: false}}}}
            root: {{handlers: [all]}}
        """)
        ts_otel_logging.configure(config=str(file.path))
        logging.getLogger("acme.audit").info("login", extra={"user": "ada"})
        logging.getLogger("acme").info("other")
        assert ts_otel_logging.force_flush()
        assert (tmp_path / "audit.log").read_text() == "acme.audit login ada\n"
        assert (tmp_path / "all.log").read_text() == "other\n"


@pytest.mark.usefixtures("disabled_sdk")
class TestModelConfig:
    def test_holds_from_the_load_on_and_below_the_file(self, file: File, capsys: pytest.CaptureFixture[str]) -> None:
        ts_otel_logging.configure(config=str(file.path))
        service = load_model(
            HANDLER, model_config="ts_otel_logging: {levels: {acme.model: DEBUG}, redact: [iban], format: structlog}"
        )
        assert "loading" in events(capsys.readouterr().out)
        predict(service, make_request(b"x"))
        line = next(line for line in objects(capsys.readouterr().out) if line["event"] == "fine detail")
        assert line["iban"] == "[REDACTED]"
        file.edit("levels: {acme.model: INFO}")
        capsys.readouterr()
        predict(service, make_request(b"x"))
        assert "fine detail" not in events(capsys.readouterr().out)

    def test_cannot_loosen_what_is_masked(self, capsys: pytest.CaptureFixture[str]) -> None:
        ts_otel_logging.configure(redact=["iban"])
        load_model(HANDLER, model_config="ts_otel_logging: {redact: []}")
        logging.getLogger("acme").info("x", extra={"iban": "DE02", "password": "hunter2"})
        line = objects(capsys.readouterr().out)[-1]
        assert (line["iban"], line["password"]) == ("[REDACTED]", "[REDACTED]")

    def test_what_it_cannot_have_is_told_with_model_and_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        ts_otel_logging.configure()
        load_model(HANDLER, model_name="digits", model_config="ts_otel_logging: {enabled: false, level: DEBUG}")
        (line,) = [line for line in objects(capsys.readouterr().out) if line["event"] == "setting ignored"]
        assert (line["model_name"], line["key"]) == ("digits", "ts_otel_logging.enabled")
        assert line["file"].endswith("model-config.yaml")
        assert "levels" in line["accepted"]
        assert logging.getLogger().level == logging.DEBUG
