"""The one shield between our errors and the user's prediction, and the one way to tell about them.

Whatever of ours can raise while a user's code runs goes through `swallowed`: the error is counted and told at a
bounded rate, and the caller goes on. Under test `reraise` makes the same place raise.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import Any, Callable, Final, Optional, TypeVar, cast

_F = TypeVar("_F", bound=Callable[..., Any])

LOGGER_NAME: Final = "ts_otel_logging"
EXPORT_LOGGER_NAME: Final = f"{LOGGER_NAME}.export"
"""Of what is told about the export, which must not depend on it."""
REPORT_INTERVAL_SECONDS: Final = 60.0

counts: dict[str, int] = {}
"""How many errors each place swallowed since the start of the process."""

reraise: bool = False
"""Set by tests: an error of ours raises instead of being swallowed."""

_last_told: dict[str, tuple[float, int]] = {}
_telling = threading.local()


def report(event: str, *, level: int = logging.WARNING, logger_name: str = LOGGER_NAME, **fields: Any) -> None:
    """Tell the operator something about this package itself, as one ordinary log event.

    Args:
        event: What happened, in a few words.
        level: A level of `logging`.
        logger_name: `LOGGER_NAME` or `EXPORT_LOGGER_NAME`.
        **fields: Details, which become fields of the line.
    """
    logger = logging.getLogger(logger_name)
    # logging.config disables the loggers that it does not name, by default.
    logger.disabled = False
    logger.log(level, event, extra=fields)


def swallowed(where: str, error: BaseException, event: str = "internal error, telemetry lost") -> None:
    """Count an error of ours and tell it: the first at once, later ones at most once a minute with their count.

    Args:
        where: The name of the shielded place.
        error: What was raised there.
        event: What it means to the operator.

    Raises:
        BaseException: The error itself, when `reraise` is set.
    """
    if reraise:
        raise error
    count = counts[where] = counts.get(where, 0) + 1
    now = time.monotonic()
    told_at, told_count = _last_told.get(where, (float("-inf"), 0))
    # Telling uses the pipeline that may just have failed: never tell about telling.
    if now - told_at < REPORT_INTERVAL_SECONDS or getattr(_telling, "active", False):
        return
    _last_told[where] = (now, count)
    _telling.active = True
    try:
        report(
            event,
            where=where,
            error=f"{type(error).__name__}: {error}",
            count=count - told_count,
            location=_location(error),
        )
    except Exception:  # noqa: BLE001, S110 - nothing is left to tell it to; the count stays
        pass
    finally:
        _telling.active = False


def _location(error: BaseException) -> Optional[str]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def shielded(where: str) -> Callable[[_F], _F]:
    """Make a function return None instead of raising.

    Args:
        where: The name under which its errors are counted and told.

    Returns:
        A decorator.
    """

    def decorate(function: _F) -> _F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the shield
                swallowed(where, error)
                return None

        return cast("_F", wrapper)

    return decorate
