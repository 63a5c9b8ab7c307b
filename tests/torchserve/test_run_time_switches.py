"""A settings file in a ConfigMap: checked by the launcher, and taken by a running worker within ten seconds."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import console_lines
import pytest
from telemetry import Telemetry, new_caller
from torchserve_server import PHASES, PROMPT_EXPORT, TorchServe, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otlp_receiver import OtlpReceiver

pytestmark = pytest.mark.torchserve

# Ten are promised; the machine that tests may be slow.
TAKEN_SECONDS = 30
SINKS = """
handlers:
  - {handler: to_file, type: TimestampedFileHandler, filename: custom.log, level: WARNING}
  - {handler: typo, type: TimestampdFileHandler, filename: typo.log}
"""


class ConfigMap:
    """A folder as the kubelet keeps it: the file is a link through ``..data``, which a rename replaces."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = itertools.count()
        self.path = folder / "settings.yaml"
        self.publish("")
        self.path.symlink_to("..data/settings.yaml")

    def publish(self, text: str) -> None:
        version = self._folder / f"..{next(self._versions)}"
        version.mkdir()
        (version / "settings.yaml").write_text(SINKS + text, encoding="utf-8")
        new = self._folder / "..data_tmp"
        new.symlink_to(version.name)
        os.replace(new, self._folder / "..data")


@pytest.fixture(scope="module")
def config_map(tmp_path_factory: pytest.TempPathFactory) -> ConfigMap:
    return ConfigMap(tmp_path_factory.mktemp("configmap"))


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, receiver: OtlpReceiver, config_map: ConfigMap
) -> Iterator[TorchServe]:
    folder = tmp_path_factory.mktemp("switches")
    environ = {
        "TS_OTEL_LOGGING": "1",
        # From where TorchServe is started.
        "TS_OTEL_LOGGING_CONFIG": os.path.relpath(config_map.path, folder),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        **PROMPT_EXPORT,
    }
    with running(folder, environ, PHASES) as server:
        yield server


def request(server: TorchServe, message: str, level: str = "INFO") -> tuple[str, str]:
    """Have the handler log a message; return the caller's trace id and the message's line on the console."""
    caller, since = new_caller(), server.console_size_bytes()
    log = [{"level": level, "message": message}, {"message": "the end of the request"}]
    assert server.predict("phases", {"inference": {"log": log}}, caller.headers).is_success
    server.wait_for_line(lambda line: "the end of the request" in line, "the request's last line", since)
    return caller.trace_id, next((line for line in server.console_lines(since) if message in line), "")


def publish(server: TorchServe, config_map: ConfigMap, text: str, told: str) -> dict[str, Any]:
    """Change the file, and return the event by which the worker says what it makes of it."""
    since = server.console_size_bytes()
    config_map.publish(text)
    line = server.wait_for_line(lambda line: told in line, told, since, TAKEN_SECONDS)
    return console_lines.parse(line)


def test_a_mistake_is_told_once_and_the_other_sink_works(server, config_map):
    told = [line for line in server.console_lines() if "TimestampdFileHandler" in line]
    assert len(told) == 1, told
    event = console_lines.parse(told[0])
    assert event["key"] == "handlers.typo.type"
    assert os.path.samefile(event["file"], config_map.path)
    assert "TimestampedFileHandler, SyslogHandler, LatencyHandler" in event["accepted"]
    trace_id, _ = request(server, "for the file", "WARNING")
    # Where TorchServe was started, not the worker's own folder.
    file = server.folder / "custom.log"
    line = wait_for(
        lambda: file.exists() and next((line for line in file.read_text().splitlines() if trace_id in line), None),
        "the sink's line",
    )
    assert "WARNING acme.model for the file" in line


def test_switches_take_effect_in_a_running_worker_and_back(server, config_map, receiver):
    telemetry = Telemetry(receiver)
    worker = server.worker_pid("phases")
    on, line = request(server, "while on")
    assert console_lines.parse(line)["trace_id"] == on

    publish(server, config_map, "enabled: false", "settings file taken")
    off, line = request(server, "while off")
    event = console_lines.parse(line)
    assert (event["event"], event["logger"]) == ("while off", "MODEL_LOG")

    publish(server, config_map, "levels: {acme.model: DEBUG}", "settings file taken")
    fine, line = request(server, "fine detail", "DEBUG")
    assert console_lines.parse(line)["level"] == "debug"

    refused = publish(server, config_map, "levels: {acme.model: LOUD}", "settings file refused")
    assert (refused["key"], refused["value"]) == ("levels.acme.model", "LOUD")
    assert console_lines.parse(request(server, "still fine", "DEBUG")[1])["level"] == "debug"

    publish(server, config_map, "traces: false", "settings file taken")
    untraced, line = request(server, "without spans")
    assert console_lines.parse(line)["trace_id"] == untraced
    assert not request(server, "too fine", "DEBUG")[1]

    publish(server, config_map, "", "settings file taken")
    back, _ = request(server, "back")
    wait_for(lambda: telemetry.spans(back), "the last request's spans")
    sent = {name: bool(telemetry.spans(trace)) for name, trace in
            {"on": on, "off": off, "fine": fine, "untraced": untraced}.items()}  # fmt: skip
    assert sent == {"on": True, "off": False, "fine": True, "untraced": False}
    assert server.worker_pid("phases") == worker
