"""The parts of a stack: one Jaeger and one collector of a session, and TorchServes that export to it both ways."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from stack_servers import PROTOCOLS, Collector, Jaeger, running
from torchserve_server import DEAD_PROXY, PHASES, PROMPT_EXPORT, Model, TorchServe, digits_archive_in
from torchserve_server import running as torchserve_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def digits_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's digits.mar."""
    return digits_archive_in(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """Where the session's collector sends its traces."""
    jaeger = Jaeger(tmp_path_factory.mktemp("jaeger"))
    with running(jaeger):
        yield jaeger


@pytest.fixture(scope="session")
def collector(tmp_path_factory: pytest.TempPathFactory, jaeger: Jaeger) -> Iterator[Collector]:
    """The session's collector."""
    collector = Collector(tmp_path_factory.mktemp("collector"), jaeger.otlp_address)
    with running(collector):
        yield collector


@pytest.fixture(scope="session")
def servers(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector, digits_archive: Path
) -> Iterator[dict[str, TorchServe]]:
    """Two TorchServes by the protocol that they export with."""
    endpoints = {"http/protobuf": collector.http_endpoint, "grpc": f"http://{collector.grpc_address}"}
    digits = Model("digits", archive=digits_archive)

    with ExitStack() as cleanup, ThreadPoolExecutor(max_workers=2) as pool:

        def start(protocol: str) -> TorchServe:
            environ = {
                "TS_OTEL_LOGGING": "1",
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoints[protocol],
                **PROMPT_EXPORT,
                **DEAD_PROXY,
                # Longer than a poll: an exemplar is in the exports of one interval only.
                "OTEL_METRIC_EXPORT_INTERVAL": "2000",
            }
            properties = ""
            if protocol == "grpc":
                # One whose console has every kind of line: TorchServe's metrics, too.
                properties = "metrics_mode=log\n"
                environ["TS_OTEL_LOGGING_FRONTEND"] = "json-only"
                # As the README says for handlers that start subprocesses, which one here does.
                environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
            folder = tmp_path_factory.mktemp(protocol.replace("/", "-"))
            return cleanup.enter_context(torchserve_running(folder, environ, PHASES, digits, properties=properties))

        yield dict(zip(PROTOCOLS, pool.map(start, PROTOCOLS)))
