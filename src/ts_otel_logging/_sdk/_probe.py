"""Asks each destination whether it answers, with an empty export: what the doctor shows."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from opentelemetry.sdk.metrics.export import MetricsData

from ts_otel_logging._sdk._environment import seen_by_the_sdk, text
from ts_otel_logging._sdk._exporters import SIGNALS, build_exporter, exporter_names
from ts_otel_logging._sdk._outcome import Verdict
from ts_otel_logging._sdk._sdk_loggers import SdkLoggers
from ts_otel_logging._sdk._sender import Sender

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TIMEOUT_SECONDS = 3.0


class Destination(NamedTuple):
    """Where a signal goes.

    Attributes:
        signal: ``traces``, ``logs`` or ``metrics``.
        place: The exporter and its endpoint, for people.
        answers: Whether an empty export arrived; None where there is nothing to ask.
        reason: Why it did not.
    """

    signal: str
    place: str
    answers: Optional[bool]
    reason: str = ""


def probe(environ: Mapping[str, str], file_dir: str) -> Iterator[Destination]:
    """Yield every destination that the environment asks for, each tried for at most a few seconds.

    Args:
        environ: OpenTelemetry's variables.
        file_dir: The folder of ``otlp_json_file``; it is not created.
    """
    if text(environ, "OTEL_SDK_DISABLED").lower() == "true":
        yield from (Destination(signal, "off: OTEL_SDK_DISABLED", None) for signal in SIGNALS)
        return
    if text(environ, "OTEL_CONFIG_FILE"):
        place = f"as {text(environ, 'OTEL_CONFIG_FILE')} says"
        yield from (Destination(signal, place, None) for signal in SIGNALS)
        return
    loggers = SdkLoggers(lambda *_args, **_fields: None)
    loggers.install()
    try:
        with seen_by_the_sdk({"OTEL_EXPORTER_OTLP_TIMEOUT": str(int(_TIMEOUT_SECONDS)), **environ}):
            for signal in SIGNALS:
                for name in exporter_names(signal, environ) or ["none"]:
                    yield _probe_one(signal, name, environ, file_dir, loggers)
    finally:
        loggers.restore()


def _probe_one(signal: str, name: str, environ: Mapping[str, str], file_dir: str, loggers: SdkLoggers) -> Destination:
    if name == "none":
        return Destination(signal, "none", None)
    if name == "otlp_json_file":
        return Destination(signal, f"{name} {file_dir}", *_is_writable(file_dir))
    try:
        exporter = build_exporter(name, signal, environ, file_dir)
        if not isinstance(exporter, Sender) or not name.startswith("otlp"):
            return Destination(signal, name, None)
        loggers.start_capture()
        empty: Any = MetricsData(resource_metrics=[]) if signal == "metrics" else []
        outcome = exporter.send(empty, _TIMEOUT_SECONDS, loggers.take_message)
        exporter.shutdown()
    except Exception as error:  # noqa: BLE001 - exporters are anybody's code, and the answer is that it does not work
        return Destination(signal, name, answers=False, reason=f"{type(error).__name__}: {error}")
    finally:
        loggers.take_message()
    return Destination(signal, f"{name} {exporter.endpoint}", outcome.verdict is Verdict.DELIVERED, outcome.reason)


def _is_writable(folder: str) -> tuple[bool, str]:
    # The folder is made when the first line is written: what counts is the nearest one that exists.
    existing = os.path.abspath(folder)
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True, ""
    except OSError as error:
        return False, f"{existing} is not a folder that this user may write to: {error.strerror}"
