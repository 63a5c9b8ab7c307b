"""Off means off: TorchServe prints and answers what it does without the package."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from torchserve_server import PHASES, TorchServe, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.torchserve

RUBBISH = "perhaps"
TRAFFIC = (
    {"inference": {"log": [{"message": "a line"}], "print": "printed"}},
    {"inference": {"raise": ["ValueError", "broken on purpose"]}},
    {"inference": {"raise": ["PredictionException", "not like this", 400]}},
)
# Lines that TorchServe prints by its own clock, or as often as it is polled, not in answer to a request.
OWN_CLOCK = re.compile(
    r"TS_METRICS|MetricCollector|\"GET |State change|CPUUtilization"
    r"|Memory(Used|Utilization|Available)|Disk(Usage|Available)"
)
CHANGING = [
    (re.compile(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d{3}"), "TIME"),
    (re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"), "UUID"),
    (re.compile(r"/models/[0-9a-f]{32}/"), "/models/ID/"),
    (re.compile(r"[^\s\[]*/bin/python[0-9.]*"), "PYTHON"),
    (re.compile(r"(epollEventLoopGroup|pool)-\d+(-thread)?-\d+"), "THREAD"),
    (re.compile(r"\d+(\.\d+)?"), "N"),
    (re.compile(r"[ \t]+"), " "),
]


# One reading each time that `wait_for` asks.
QUIET_READINGS = 20


@pytest.fixture(scope="module")
def off_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """The package installed, its switch set to rubbish, which counts as off."""
    environ = {"TS_OTEL_LOGGING": RUBBISH}
    with running(tmp_path_factory.mktemp("off"), environ, PHASES) as server:
        yield server


@pytest.fixture(scope="module")
def stock_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """One of this module's own: other modules load more models into the shared one, which its console tells, too."""
    with running(tmp_path_factory.mktemp("off_stock"), {}, PHASES, plugin_installed=False) as server:
        yield server


def loaded(server: TorchServe) -> TorchServe:
    """Wait for the last line of the model's load."""
    server.wait_for_line(lambda line: line.endswith("Model is ready"), "the model's last line")
    server.wait_for_line(lambda line: '"POST /models' in line, "the answer to the registration")
    return server


def settled(server: TorchServe) -> TorchServe:
    """Wait until nothing more is printed: several threads write a request's last lines after its answer."""
    sizes: list[int] = []

    def is_unchanged() -> bool:
        sizes.append(server.console_size_bytes())
        return len(sizes) > QUIET_READINGS and len(set(sizes[-QUIET_READINGS:])) == 1

    wait_for(is_unchanged, "the console is quiet")
    return server


def send_traffic(server: TorchServe) -> Counter[str]:
    """The normalised console lines of ``TRAFFIC``, the last of them included."""
    since = settled(loaded(server)).console_size_bytes()
    for instructions in TRAFFIC:
        server.predict("phases", instructions)
    server.wait_for_lines(lambda line: "Backend response time" in line, len(TRAFFIC), "the last request's", since)
    server.wait_for_line(lambda line: "PredictionException: not like this" in line, "the last traceback", since)
    return normalised(server, settled(server).console_lines(since))


def start_lines(server: TorchServe) -> Counter[str]:
    """What was printed, normalised, from the launcher's start to the first request."""
    lines = loaded(server).console_lines()
    end = next((number for number, line in enumerate(lines) if "cmd PREDICT" in line), len(lines))
    return normalised(server, [line for line in lines[:end] if "TS_OTEL_LOGGING" not in line])


def normalised(server: TorchServe, lines: list[str]) -> Counter[str]:
    """Lines without what differs between two runs, in no order: several threads write them."""
    result: Counter[str] = Counter()
    for line in lines:
        if OWN_CLOCK.search(line):
            continue
        line = line.replace(str(server.folder), "/FOLDER").replace(str(server.temporary), "/TMP")  # noqa: PLW2901
        for pattern, replacement in CHANGING:
            line = pattern.sub(replacement, line)  # noqa: PLW2901
        result[line] += 1
    return result


def test_a_rubbish_switch_is_reported_by_the_launcher_once_with_value_and_what_is_accepted(off_server):
    [report] = [line for line in off_server.console_lines() if "TS_OTEL_LOGGING" in line]
    assert RUBBISH in report
    for accepted in ("1", "true", "on", "yes", "0", "false", "off", "no"):
        assert re.search(rf"\b{accepted}\b", report)


def test_the_console_of_a_start_is_stocks_own(stock_server, off_server):
    assert start_lines(off_server) == start_lines(stock_server)


def test_the_console_of_requests_is_stocks_own(stock_server, off_server):
    assert send_traffic(off_server) == send_traffic(stock_server)


def test_a_request_is_answered_as_ever(off_server):
    assert off_server.predict("phases", {"answer": {"digit": 7}}).json() == {"digit": 7}
