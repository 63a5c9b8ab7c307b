"""OTLP over HTTP: one attempt, one outcome (https://opentelemetry.io/docs/specs/otlp/#otlphttp).

The stock exporters retry on their own by sleeping, differently in each release, and say only that a batch failed; and
what they import to send bytes is a third of a worker's start.
"""

from __future__ import annotations

import gzip
import http.client
import math
import platform
import socket
import time
import zlib
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.metrics.view import Aggregation, ExponentialBucketHistogramAggregation
from opentelemetry.util.re import parse_env_headers

from ts_otel_logging._diagnostics import swallowed
from ts_otel_logging._sdk._environment import number, text
from ts_otel_logging._sdk._http_connection import Answer, HttpConnection, TlsFiles
from ts_otel_logging._sdk._otlp_encoder import encode_log_records, encode_spans
from ts_otel_logging._sdk._otlp_metrics import encode_metrics
from ts_otel_logging._sdk._outcome import DELIVERED, ExportOutcome, Verdict
from ts_otel_logging._sdk._sender import Sender
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

ENCODERS: Final[Mapping[str, Callable[[Any], bytes]]] = {
    "traces": encode_spans,
    "logs": encode_log_records,
    "metrics": encode_metrics,
}
"""Our own encoders by signal."""
# Imported only for what ours does not encode.
_OFFICIAL_ENCODERS: Final = {
    "traces": ("trace_encoder", "encode_spans"),
    "logs": ("_log_encoder", "encode_logs"),
    "metrics": ("metrics_encoder", "encode_metrics"),
}
_RESPONSES: Final = {
    "traces": ("trace", "ExportTraceServiceResponse", "rejected_spans"),
    "logs": ("logs", "ExportLogsServiceResponse", "rejected_log_records"),
    "metrics": ("metrics", "ExportMetricsServiceResponse", "rejected_data_points"),
}
# Nothing, or a `partial_success` with nothing in it, as the Collector answers.
_NOTHING_REJECTED: Final = (b"", b"\n\0")
# "Retryable Response Codes" of the OTLP specification.
_RETRYABLE: Final = frozenset({429, 502, 503, 504})
_TOO_LARGE: Final = 413
# OTEL_EXPORTER_OTLP_COMPRESSION's values.
_COMPRESSIONS: Final[Mapping[str, Callable[[bytes], bytes]]] = {"gzip": gzip.compress, "deflate": zlib.compress}
_TIMEOUT_SECONDS: Final = 10.0
_MAX_RETRY_AFTER_SECONDS: Final = 300.0
_MAX_REASON_CHARACTERS: Final = 300
# OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE's values; all other instruments are cumulative.
_DELTA_INSTRUMENTS: Final[Mapping[str, tuple[type, ...]]] = {
    "delta": (Counter, Histogram, ObservableCounter),
    "lowmemory": (Counter, Histogram),
}


class MetricPreferences:
    """What the SDK's metric readers ask an exporter for, as OpenTelemetry's variables have it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        chosen = text(environ, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE").lower()
        self._preferred_temporality = dict.fromkeys(_DELTA_INSTRUMENTS.get(chosen, ()), AggregationTemporality.DELTA)
        chosen = text(environ, "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION").lower()
        self._preferred_aggregation: dict[type, Aggregation] = (
            {Histogram: ExponentialBucketHistogramAggregation()}
            if chosen == "base2_exponential_bucket_histogram"
            else {}
        )


class OtlpHttpSender(Sender):
    """Sends batches of one signal.

    Args:
        signal: ``traces``, ``logs`` or ``metrics``.
        url: Where to.
        endpoint: The same for people, without secrets.
        component_type: The ``otel.component.type`` of its metrics.
        environ: OpenTelemetry's variables.

    Raises:
        ValueError: Not a URL of HTTP, or a header of more than one line.
    """

    def __init__(self, signal: str, url: str, endpoint: str, component_type: str, environ: Mapping[str, str]) -> None:
        super().__init__(signal, MetricPreferences(environ), endpoint, component_type, takes_bytes=True)

        def names(setting: str) -> tuple[str, str]:
            return f"OTEL_EXPORTER_OTLP_{signal.upper()}_{setting}", f"OTEL_EXPORTER_OTLP_{setting}"

        own, general = names("TIMEOUT")
        self._timeout_seconds = number(environ, own, number(environ, general, _TIMEOUT_SECONDS))
        headers = {
            "content-type": "application/x-protobuf",
            "user-agent": f"ts-otel-logging/{__version__} Python/{platform.python_version()}",
            **parse_env_headers(text(environ, *names("HEADERS")), liberal=True),
        }
        encoding = headers.get("content-encoding") or text(environ, *names("COMPRESSION")).lower()
        self._compress = _COMPRESSIONS.get(encoding)
        if self._compress is not None:
            headers["content-encoding"] = encoding
        tls = TlsFiles(*(text(environ, *names(file)) for file in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")))
        self._connection = HttpConnection(url, headers, tls)
        self._encode = ENCODERS[signal]
        self._is_shut_down = False

    def send(self, batch: Any, timeout_seconds: float, last_message: Callable[[], str]) -> ExportOutcome:
        """Export one batch in one request; a connection that the receiver has closed meanwhile is made anew.

        Args:
            batch: Spans, log records or `MetricsData`.
            timeout_seconds: The most that it may take, if the settings do not say less.
            last_message: What the encoder said.
        """
        try:
            body = self._encoded(batch)
        except Exception as error:  # noqa: BLE001 - one item may be what the encoder stumbles on
            reason = last_message() or f"{type(error).__name__}: {error}"
            return ExportOutcome(Verdict.SPLIT, reason[:_MAX_REASON_CHARACTERS], error_type=type(error).__name__)
        if self._compress is not None:
            body = self._compress(body)
        with self._lock:
            try:
                answer = self._connection.post(body, max(min(timeout_seconds, self._timeout_seconds), 0.001))
            except (OSError, http.client.HTTPException) as error:
                return _failure(Verdict.RETRY, error)
            except ValueError as error:
                return _failure(Verdict.DROP, error)
            finally:
                if self._is_shut_down:
                    self._connection.close()
        return self._judge(answer)

    def _encoded(self, batch: Any) -> bytes:
        try:
            return self._encode(batch)
        except Exception as error:  # noqa: BLE001 - the official encoder is left
            swallowed("encoder", error)
        module, function = _OFFICIAL_ENCODERS[self.signal]
        encode = getattr(import_module(f"opentelemetry.exporter.otlp.proto.common.{module}"), function)
        body: bytes = encode(batch).SerializeToString()
        return body

    def _judge(self, answer: Answer) -> ExportOutcome:
        code = answer.status
        if 200 <= code < 300:  # noqa: PLR2004 - HTTP's own border
            return self._partial_success(answer)
        verdict = Verdict.RETRY if code in _RETRYABLE else Verdict.SPLIT if code == _TOO_LARGE else Verdict.DROP
        return ExportOutcome(
            verdict,
            f"HTTP {code} {answer.reason or ''}".strip()[:_MAX_REASON_CHARACTERS],
            error_type=str(code),
            retry_after_seconds=parse_retry_after(answer.headers.get("Retry-After", "")),
        )

    def _partial_success(self, answer: Answer) -> ExportOutcome:
        if answer.body in _NOTHING_REJECTED or "protobuf" not in answer.headers.get("Content-Type", ""):
            return DELIVERED
        package, message, field = _RESPONSES[self.signal]
        try:
            # Nothing else needs protobuf: a release that does not fit here may have gone unnoticed so far.
            service = import_module(f"opentelemetry.proto.collector.{package}.v1.{package}_service_pb2")
            partial = getattr(service, message).FromString(answer.body).partial_success
        except Exception as error:  # noqa: BLE001 - of that, or of an answer that is no such message
            swallowed("answer", error, "what the receiver refuses of a batch cannot be read")
            return DELIVERED
        rejected = max(getattr(partial, field), 0)
        if not rejected:
            return DELIVERED
        reason = f"rejected by the receiver: {partial.error_message}"
        return ExportOutcome(
            Verdict.DELIVERED, reason[:_MAX_REASON_CHARACTERS], error_type="rejected", rejected=rejected
        )

    def after_fork(self) -> None:
        """Let a forked child use a connection of its own."""
        super().after_fork()
        self._connection.close()

    def shutdown(self) -> None:
        """Close the connection, or let the request that is going on close it."""
        self._is_shut_down = True
        if self._lock.acquire(blocking=False):
            try:
                self._connection.close()
            finally:
                self._lock.release()


def parse_retry_after(text: str) -> Optional[float]:
    """Return the seconds that a ``Retry-After`` header asks for, at most five minutes; None when it asks for nothing.

    Both forms of https://www.rfc-editor.org/rfc/rfc9110#field.retry-after.
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, IndexError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS)


def _failure(verdict: Verdict, error: Exception) -> ExportOutcome:
    # Python 3.9 calls it `socket.timeout`.
    name = "TimeoutError" if isinstance(error, socket.timeout) else type(error).__name__
    reason = f"{name}: {getattr(error, 'strerror', None) or error}"
    return ExportOutcome(verdict, reason[:_MAX_REASON_CHARACTERS], error_type=name)
