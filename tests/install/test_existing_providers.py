"""Providers that exist already are used as they are: nothing of ours exports beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from start_processes import run

from otlp_receiver import OtlpReceiver

PROGRAM = Path(__file__).parent / "existing_providers.py"
TESTS = PROGRAM.parent.parent


@pytest.fixture(scope="module", params=["configure", "worker"])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program says that its own providers got, and how much went to the standard endpoint instead."""
    if request.param == "configure":
        command = [str(PROGRAM), "configure"]
    else:
        worker = tmp_path_factory.mktemp("ts") / "model_service_worker.py"
        command = [str(shutil.copy(PROGRAM, worker))]
    with OtlpReceiver() as receiver:
        process = run(
            *command,
            PYTHONPATH=str(TESTS),
            TS_OTEL_LOGGING="1" if request.param == "worker" else None,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint,
            OTEL_BSP_SCHEDULE_DELAY="50",
        )
        assert process.returncode == 0, process.stderr
        found: dict[str, Any] = json.loads(process.stderr.splitlines()[-1])
        found["console"] = process.stdout.splitlines()
        found["sent past them"] = len(receiver.spans) + len(receiver.log_records) + len(receiver.metrics)
    return found


def test_the_global_providers_stay_the_users(outcome):
    assert outcome["same"] == [True, True, True]


def test_the_users_tracer_provider_gets_each_span_once(outcome):
    assert sorted(outcome["spans"]) == ["inference", "load tiny", "postprocess", "predict tiny", "preprocess"]


def test_the_users_logger_provider_gets_each_record_once(outcome):
    assert outcome["records"].count("a line of the handler") == 1


def test_the_users_meter_provider_gets_the_histograms(outcome):
    assert {"torchserve.request.duration", "torchserve.phase.duration"} <= set(outcome["metrics"])


def test_nothing_is_exported_beside_them(outcome):
    assert outcome["sent past them"] == 0


def test_the_line_still_goes_to_the_console_once(outcome):
    assert sum("a line of the handler" in line for line in outcome["console"]) == 1
