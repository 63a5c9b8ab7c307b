"""The worker's stdout is also a control channel: which records must leave as they are.

The frontend reads every line of a worker (frontend/server/…/wlm/WorkerLifeCycle.java, ReaderThread) and knows three by
their text: ``[PID]<pid>``, ``…Torch worker started.`` and ``[METRICS]…``. A record is one of them by its origin, the
file that logged it; its text alone never makes it one, so a handler cannot forge a control line by logging.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Callable, Final

if TYPE_CHECKING:
    from ts_otel_logging._tracing import Tracing

_WORKER_MESSAGES: Final = ("[PID]", "Torch worker started.")
_METRICS: Final = "[METRICS]"
# Told with every request; the request's span says it better.
_CHATTER: Final = "Backend received inference at"


def metric_loggers() -> tuple[str, ...]:
    """Return the names of the loggers whose records the frontend reads while a worker serves."""
    import ts.metrics.caching_metric
    import ts.service

    return ts.metrics.caching_metric.logger.name, ts.service.logger.name


def build_control_line_filter(worker_file: str) -> Callable[[logging.LogRecord], bool]:
    """Return what tells a control line from an event.

    Args:
        worker_file: The path of the running ``model_service_worker.py``, as on its command line.
    """
    import ts.metrics.caching_metric
    import ts.service

    # The files whose INFO records hold control lines, by the logger they use. The logger's name is the cheap question
    # that nearly every record answers with no.
    files = {
        # A script's path in its code is the one on the command line, or absolute, by the version of Python.
        "root": (worker_file, os.path.abspath(worker_file)),
        ts.metrics.caching_metric.logger.name: (ts.metrics.caching_metric.__file__,),
        ts.service.logger.name: (ts.service.__file__,),
    }

    def is_control_line(record: logging.LogRecord) -> bool:
        if record.name not in files or record.levelno != logging.INFO or record.pathname not in files[record.name]:
            return False
        if record.name == "root":
            return str(record.msg).startswith(_WORKER_MESSAGES)
        return record.getMessage().startswith(_METRICS)

    return is_control_line


WriteUnrecorded = Callable[[logging.Logger, str], bool]
"""``write_unrecorded(logger, text)``, as `BridgeHandler.write_unrecorded`."""


class MetricLogger:
    """The logger of `ts.metrics.caching_metric`, whose lines for the frontend need no record on their way to stdout.

    Making one takes as long as everything else of a metric.

    Args:
        logger: The module's own, which gets all that is no metric or has other handlers.
        write_unrecorded: Writes a line, or returns False.
    """

    def __init__(self, logger: logging.Logger, write_unrecorded: WriteUnrecorded) -> None:
        self._logger = logger
        self._write_unrecorded = write_unrecorded

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log, or write."""
        if not args and type(msg) is str and msg.startswith(_METRICS) and self._write_unrecorded(self._logger, msg):
            return
        self._logger.info(msg, *args, stacklevel=2, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return what the logger has by this name."""
        return getattr(self._logger, name)


class QuietLogging:
    """The module `logging` for `ts.protocol.otf_message_handler`: what it tells of every request is DEBUG.

    Where everything is wanted it is still there; where not, no record is made of it, which would take a fifth of what
    a request costs the worker without us.

    Args:
        tracing: Knows whether requests are looked at; otherwise all is as it was.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log to the root logger."""
        level = logging.DEBUG if self._tracing.enabled and str(msg).startswith(_CHATTER) else logging.INFO
        if logging.root.isEnabledFor(level):
            logging.root.log(level, msg, *args, stacklevel=2, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return what `logging` has by this name."""
        return getattr(logging, name)
