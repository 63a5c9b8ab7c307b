"""structlog's own loggers end in the same pipeline: they log through `logging`, and the bridge does the rest.

structlog is imported by the program that uses it, never for our sake.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Callable, Final

from ts_otel_logging import _names
from ts_otel_logging._diagnostics import shielded
from ts_otel_logging._event import RECORD_FIELDS
from ts_otel_logging._import_hook import after_import

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_CALL_ARGUMENTS: Final = ("exc_info", "stack_info", "stackLevel", "stacklevel")


def to_log_call(_logger: Any, _method: str, event_dict: MutableMapping[str, Any]) -> dict[str, Any]:
    """Turn an event into the arguments of a `logging` call, as a chain's last processor.

    `structlog.stdlib.render_to_log_kwargs` does the same but lets `logging` raise for a key that a record has itself,
    ``name`` for instance; here such a key is kept under `EXTRA_PREFIX`.
    """
    arguments: dict[str, Any] = {
        "stacklevel" if key == "stackLevel" else key: event_dict.pop(key)
        for key in _CALL_ARGUMENTS
        if key in event_dict
    }
    arguments["msg"] = event_dict.pop(_names.EVENT, "")
    arguments["extra"] = {
        _names.EXTRA_PREFIX + key if key in RECORD_FIELDS else key: value for key, value in event_dict.items()
    }
    return arguments


def configure() -> Callable[[], None]:
    """Let `structlog.get_logger()` end in `logging`, as soon as structlog is there.

    Not if the program has configured structlog itself.

    Returns:
        What undoes it, unless the program has configured structlog in between.
    """
    undo: list[Callable[[], None]] = []
    # Shielded: it may run inside the program's own import.
    forget = after_import("structlog", shielded("structlog")(lambda: undo.append(_configure())))

    def undo_all() -> None:
        forget()
        for function in undo:
            function()

    return undo_all


def _configure() -> Callable[[], None]:
    import structlog

    if structlog.is_configured():
        return lambda: None
    logger_class = logging.getLoggerClass()
    # It makes a class of structlog's own that of all new loggers: one that the program has set stays.
    logger_factory = structlog.stdlib.LoggerFactory()
    if logger_class is not logging.Logger:
        logging.setLoggerClass(logger_class)
    processors = _processors()
    # The bridge adds the context variables, for every kind of logger alike.
    structlog.configure(
        processors=processors,
        logger_factory=logger_factory,
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )

    def undo() -> None:
        if structlog.get_config()["processors"] is processors:
            structlog.reset_defaults()
            if isinstance(logging.getLoggerClass(), type) and logging.getLoggerClass().__module__ == "structlog.stdlib":
                logging.setLoggerClass(logger_class)

    return undo


def is_rendering() -> bool:
    """Return whether the program's own structlog configuration hands rendered text to `logging`."""
    if "structlog" not in sys.modules:
        return False
    import structlog

    renderers = (
        structlog.processors.JSONRenderer,
        structlog.processors.KeyValueRenderer,
        structlog.processors.LogfmtRenderer,
        structlog.dev.ConsoleRenderer,
    )
    config = structlog.get_config()
    return (
        structlog.is_configured()
        and isinstance(config["logger_factory"], structlog.stdlib.LoggerFactory)
        and bool(config["processors"])
        and isinstance(config["processors"][-1], renderers)
    )


def _processors() -> list[Any]:
    from structlog import stdlib

    return [stdlib.filter_by_level, stdlib.PositionalArgumentsFormatter(), to_log_call]


def get_logger(name: str, **initial_values: Any) -> Any:
    """Return a structlog logger whose events end in the same pipeline as those of ``logging.getLogger(name)``.

    Args:
        name: The logger's name.
        **initial_values: Bound to every event.
    """
    import structlog

    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=_processors(),
        wrapper_class=structlog.stdlib.BoundLogger,
        **initial_values,
    )
