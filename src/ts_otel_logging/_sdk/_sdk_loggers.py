"""The SDK's own loggers while our export is on: what they say becomes reasons, not a flood of lines."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Callable, Final

# An exporter that cannot reach its endpoint logs every attempt, and those records would be exported in turn.
_NAMES: Final = ("opentelemetry.exporter", "opentelemetry.sdk")
_INTERVAL_SECONDS: Final = 60.0
_MAX_REMEMBERED: Final = 64
_MAX_CHARACTERS: Final = 300


class SdkLoggers(logging.Handler):
    """Takes what OpenTelemetry's SDK and exporters log.

    On the export thread it is kept as the reason of a failure. From other threads, where the SDK tells about wrong use,
    each message is reported at most once a minute.

    Args:
        report: Tells the operator.
    """

    def __init__(self, report: Callable[..., None]) -> None:
        super().__init__()
        self._report = report
        self._exporting = threading.local()
        self._told: dict[tuple[str, Any], float] = {}
        self._before: list[tuple[logging.Logger, bool]] = []

    def install(self) -> None:
        """Take the loggers over."""
        for name in _NAMES:
            logger = logging.getLogger(name)
            self._before.append((logger, logger.propagate))
            logger.addHandler(self)
            logger.propagate = False

    def restore(self) -> None:
        """Give the loggers back as they were."""
        for logger, propagate in self._before:
            logger.removeHandler(self)
            logger.propagate = propagate
        self._before.clear()

    def start_capture(self) -> None:
        """Keep from now on what this thread says, until `take_message`."""
        self._exporting.message = ""

    def take_message(self) -> str:
        """Return the last thing that this thread said since `start_capture`."""
        message = getattr(self._exporting, "message", "")
        self._exporting.__dict__.pop("message", None)
        return str(message)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's text as a reason, or report it."""
        try:
            message = record.getMessage()[:_MAX_CHARACTERS]
            if hasattr(self._exporting, "message"):
                self._exporting.message = message
                return
            key, now = (record.name, record.msg), time.monotonic()
            if record.levelno < logging.WARNING or now - self._told.get(key, -_INTERVAL_SECONDS) < _INTERVAL_SECONDS:
                return
            if len(self._told) >= _MAX_REMEMBERED:
                self._told.clear()
            self._told[key] = now
            self._report(message, level=record.levelno, source=record.name)
        except Exception:  # noqa: BLE001 - logging's own rule: a handler must not raise into the one who logs
            self.handleError(record)
