"""`ts-otel-logging doctor` says what holds, what does not, and what to do about it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from otlp_receiver import OtlpReceiver, unused_endpoint
from ts_otel_logging._cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run the doctor in an empty folder with these variables; return its exit code and what it printed."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "TS_OTEL_")) or name in ("LOG_LOCATION", "LOG4J_CONFIGURATION_FILE"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(**environ: str) -> tuple[int, str]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        code = main(["doctor"])
        return code, capsys.readouterr().out

    return run


def rows(report: str) -> dict[str, list[str]]:
    """The report's table rows by their first cell."""
    cells = (re.split(r" {2,}", line.strip()) for line in report.splitlines())
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def test_every_setting_is_listed_with_its_origin(doctor: Any) -> None:
    _, report = doctor(TS_OTEL_LOGGING="1", TS_OTEL_LOGGING_LEVEL="debug", OTEL_TRACES_EXPORTER="none")
    assert rows(report)["TS_OTEL_LOGGING_LEVEL"] == ["DEBUG", "environment"]
    assert rows(report)["TS_OTEL_LOGGING_FORMAT"] == ["structlog", "default"]
    assert rows(report)["OTEL_TRACES_EXPORTER"] == ["none", "environment"]


def test_a_collector_that_answers_is_no_problem(doctor: Any) -> None:
    with OtlpReceiver() as receiver:
        _, report = doctor(TS_OTEL_LOGGING="1", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint)
    for signal in ("traces", "logs", "metrics"):
        assert rows(report)[signal] == [f"otlp {receiver.http_endpoint}/v1/{signal}", "yes"]
    assert "does not answer" not in report


def test_one_that_does_not_is_a_problem_with_its_reason(doctor: Any) -> None:
    code, report = doctor(TS_OTEL_LOGGING="1", OTEL_EXPORTER_OTLP_ENDPOINT=unused_endpoint())
    assert code == 1
    assert rows(report)["traces"][1] == "no"
    assert "/v1/traces does not answer" in report
    assert "refused" in report


def test_a_wrong_setting_is_a_problem_with_what_is_accepted(doctor: Any) -> None:
    code, report = doctor(
        TS_OTEL_LOGGING="1", TS_OTEL_LOGGING_FORMAT="xml", TS_OTEL_LOGGING_PROCESSORS="no_such_module:all",
        OTEL_TRACES_EXPORTER="none", OTEL_LOGS_EXPORTER="none", OTEL_METRICS_EXPORTER="none",
    )  # fmt: skip
    assert code == 1
    assert "TS_OTEL_LOGGING_FORMAT=xml is ignored" in report
    assert "accepted: structlog" in report
    assert "there is no such module" in report


def test_the_settings_file_is_shown_with_its_sinks_and_problems(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("""
        otlp_logs: false
        level: WARNING
        levels: {acme: LOUD, other: DEBUG}
        handlers:
          - {handler: file, type: TimestampedFileHandler, filename: no/such/folder/x.log, level: ERROR}
          - {handler: typo, type: TimestampdFileHandler}
    """)
    code, report = doctor(TS_OTEL_LOGGING="1", OTEL_SDK_DISABLED="true", TS_OTEL_LOGGING_CONFIG="settings.yaml")
    assert code == 1
    assert rows(report)["otlp_logs"] == ["off"]
    assert (rows(report)["level"], rows(report)["levels"]) == (["WARNING"], ["other=DEBUG"])
    path = tmp_path / "no" / "such" / "folder" / "x.log"
    assert rows(report)["handlers.file"] == [f"TimestampedFileHandler {path} from ERROR"]
    for key in ("levels.acme: LOUD", "handlers.typo.type: TimestampdFileHandler", "handlers.file.filename"):
        assert key in report
    assert "cannot be written to" in report


def test_that_it_is_off_is_said(doctor: Any) -> None:
    code, report = doctor(OTEL_SDK_DISABLED="true")
    assert code == 1
    assert "TS_OTEL_LOGGING is not set here" in report
    assert rows(report)["model_service_worker.py"] == ["nothing: off"]
    assert not re.search(r"\n\s*\n", report)


def test_secrets_are_not_shown(doctor: Any) -> None:
    _, report = doctor(
        OTEL_SDK_DISABLED="true",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer hunter2",
        OTEL_EXPORTER_OTLP_ENDPOINT="https://user:hunter2@collector:4318",
    )
    assert "hunter2" not in report
    assert rows(report)["OTEL_EXPORTER_OTLP_HEADERS"] == ["***", "environment"]


def test_an_exporters_header_that_is_none_is_told_once_and_without_its_text(doctor: Any, caplog: Any) -> None:
    with OtlpReceiver() as receiver:
        _, report = doctor(
            TS_OTEL_LOGGING="1",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint,
            OTEL_EXPORTER_OTLP_HEADERS="api-key: hunter2,x-team=red",
        )
        assert [request.headers["x-team"] for request in receiver.requests] == ["red"] * 3
    assert report.count("OTEL_EXPORTER_OTLP_HEADERS=*** is ignored") == 1
    assert "accepted: name=value,name=value, each value URL-encoded; not so is item 1" in report
    assert "hunter2" not in report + caplog.text


def test_names_of_headers_are_no_secret_but_what_stands_beside_them_is(doctor: Any) -> None:
    _, report = doctor(
        OTEL_SDK_DISABLED="true",
        TS_OTEL_LOGGING_HEADERS="x-tenant,no name,authorization=Bearer hunter2",
        TS_OTEL_LOGGING_RESPONSE_HEADERS="server-tming",
    )
    assert rows(report)["TS_OTEL_LOGGING_HEADERS"] == ["x-tenant", "environment"]
    assert "TS_OTEL_LOGGING_HEADERS=no name is ignored" in report
    assert "TS_OTEL_LOGGING_RESPONSE_HEADERS=server-tming is ignored" in report
    assert "hunter2" not in report


def test_nothing_is_made_by_it(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("""
        handlers:
          - {handler: file, type: TimestampedFileHandler, filename: a.log}
          - {handler: latency, type: LatencyHandler, filename: b.csv}
    """)
    _, report = doctor(TS_OTEL_LOGGING="1", OTEL_SDK_DISABLED="true", TS_OTEL_LOGGING_CONFIG="settings.yaml")
    assert "handlers.latency" in report
    assert "cannot be written" not in report
    assert os.listdir(tmp_path) == ["settings.yaml"]


def test_a_file_that_cannot_be_parsed_is_named_with_the_line(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("level: INFO\n  traces: x\n")
    _, report = doctor(TS_OTEL_LOGGING="1", OTEL_SDK_DISABLED="true", TS_OTEL_LOGGING_CONFIG="settings.yaml")
    assert "settings.yaml, line 2: " in report


def test_the_users_own_log4j_configuration_is_said_to_win(doctor: Any) -> None:
    _, report = doctor(TS_OTEL_LOGGING="1", OTEL_SDK_DISABLED="true", LOG4J_CONFIGURATION_FILE="file:///etc/log4j2.xml")
    assert "LOG4J_CONFIGURATION_FILE" in rows(report)["torchserve"][0]


def test_a_folder_that_cannot_be_written_is_a_problem(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, report = doctor(
        TS_OTEL_LOGGING="1", TS_OTEL_LOGGING_FILE_DIR=str(tmp_path / "file" / "otlp"),
        OTEL_TRACES_EXPORTER="otlp_json_file", OTEL_LOGS_EXPORTER="none", OTEL_METRICS_EXPORTER="none",
    )  # fmt: skip
    assert code == 1
    assert f"{tmp_path / 'file'} is not a folder" in report
