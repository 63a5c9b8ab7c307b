"""The real TorchServes of a test session: one for almost everything, and a stock one to compare with.

Modules that need another environment start one more, as few as possible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from telemetry import Telemetry
from torchserve_server import (
    DEAD_PROXY,
    FUNCTION,
    OWN_CLASS,
    PHASES,
    PROMPT_EXPORT,
    Model,
    TorchServe,
    digits_archive_in,
    running,
)

from otlp_receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def receiver() -> Iterator[OtlpReceiver]:
    """What the main server exports to, over HTTP."""
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def telemetry(receiver: OtlpReceiver) -> Telemetry:
    """What the main server exported, in plain Python."""
    return Telemetry(receiver)


@pytest.fixture(scope="session")
def digits_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's digits.mar."""
    return digits_archive_in(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, receiver: OtlpReceiver, digits_archive: Path
) -> Iterator[TorchServe]:
    """The one real TorchServe: switched on, nothing else but where to export and how soon."""
    environ = {
        "TS_OTEL_LOGGING": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        **PROMPT_EXPORT,
        **DEAD_PROXY,
    }
    digits = Model("digits", archive=digits_archive)
    with running(tmp_path_factory.mktemp("server"), environ, PHASES, OWN_CLASS, FUNCTION, digits) as server:
        yield server


@pytest.fixture(scope="session")
def stock_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """TorchServe as if the package was not installed: the same libraries, no start-up file."""
    with running(tmp_path_factory.mktemp("stock"), {}, PHASES, plugin_installed=False) as server:
        yield server
