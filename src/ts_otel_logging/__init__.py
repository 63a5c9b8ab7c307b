"""Structured JSON logs, OTLP traces and latency histograms for TorchServe.

Usage
-----
Install the package beside TorchServe and set ``TS_OTEL_LOGGING=1``: nothing else is needed. In a program of your own::

    import ts_otel_logging

    ts_otel_logging.configure()
    logging.getLogger("acme").info("ready", extra={"answer": 42})

API
---
`configure`, `shutdown`, `force_flush`
    Switch the pipeline on and off in this process, and send what waits.
`BridgeHandler`
    The `logging` handler alone, for any Python program.
`get_logger`
    A structlog logger that ends in the same pipeline.
`span`, `request_scope`
    A child span around a block; lines of one request of a batch. Both do nothing when off or outside a request.

Importing this package imports neither structlog nor OpenTelemetry; the first use of a name does.
"""

from __future__ import annotations

# What type checkers know as `typing.TYPE_CHECKING`: every Python process of a container that is switched on imports
# this package, and `typing` takes nearly all of that time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ts_otel_logging._activate import configure, force_flush, shutdown
    from ts_otel_logging._bridge import BridgeHandler
    from ts_otel_logging._scope import request_scope
    from ts_otel_logging._structlog import get_logger
    from ts_otel_logging._tracing import span
    from ts_otel_logging._version import __version__

__all__ = [
    "BridgeHandler",
    "__version__",
    "configure",
    "force_flush",
    "get_logger",
    "request_scope",
    "shutdown",
    "span",
]

_HOMES = {
    "BridgeHandler": "_bridge",
    "__version__": "_version",
    "configure": "_activate",
    "force_flush": "_activate",
    "get_logger": "_structlog",
    "request_scope": "_scope",
    "shutdown": "_activate",
    "span": "_tracing",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
