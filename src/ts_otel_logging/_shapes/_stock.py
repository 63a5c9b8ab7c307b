"""What TorchServe's worker prints of a record by itself, for the time that we are switched off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_otel_logging._diagnostics import LOGGER_NAME
from ts_otel_logging._values import plain

if TYPE_CHECKING:
    from ts_otel_logging._event import Event


def stock_text(event: Event) -> str:
    """Return the text that `logging` makes with the worker's format, ``%(message)s`` (ts/model_service_worker.py).

    What this package has to say about itself keeps its fields: they name the file and the key.
    """
    extra = event.extra
    parts = [event.message]
    if event.logger == LOGGER_NAME:
        parts = [" ".join([event.message, *(f"{key}={plain(value)}" for key, value in extra.items())])]
    exception: Any = event.exception
    if exception is not None:
        parts.append(str(exception.get("stacktrace", "") if isinstance(exception, dict) else exception).rstrip("\n"))
    if event.record.stack_info:
        parts.append(event.record.stack_info)
    return "\n".join(parts).encode("utf-8", "backslashreplace").decode("utf-8")
