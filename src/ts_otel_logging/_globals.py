"""The providers that OpenTelemetry's API hands out in this process: who set them, and setting them. API only."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Final

from opentelemetry import _logs, metrics, trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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


@contextmanager
def exchanged(tracer_provider: Any, meter_provider: Any) -> Iterator[None]:
    """Let the API hand out other providers in a block, for tests: it takes one only once, as its own tests know.

    The same providers must come every time: a tracer or meter that was made before them keeps the first it finds.

    Args:
        tracer_provider: For spans.
        meter_provider: For measurements.
    """
    # opentelemetry-python, tests/opentelemetry-test-utils, globals_test.py does the same.
    modules: tuple[tuple[Any, str, Any], ...] = (
        (trace, "_TRACER_PROVIDER", tracer_provider),
        (metrics._internal, "_METER_PROVIDER", meter_provider),  # noqa: SLF001
    )
    before = [getattr(module, name) for module, name, _ in modules]
    for module, name, provider in modules:
        setattr(module, name, provider)
    if before[1] is None:
        metrics._internal._PROXY_METER_PROVIDER.on_set_meter_provider(meter_provider)  # noqa: SLF001
    try:
        yield
    finally:
        for (module, name, _), provider in zip(modules, before):
            setattr(module, name, provider)


def has_stock_log_handler() -> bool:
    """Return whether OpenTelemetry's own handler is on the root logger: a second one would double every record."""
    return any(
        type(handler).__name__ == "LoggingHandler" and type(handler).__module__.startswith("opentelemetry.")
        for handler in logging.getLogger().handlers
    )
