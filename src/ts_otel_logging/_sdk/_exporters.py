"""From ``OTEL_{TRACES,LOGS,METRICS}_EXPORTER`` to exporters. A stack is imported only when it is chosen."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, Final, Union
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.util._importlib_metadata import entry_points

from ts_otel_logging._diagnostics import swallowed
from ts_otel_logging._sdk._environment import text
from ts_otel_logging._sdk._http_connection import is_loopback, proxy_for
from ts_otel_logging._sdk._otlp_http import ENCODERS, OtlpHttpSender
from ts_otel_logging._sdk._sender import Sender

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

SIGNALS: Final = ("traces", "logs", "metrics")
_OTLP_CLASSES: Final = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
}
_ITEMS: Final = {"traces": "span", "logs": "log", "metrics": "metric"}
# OpenTelemetry's registry has both transports under names of their own, too.
_PROTOCOLS: Final = {"otlp_proto_http": "http/protobuf", "otlp_proto_grpc": "grpc"}
# OTEL_EXPORTER_OTLP_COMPRESSION's values by the names of `grpc.Compression`.
_GRPC_COMPRESSIONS: Final = {"none": "NoCompression", "gzip": "Gzip", "deflate": "Deflate"}
_CREDENTIAL_PROVIDERS: Final = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_{}_CREDENTIAL_PROVIDER",
)


def exporter_names(signal: str, environ: Mapping[str, str]) -> list[str]:
    """Return what a signal goes to, by name; nothing for ``none``."""
    chosen = text(environ, f"OTEL_{signal.upper()}_EXPORTER", default="otlp")
    names = list(dict.fromkeys(name.strip() for name in chosen.split(",") if name.strip()))
    return [] if "none" in names else names


def build_exporter(name: str, signal: str, environ: Mapping[str, str], file_dir: str) -> Union[Sender, MetricReader]:
    """Return one exporter, or a reader that serves metrics without us (a registered pull exporter).

    Args:
        name: ``otlp``, ``console``, ``otlp_json_file`` or a registered name.
        signal: ``traces``, ``logs`` or ``metrics``.
        environ: OpenTelemetry's variables.
        file_dir: The folder of ``otlp_json_file``.

    Raises:
        Exception: Whatever the exporter's constructor raises.
    """
    if name == "otlp" or name in _PROTOCOLS:
        variables = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
        protocol = _PROTOCOLS.get(name) or text(environ, *variables, default="http/protobuf")
        if protocol == "http/protobuf":
            return _http(signal, environ)
        if protocol == "grpc":
            return _grpc(signal, environ)
        raise ValueError(f"OTLP protocol {protocol}: accepted is http/protobuf, grpc")
    if name == "console":
        return _console(signal)
    if name == "otlp_json_file":
        return _json_file(signal, file_dir)
    exporter_class = load_registered(f"opentelemetry_{signal}_exporter", name)
    exporter = exporter_class()
    return exporter if isinstance(exporter, MetricReader) else Sender(signal, exporter, name, name)


def load_registered(group: str, name: str) -> Any:
    """Return what is registered under a name of an entry point group.

    Raises:
        ValueError: Nothing is.
    """
    for entry_point in entry_points(group=group, name=name):
        return entry_point.load()
    raise ValueError(f"nothing is registered as {name} under the entry point group {group}")


def _http(signal: str, environ: Mapping[str, str]) -> Sender:
    # https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp
    base = text(environ, "OTEL_EXPORTER_OTLP_ENDPOINT", default="http://localhost:4318")
    endpoint = text(
        environ,
        f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT",
        default=f"{base.removesuffix('/')}/v1/{signal}",
    )
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise ValueError(f"endpoint {endpoint}: accepted over HTTP is a URL like http://collector:4318")
    names = without_secrets(endpoint), f"otlp_http_{_ITEMS[signal]}_exporter"
    proxy = proxy_for(endpoint)
    has_session = text(environ, *(name.format(signal.upper()) for name in _CREDENTIAL_PROVIDERS))
    if not has_session and (proxy is None or proxy.scheme == "http"):
        return OtlpHttpSender(signal, endpoint, *names, environ)
    # What only the stock exporter has: a session of the user's own, and other kinds of proxies. Its retry holds then.
    module, class_name = _OTLP_CLASSES[signal]
    exporter_class = getattr(import_module(f"opentelemetry.exporter.otlp.proto.http.{module}"), class_name)
    return Sender(signal, exporter_class(endpoint=endpoint), *names)


def _grpc(signal: str, environ: Mapping[str, str]) -> Sender:
    module, class_name = _OTLP_CLASSES[signal]
    exporter_class = getattr(import_module(f"opentelemetry.exporter.otlp.proto.grpc.{module}"), class_name)
    variables = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    endpoint = text(environ, *variables, default="http://localhost:4317")
    options = (("grpc.enable_http_proxy", 0),) if is_loopback(endpoint) else None
    # Left to itself the stock exporter knows gzip alone, and raises on the specification's "none".
    variables = f"OTEL_EXPORTER_OTLP_{signal.upper()}_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"
    chosen = _GRPC_COMPRESSIONS.get(text(environ, *variables))
    compression = getattr(import_module("grpc").Compression, chosen) if chosen else None
    exporter = exporter_class(endpoint=endpoint, compression=compression, channel_options=options)
    # Without metrics: they are few.
    takes_bytes = signal != "metrics" and _translate_by(ENCODERS[signal], exporter)
    component_type = f"otlp_grpc_{_ITEMS[signal]}_exporter"
    return Sender(signal, exporter, without_secrets(endpoint), component_type, takes_bytes=takes_bytes)


def _translate_by(encode: Callable[[Any], bytes], exporter: Any) -> bool:
    """Let a stock gRPC exporter send what our encoder makes of a batch; return whether it can.

    It takes no bytes, but parsing them costs little.
    """
    translate = getattr(exporter, "_translate_data", None)
    if translate is None:
        return False
    request_class = type(translate([]))

    def translate_by_us(batch: Any) -> Any:
        try:
            return request_class.FromString(encode(batch))
        except Exception as error:  # noqa: BLE001 - the shield
            swallowed("encoder", error)
            return translate(batch)

    exporter._translate_data = translate_by_us  # noqa: SLF001 - nothing public is between a batch and its bytes
    return True


def _console(signal: str) -> Sender:
    exporter: Any
    if signal == "traces":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        exporter = ConsoleSpanExporter(out=sys.stderr, formatter=_span_line)
    elif signal == "logs":
        from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter

        exporter = ConsoleLogRecordExporter(out=sys.stderr, formatter=_log_record_line)
    else:
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        exporter = ConsoleMetricExporter(out=sys.stderr, formatter=_metric_lines)
    return Sender(signal, exporter, "stderr", f"console_{_ITEMS[signal]}_exporter")


def _span_line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}{os.linesep}"


def _log_record_line(record: ReadableLogRecord) -> str:
    return f"{record.to_json(indent=None)}{os.linesep}"


def _metric_lines(data: MetricsData) -> str:
    return "".join(
        metric.to_json(indent=None) + os.linesep
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def _json_file(signal: str, file_dir: str) -> Sender:
    from ts_otel_logging._sdk._json_file import OWN_EXPORTERS, RotatingFile

    build: Callable[..., Any]
    try:
        build = load_registered(f"opentelemetry_{signal}_exporter", "otlp_json_file")
    except ValueError:
        build = getattr(OWN_EXPORTERS, signal)
    stream = RotatingFile(file_dir, signal)
    return Sender(signal, build(stream=stream), stream.path, "otlp_json_file_exporter", stream=stream)


def without_secrets(endpoint: str) -> str:
    """Return an endpoint without user name, password and query."""
    if "://" not in endpoint:
        return endpoint
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
