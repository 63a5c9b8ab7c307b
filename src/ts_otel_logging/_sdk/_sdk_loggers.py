"""The SDK's own loggers while our export is on: what they say becomes reasons, not a flood of lines."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from typing import Any, Callable, Final

# An exporter that cannot reach its endpoint logs every attempt, and those records would be exported in turn. The others
# warn of every part of a caller's header that they cannot use: whoever sends requests could fill the console.
_NAMES: Final = ("opentelemetry.exporter", "opentelemetry.sdk", "opentelemetry.trace", "opentelemetry.baggage")
# Debug lines about each of our requests would be exported by the next one. A logger's filter sees only what is logged
# on that very logger, so these are all that take part in a request; requests has none.
_HTTP_CLIENT_NAMES: Final = tuple(
    f"urllib3.{module}" for module in ("connection", "connectionpool", "poolmanager", "response", "util.retry")
)
_INTERVAL_SECONDS: Final = 60.0
_MAX_REMEMBERED: Final = 64
_MAX_CHARACTERS: Final = 300

# Whether this thread is exporting, and what was said meanwhile. Of the module, not of an instance: an export that hangs
# may outlive the one that started it.
_exporting = threading.local()


class SdkLoggers(logging.Handler):
    """Takes what OpenTelemetry's SDK and exporters log.

    On the export thread it is kept as the reason of a failure. From other threads, where the SDK tells about wrong use,
    each message is reported at most once a minute. What the HTTP client logs on the export thread is dropped.

    Args:
        report: Tells the operator.
    """

    def __init__(self, report: Callable[..., None]) -> None:
        super().__init__()
        self._report = report
        self._told: dict[tuple[str, Any], float] = {}
        self._undo = ExitStack()

    def install(self) -> None:
        """Take the loggers over."""
        for name in _NAMES:
            logger = logging.getLogger(name)
            self._undo.callback(setattr, logger, "propagate", logger.propagate)
            self._undo.callback(logger.removeHandler, self)
            logger.addHandler(self)
            logger.propagate = False
        for name in _HTTP_CLIENT_NAMES:
            logger = logging.getLogger(name)
            self._undo.callback(logger.removeFilter, self._is_of_another_thread)
            logger.addFilter(self._is_of_another_thread)
        # The exporters' loggers have filters that hold back what was said in the last 20 s: often the reason.
        for name in list(logging.Logger.manager.loggerDict):
            if name.startswith(_NAMES):
                logger = logging.getLogger(name)
                for duplicate_filter in list(logger.filters):
                    self._undo.callback(logger.addFilter, duplicate_filter)
                    logger.removeFilter(duplicate_filter)

    def restore(self) -> None:
        """Give the loggers back as they were."""
        self._undo.close()

    def _is_of_another_thread(self, _record: logging.LogRecord) -> bool:
        return not hasattr(_exporting, "message")

    def start_capture(self) -> None:
        """Keep from now on what this thread says, until `take_message`."""
        _exporting.message = ""

    def take_message(self) -> str:
        """Return the last thing that this thread said since `start_capture`."""
        message = getattr(_exporting, "message", "")
        _exporting.__dict__.pop("message", None)
        return str(message)

    def handle(self, record: logging.LogRecord) -> bool:
        """Handle a record without a lock: reporting goes through handlers that have one, and may come back here."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's text as a reason, or report it."""
        try:
            message = record.getMessage()[:_MAX_CHARACTERS]
            if hasattr(_exporting, "message"):
                _exporting.message = message
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
