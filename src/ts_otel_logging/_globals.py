"""The providers that OpenTelemetry's API hands out in this process: who set them, and setting them. API only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Callable, Final

from opentelemetry import _logs, metrics, trace

if TYPE_CHECKING:
    from collections.abc import Mapping

_GETTERS: Final[dict[str, Callable[[], Any]]] = {
    "traces": trace.get_tracer_provider,
    "logs": _logs.get_logger_provider,
    "metrics": metrics.get_meter_provider,
}
_SETTERS: Final[dict[str, Callable[[Any], None]]] = {
    "traces": trace.set_tracer_provider,
    "logs": _logs.set_logger_provider,
    "metrics": metrics.set_meter_provider,
}
# The API hands out a provider only once: after a shutdown, ours must not look like the application's.
_ours: set[int] = set()


def existing_providers() -> dict[str, Any]:
    """Return the providers that somebody else has set up, by signal: ``traces``, ``logs``, ``metrics``."""
    found = {signal: get() for signal, get in _GETTERS.items()}
    # Until one is set, the API hands out a placeholder of its own, called Proxy… or, with the API's environment
    # variables, NoOp….
    return {
        signal: provider
        for signal, provider in found.items()
        if not type(provider).__name__.lstrip("_").startswith("Proxy") and id(provider) not in _ours
    }


def set_providers(providers: Mapping[str, Any]) -> None:
    """Make providers the API's, where it has none yet.

    Args:
        providers: By signal; None leaves a signal as it is.
    """
    for signal, provider in providers.items():
        if provider is not None and type(_GETTERS[signal]()).__name__.lstrip("_").startswith("Proxy"):
            _ours.add(id(provider))
            _SETTERS[signal](provider)


def has_stock_log_handler() -> bool:
    """Return whether OpenTelemetry's own handler is on the root logger: a second one would double every record."""
    return any(
        type(handler).__name__ == "LoggingHandler" and type(handler).__module__.startswith("opentelemetry.")
        for handler in logging.getLogger().handlers
    )
