"""The installed wheel's start-up file: what it costs and does in every kind of Python process."""

from __future__ import annotations

import importlib.metadata
import json
import re

import pytest
from start_processes import imported_modules, of_ours, run, torchserve_folder

OFF_VALUES = [None, "", "0", "false", "off", "no", "FALSE", "Off"]
ON_VALUES = ["1", "true", "yes", "on", "TRUE", "On"]
WORKER = str(torchserve_folder() / "model_service_worker.py")
METRIC_COLLECTOR = str(torchserve_folder() / "metrics" / "metric_collector.py")


def start_up_lines() -> list[str]:
    [file] = [file for file in importlib.metadata.files("ts-otel-logging") or () if str(file) == "ts_otel_logging.pth"]
    return [line for line in file.read_text().splitlines() if line.strip()]


def test_the_start_up_file_is_one_plain_line():
    [line] = start_up_lines()
    assert line.startswith("import ")
    assert "exec" not in line
    assert "eval" not in line


@pytest.mark.parametrize("value", OFF_VALUES)
def test_off_nothing_of_ours_is_imported(value):
    report = run("-X", "importtime", "-c", "pass", TS_OTEL_LOGGING=value)
    assert report.returncode == 0
    assert imported_modules(report.stderr) >= {"site"}
    assert of_ours(imported_modules(report.stderr)) == set()


@pytest.mark.parametrize("value", [None, "0"])
def test_off_the_workers_command_imports_nothing_of_ours(value):
    report = run("-X", "importtime", WORKER, "--help", TS_OTEL_LOGGING=value)
    assert "--sock-name" in report.stdout
    assert imported_modules(report.stderr) >= {"ts.service", "torch"}
    assert of_ours(imported_modules(report.stderr)) == set()


@pytest.mark.parametrize("value", ON_VALUES)
def test_on_an_ordinary_process_imports_nothing_of_ours(value):
    report = run("-X", "importtime", "-c", "pass", TS_OTEL_LOGGING=value)
    assert report.returncode == 0
    assert imported_modules(report.stderr) >= {"site"}
    assert of_ours(imported_modules(report.stderr)) == set()


@pytest.mark.parametrize("name", ["model_service_worker.py", "torchserve", "torchserve.exe", "torchserve-script.py"])
def test_on_a_program_of_torchserve_imports_the_gate_and_waits(name, tmp_path):
    program = tmp_path / name
    program.write_text("pass")
    report = run("-X", "importtime", str(program), TS_OTEL_LOGGING="1")
    assert report.returncode == 0
    waits = {"ts_otel_logging", "ts_otel_logging._boot", "ts_otel_logging._import_hook"}
    assert of_ours(imported_modules(report.stderr)) == waits


@pytest.mark.parametrize("value", [*OFF_VALUES, *ON_VALUES, "perhaps", "2", "\N{SNOWMAN}"])
def test_an_ordinary_process_prints_nothing_whatever_the_switch_says(value):
    process = run("-c", "import logging; print(logging.root.handlers, logging.root.level)", TS_OTEL_LOGGING=value)
    assert (process.stdout, process.stderr, process.returncode) == ("[] 30\n", "", 0)


def test_the_metric_collector_prints_what_it_prints_without_us():
    stock, touched = (run(METRIC_COLLECTOR, "--gpu", "0", TS_OTEL_LOGGING=value) for value in (None, "1"))
    without_figures = [re.sub(r"\d+(\.\d+)?", "N", process.stdout) for process in (stock, touched)]
    assert "CPUUtilization.Percent:N" in without_figures[0]
    assert without_figures[0] == without_figures[1]
    assert touched.stderr == stock.stderr


def test_the_metric_collector_imports_nothing_of_ours():
    report = run("-X", "importtime", METRIC_COLLECTOR, "--gpu", "0", TS_OTEL_LOGGING="1")
    assert imported_modules(report.stderr) >= {"psutil"}
    assert of_ours(imported_modules(report.stderr)) == set()


def test_a_workers_garbage_collector_is_on_again_after_the_start(tmp_path):
    program = tmp_path / "model_service_worker.py"
    program.write_text("import gc, ts.model_loader; print(gc.isenabled())")
    process = run(str(program), TS_OTEL_LOGGING="1", OTEL_SDK_DISABLED="true")
    assert [json.loads(line)["event"] for line in process.stdout.splitlines()] == ["telemetry on", "True"]


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["--stop"]])
@pytest.mark.parametrize("value", ["1", "perhaps"])
def test_a_launcher_that_starts_no_server_is_left_alone(arguments, value, tmp_path):
    start = "import sys; from ts.model_server import start; sys.argv[0] = 'torchserve'; start()"
    stock, touched = (
        run("-c", start, *arguments, TS_OTEL_LOGGING=switch, TMPDIR=str(tmp_path)) for switch in (None, value)
    )
    assert stock.returncode == 0
    assert (touched.stdout, touched.stderr, touched.returncode) == (stock.stdout, stock.stderr, 0)


def test_importing_the_package_imports_neither_structlog_nor_the_sdk():
    code = "import sys, ts_otel_logging; print([name for name in sys.modules if name.startswith({forbidden!r})])"
    process = run("-c", code.replace("{forbidden!r}", repr(("structlog", "opentelemetry.sdk"))))
    assert (process.stdout, process.stderr) == ("[]\n", "")


def test_an_unknown_setting_is_a_type_error():
    process = run("-c", "import ts_otel_logging; ts_otel_logging.configure(colour='blue')")
    assert process.returncode == 1
    assert re.search(r"^TypeError: .*colour", process.stderr, re.MULTILINE)
