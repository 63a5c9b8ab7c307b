"""Providers from ``OTEL_CONFIG_FILE``: the file alone says what they are.

Upstream's package ``opentelemetry-configuration`` (with OpenTelemetry 1.44 or newer) reads the file and sets the global
providers itself; that is its only public way: https://opentelemetry.io/docs/specs/otel/configuration/sdk/.
"""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any, Optional

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

if TYPE_CHECKING:
    from collections.abc import Mapping


def configure_from_file(path: str) -> Mapping[str, Any]:
    """Let the file define the global providers.

    Args:
        path: The file.

    Returns:
        The SDK's providers that are global afterwards, by signal.

    Raises:
        ImportError: The package is not installed.
        Exception: Whatever it says about the file.
    """
    # Only with some releases, so its types are not there to be checked.
    configuration: Any = __import__("opentelemetry.configuration", fromlist=["configure_sdk"])
    configuration.configure_sdk(configuration.load_config_file(path))
    found = {
        "traces": (trace.get_tracer_provider(), TracerProvider),
        "logs": (_logs.get_logger_provider(), LoggerProvider),
        "metrics": (metrics.get_meter_provider(), MeterProvider),
    }
    return {signal: provider for signal, (provider, sdk_class) in found.items() if isinstance(provider, sdk_class)}


def call_all(providers: Mapping[str, Any], method: str, timeout_seconds: float) -> bool:
    """Call ``force_flush`` or ``shutdown`` of providers that are not built here, under one deadline.

    Returns:
        Whether all of them succeeded in time.
    """
    deadline = time.monotonic() + timeout_seconds
    succeeded = True
    for signal in ("logs", "traces", "metrics"):
        provider: Optional[Any] = providers.get(signal)
        if provider is None:
            continue
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        call = getattr(provider, method)
        arguments = (
            {"timeout_millis": int(remaining * 1e3)} if "timeout_millis" in inspect.signature(call).parameters else {}
        )
        try:
            succeeded &= call(**arguments) is not False
        except Exception:  # noqa: BLE001 - exporters are anybody's code
            succeeded = False
    return succeeded
