"""A step of activation that raises: stock TorchServe serves, and says why it is stock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from answers import REQUESTS, comparable
from torchserve_server import PHASES, TorchServe, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torchserve

REASON = "this library is broken on purpose"
# A sitecustomize module runs in every Python process that finds it, after the start-up files.
SITECUSTOMIZE = f"""
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "structlog" or name.startswith("opentelemetry.sdk"):
            raise RuntimeError({REASON!r})
        return None

sys.meta_path.insert(0, Broken())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """Switched on, in an environment whose structlog and OpenTelemetry SDK cannot be imported."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    environ = {"TS_OTEL_LOGGING": "1", "PYTHONPATH": str(folder)}
    with running(folder / "server", environ, PHASES) as server:
        yield server


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_is_stocks_own(server, stock_server, name):
    assert comparable(server.predict("phases", REQUESTS[name])) == comparable(
        stock_server.predict("phases", REQUESTS[name])
    )


def test_the_handlers_line_is_printed_as_stock_prints_it(server):
    server.predict("phases", {"inference": {"log": [{"message": "a plain line", "extra": {"digit": 7}}]}})
    line = server.wait_for_line(lambda line: "a plain line" in line, "the handler's line")
    # The launcher is not broken: the frontend wraps the worker's plain text.
    text = json.loads(line)["event"] if line.startswith("{") else line.rpartition(" - ")[2]
    assert text == "a plain line"


def test_the_failure_is_told_once_with_its_reason(server):
    server.wait_for_line(lambda line: REASON in line, "the reason")
    server.predict("phases", {})
    assert len([line for line in server.console_lines() if REASON in line]) == 1


def test_the_model_was_loaded_at_the_first_try(server):
    pids = [line for line in server.console_lines() if "[PID]" in line]
    assert len(pids) == 1
