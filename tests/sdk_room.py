"""Build providers of the export room in a test, and look at what they reported."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry._logs import LogRecord

from ts_otel_logging._sdk import build_providers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ts_otel_logging._sdk import Providers

# Nothing is exported but by a full batch or a flush.
ON_DEMAND = {
    "OTEL_BSP_SCHEDULE_DELAY": "600000",
    "OTEL_BLRP_SCHEDULE_DELAY": "600000",
    "OTEL_METRIC_EXPORT_INTERVAL": "600000",
}


class Report(NamedTuple):
    event: str
    level: int
    fields: dict[str, Any]


class Room:
    """Providers, with short ways to use them."""

    def __init__(self, providers: Providers, reports: list[Report]) -> None:
        self.providers = providers
        self.reports = reports

    def span(self, name: str = "predict", **attributes: Any) -> None:
        self.providers.tracer_provider.get_tracer("test").start_span(name, attributes=attributes).end()

    def log(self, body: Any = "a line", **attributes: Any) -> None:
        self.providers.logger_provider.get_logger("test").emit(LogRecord(body=body, attributes=attributes))

    def measure(self, value: float = 1.0) -> None:
        self.providers.meter_provider.get_meter("test").create_histogram("test.duration", "s").record(value)

    def flush(self, timeout_seconds: float = 10.0) -> bool:
        return self.providers.force_flush(timeout_seconds)

    def events(self) -> list[str]:
        return [report.event for report in self.reports]


@contextmanager
def room(environ: dict[str, str], *, shutdown_seconds: float = 10.0, **changes: Any) -> Iterator[Room]:
    """Providers for an environment; they are shut down at the end."""
    reports: list[Report] = []

    def report(event: str, *, level: int = logging.WARNING, **fields: Any) -> None:
        reports.append(Report(event, level, fields))

    arguments: dict[str, Any] = {
        "resource_attributes": {},
        "queue_bytes": 4_194_304,
        "file_dir": "",
        "worker_name": "9000",
        **changes,
    }
    providers = build_providers({**ON_DEMAND, **environ}, report=report, **arguments)
    try:
        yield Room(providers, reports)
    finally:
        providers.shutdown(timeout_seconds=shutdown_seconds)


def export_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ts-otel-logging-export"]
