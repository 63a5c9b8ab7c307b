"""A handler that prints in every way there is, on four workers, in batches: every line is one event, none is lost."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import console_lines
import httpx
import pytest
from torchserve_server import Model, TorchServe, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torchserve

HOSTILE = Model("hostile", "hostile.py", batch_size=4, max_batch_delay_milliseconds=50, workers=4)
REQUESTS = 100
BURST = 10_000
# Printed with every request: how a line begins, its logger, its level.
KINDS = [
    ("print {}", "stdout", "info"),
    ("stderr {}", "stderr", "warning"),
    ("write {}", "stdout", "info"),
    ("bytes {} \\xff", "stdout", "info"),
    ("progress {} 100", "stdout", "info"),
    ("logged {}", "acme.hostile", "error"),
    ("native {}", "MODEL_LOG", "info"),
    ("subprocess {}", "MODEL_LOG", "info"),
    ("[PID]{}", "stdout", "info"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """Nothing is exported: what is asserted is on the console."""
    environ = {"TS_OTEL_LOGGING": "1", **{f"OTEL_{name}_EXPORTER": "none" for name in ("TRACES", "LOGS", "METRICS")}}
    with running(tmp_path_factory.mktemp("printed"), environ, HOSTILE) as server:
        yield server


@pytest.fixture(scope="module")
def events(server: TorchServe) -> list[dict[str, Any]]:
    """What the console has of a hundred requests."""
    since = server.console_size_bytes()

    def ask(number: int) -> None:
        assert server.client.post("/predictions/hostile", content=json.dumps(number)).is_success

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(REQUESTS)))
    # TorchServe's own threads read a worker's two streams: the last lines may come after the answer.
    server.wait_for_lines(lambda line: '"event":"subprocess ' in line, REQUESTS, "all of the subprocesses", since)
    server.wait_for_lines(lambda line: '"event":"native ' in line, REQUESTS, "all of the native lines", since)

    def all_ended() -> list[dict[str, Any]]:
        events = console_lines.events(server.console_lines(since))
        ended = sum(len(event["event"].split()) - 1 for event in events if event["event"].startswith("partial "))
        return events if ended >= REQUESTS else []

    return wait_for(all_ended, "the last line of every batch")


@pytest.mark.parametrize(("text", "logger", "level"), KINDS)
def test_each_request_has_one_event_of_each_kind(events, text, logger, level):
    found = Counter(event["event"] for event in events if (event["logger"], event["level"]) == (logger, level))
    for number in range(REQUESTS):
        assert found[text.format(number)] == 1, text.format(number)


def test_a_line_without_an_end_is_an_event_when_its_batch_ends(events):
    found = [event["event"].split() for event in events if event["event"].startswith("partial ")]
    assert sorted(int(number) for _, *numbers in found for number in numbers) == list(range(REQUESTS))


def test_each_traceback_is_one_event(events):
    found = [event["event"] for event in events if event["logger"] == "stderr" and "Traceback" in event["event"]]
    assert len(found) == REQUESTS
    for text in found:
        assert text.startswith("Traceback (most recent call last):")
        assert text.split("\n")[-1].startswith("KeyError: 'traceback ")


def test_each_exception_of_a_thread_is_one_event(events):
    found = [event for event in events if event["logger"] == "threading.excepthook"]
    assert sorted(event["exception"]["message"] for event in found) == sorted(f"thread {n}" for n in range(REQUESTS))


def test_each_warning_is_one_event(events):
    found = [event for event in events if event["logger"] == "py.warnings"]
    assert len({event["event"] for event in found}) == len(found) == REQUESTS


def test_what_python_prints_carries_its_batch(events):
    printed = [event for event in events if event["logger"] in ("stdout", "stderr", "acme.hostile")]
    for event in printed:
        assert event["model_name"] == "hostile"
        assert event.get("request_id") or event["request_ids"]
    assert any("request_ids" in event for event in printed), "no batch was larger than one"


def test_an_empty_line_of_native_code_says_nothing(events):
    assert [event for event in events if not event["event"].strip()] == []


def test_a_long_line_of_native_code_is_cut(events):
    [event] = [event for event in events if event["event"].startswith("a long native line xxx")]
    assert event["truncated"] is True
    assert 15_000 < len(event["event"]) < 16_000
    assert event["model_name"] == "hostile"


def test_what_is_native_carries_the_model(events):
    native = [event for event in events if event["event"].startswith("native ")]
    assert {event["model_name"] for event in native} == {"hostile"}
    assert {event["worker_id"] for event in native} <= {str(port) for port in range(9000, 9004)}


def test_text_that_looks_like_a_control_line_changes_nothing(server, events):
    workers = httpx.get(f"{server.management_url}/models/hostile", timeout=10, trust_env=False).json()[0]["workers"]
    assert all(worker["pid"] > REQUESTS for worker in workers)


def test_a_burst_of_lines_is_whole_and_in_order(server):
    since = server.console_size_bytes()
    assert server.client.post("/predictions/hostile", content='"burst"').is_success
    lines = server.wait_for_lines(lambda line: '"event":"burst ' in line, BURST, "the burst", since)
    assert [int(console_lines.parse(line)["event"].split()[1]) for line in lines] == list(range(BURST))


def test_what_a_worker_said_before_it_was_killed_is_there(server):
    since = server.console_size_bytes()
    with contextlib.suppress(httpx.HTTPError):
        server.client.post("/predictions/hostile", content='"die"', timeout=10)

    def both() -> list[dict[str, Any]]:
        events = console_lines.events(server.console_lines(since))
        found = [event for event in events if event["event"].endswith("last words")]
        return found if len(found) >= 2 else []

    last = wait_for(both, "last words")
    assert {(event["event"], event["logger"]) for event in last} == {
        ("printed last words", "stdout"),
        ("logged last words", "acme.hostile"),
    }
