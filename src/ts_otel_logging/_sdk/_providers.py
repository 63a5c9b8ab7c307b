"""Builds the providers of the three signals on one export thread."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, Optional, Union
from urllib.parse import urlsplit

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from ts_otel_logging._diagnostics import swallowed
from ts_otel_logging._sdk._config_file import call_all, configure_from_file
from ts_otel_logging._sdk._couriers import Courier, LaneCourier, MetricCourier
from ts_otel_logging._sdk._environment import number, seen_by_the_sdk, text
from ts_otel_logging._sdk._error_sampling import ErrorSampling, RecordingSampler
from ts_otel_logging._sdk._event_records import LaneLoggerProvider, ready_log_record
from ts_otel_logging._sdk._export_thread import ExportThread
from ts_otel_logging._sdk._exporters import SIGNALS, build_exporter, exporter_names, load_registered
from ts_otel_logging._sdk._health import Health
from ts_otel_logging._sdk._ids import SystemIdGenerator
from ts_otel_logging._sdk._lanes import Lane, LaneLimits, QueueBudget
from ts_otel_logging._sdk._masking import ExportRedaction
from ts_otel_logging._sdk._own_metrics import OwnMetrics
from ts_otel_logging._sdk._processors import LaneLogRecordProcessor, LaneSpanProcessor, ThreadMetricReader
from ts_otel_logging._sdk._request_histograms import EXEMPLAR_FILTERS, RequestMeterProvider
from ts_otel_logging._sdk._request_spans import RequestTracerProvider
from ts_otel_logging._sdk._resource import build_resource
from ts_otel_logging._sdk._sdk_loggers import SdkLoggers
from ts_otel_logging._sdk._sender import Sender

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.util.types import AttributeValue

    from ts_otel_logging._redaction import Redaction

Report = Callable[..., None]
"""``report(event, *, level=..., **fields)`` tells the operator something."""

_EXIT_SECONDS = 5.0
# OTEL_TRACES_SAMPLER's own names, which the SDK reads by itself.
_SDK_SAMPLERS = frozenset(
    {"", "always_on", "always_off", "traceidratio"}
    | {f"parentbased_{name}" for name in ("always_on", "always_off", "traceidratio")}
)


class Providers:
    """The SDK's providers of one process; an attribute is None for a signal that is off.

    Spans are made also when nothing exports them, unless ``OTEL_SDK_DISABLED`` is set.

    Attributes:
        tracer_provider: For spans.
        logger_provider: For log records.
        meter_provider: For measurements.
        errors: Keeps the spans of failed requests that are not sampled, if that was asked for.
    """

    def __init__(self) -> None:
        self.tracer_provider: Optional[TracerProvider] = None
        self.logger_provider: Optional[LoggerProvider] = None
        self.meter_provider: Optional[MeterProvider] = None
        self.errors: Optional[ErrorSampling] = None
        self._export_redaction = ExportRedaction()
        self._descriptions = dict.fromkeys(SIGNALS, "off")
        self._couriers: dict[str, Sequence[Union[LaneCourier, MetricCourier]]] = {}
        self._flush: Callable[[float], bool] = _nothing_to_do
        self._stop: Callable[[float], bool] = _nothing_to_do
        self._stopping = threading.Lock()

    def describe(self) -> dict[str, str]:
        """Return where each signal goes, for people: ``traces``, ``logs`` and ``metrics``."""
        return dict(self._descriptions)

    def set_redaction(self, redaction: Redaction) -> None:
        """Mask in every span and log record that leaves from now on what this says; not what a file has set up."""
        self._export_redaction.redaction = redaction

    def pause(self, signals: Collection[str]) -> None:
        """Take nothing more of some signals for export, and of the others again; what waits still goes out.

        A provider that ``OTEL_CONFIG_FILE`` or somebody else set up goes on.

        Args:
            signals: Any of ``traces``, ``logs`` and ``metrics``.
        """
        for signal, couriers in self._couriers.items():
            for courier in couriers:
                target = courier.lane if isinstance(courier, LaneCourier) else courier
                target.is_paused = signal in signals

    def force_flush(self, timeout_seconds: float) -> bool:
        """Export what waits.

        Args:
            timeout_seconds: The most that it may take.

        Returns:
            Whether everything arrived in time.
        """
        return self._flush(timeout_seconds)

    def shutdown(self, timeout_seconds: float) -> bool:
        """Collect a last time, export what waits, and close the exporters. A second call does nothing.

        Args:
            timeout_seconds: The most that it may take.

        Returns:
            Whether everything arrived in time.
        """
        with self._stopping:
            stop, self._stop = self._stop, _nothing_to_do
        self._flush = _nothing_to_do
        return stop(timeout_seconds)


def _nothing_to_do(_timeout_seconds: float) -> bool:
    return True


def build_providers(  # noqa: PLR0913 - keywords
    environ: Mapping[str, str],
    *,
    resource_attributes: Mapping[str, AttributeValue],
    queue_bytes: int,
    file_dir: str,
    worker_name: Optional[str],
    report: Report,
    error_samples_per_second: float = 0.0,
) -> Providers:
    """Return the providers that the environment asks for. Nothing is made global, except by ``OTEL_CONFIG_FILE``.

    Never raises: what cannot be built is off, and reported with its reason.

    Args:
        environ: OpenTelemetry's variables; what is missing has its specified default, with two exceptions:
            ``OTEL_BSP_SCHEDULE_DELAY`` is 1 s and ``OTEL_METRIC_EXPORT_INTERVAL`` 10 s.
        resource_attributes: What is known about the process; the environment wins.
        queue_bytes: What spans and log records together may take while they wait.
        file_dir: The folder of ``otlp_json_file``.
        worker_name: What tells this worker from others on the host, the same after a restart; None elsewhere.
        report: Tells the operator something; calls are rare, rate-limited here.
        error_samples_per_second: How many failed requests to keep though they are not sampled.
    """
    providers = Providers()
    _load_propagators(environ)
    if text(environ, "OTEL_SDK_DISABLED").lower() == "true":
        return providers
    config_file = text(environ, "OTEL_CONFIG_FILE")
    try:
        if config_file:
            _build_from_file(providers, config_file, environ, report)
        else:
            builder = _Builder(environ, queue_bytes, file_dir, report, error_samples_per_second)
            with seen_by_the_sdk(environ):
                builder.build(providers, resource_attributes, worker_name)
    except Exception as error:  # noqa: BLE001 - the shield
        swallowed("providers", error)
    return providers


def _load_propagators(environ: Mapping[str, str]) -> None:
    try:
        # The API reads OTEL_PROPAGATORS when this is first imported, and raises on a name that it does not know.
        with seen_by_the_sdk(environ):
            import_module("opentelemetry.propagate")
    except Exception as error:  # noqa: BLE001 - propagators are anybody's code
        swallowed("propagators", error)


def _build_from_file(providers: Providers, path: str, environ: Mapping[str, str], report: Report) -> None:
    try:
        with seen_by_the_sdk(environ):
            found = configure_from_file(path)
    except ImportError:
        reason = "the package opentelemetry-configuration is not installed"
        report("OTEL_CONFIG_FILE not used, nothing is exported", level=logging.ERROR, path=path, reason=reason)
        return
    except Exception as error:  # noqa: BLE001 - an experimental package and a user's file
        reason = f"{type(error).__name__}: {error}"
        report("OTEL_CONFIG_FILE not used, nothing is exported", level=logging.ERROR, path=path, reason=reason)
        return
    providers.tracer_provider = found.get("traces")
    providers.logger_provider = found.get("logs")
    providers.meter_provider = found.get("metrics")
    providers._descriptions.update(dict.fromkeys(found, f"as {path} says"))  # noqa: SLF001 - built here
    providers._flush = lambda timeout_seconds: call_all(found, "force_flush", timeout_seconds)  # noqa: SLF001
    providers._stop = lambda timeout_seconds: call_all(found, "shutdown", timeout_seconds)  # noqa: SLF001


class _Builder:
    def __init__(
        self,
        environ: Mapping[str, str],
        queue_bytes: int,
        file_dir: str,
        report: Report,
        error_samples_per_second: float,
    ) -> None:
        self._environ = environ
        self._error_samples_per_second = error_samples_per_second
        self._file_dir = file_dir
        self._report = report
        self._budget = QueueBudget(queue_bytes)
        self._thread = ExportThread(self._budget)
        self._sdk_loggers = SdkLoggers(report)
        self._own_metrics = OwnMetrics()
        self._health: dict[str, Health] = {}
        self._readers: list[MetricReader] = []
        self._senders: dict[str, list[Sender]] = {signal: [] for signal in SIGNALS}

    def build(
        self, providers: Providers, resource_attributes: Mapping[str, AttributeValue], worker_name: Optional[str]
    ) -> None:
        for signal in SIGNALS:
            providers._descriptions[signal] = self._build_senders(signal)  # noqa: SLF001 - built here
        self._sdk_loggers.install()
        try:
            self._build_providers(providers, build_resource(resource_attributes, worker_name))
        except BaseException:
            self._sdk_loggers.restore()
            raise

    def _build_senders(self, signal: str) -> str:
        descriptions = []
        for name in exporter_names(signal, self._environ):
            try:
                exporter = build_exporter(name, signal, self._environ, self._file_dir)
            except Exception as error:  # noqa: BLE001 - exporters are anybody's code, and read settings by themselves
                reason = f"{type(error).__name__}: {error}"
                self._report("exporter off", level=logging.ERROR, signal=signal, exporter=name, reason=reason)
                continue
            if isinstance(exporter, Sender):
                self._senders[signal].append(exporter)
                descriptions.append(f"{name} {exporter.endpoint}" if exporter.endpoint != name else name)
            else:
                self._readers.append(exporter)
                descriptions.append(name)
        return ", ".join(descriptions) or "off"

    def _build_providers(self, providers: Providers, resource: Resource) -> None:
        metric_couriers = [self._metric_courier(sender) for sender in self._senders["metrics"]]
        readers = [*(courier.reader for courier in metric_couriers), *self._readers]
        export_redaction = providers._export_redaction  # noqa: SLF001 - built here
        span_couriers = self._lane_couriers("traces", "BSP", export_redaction.span)
        log_couriers = self._lane_couriers("logs", "BLRP", partial(ready_log_record, export_redaction.log_record))
        lanes = [courier.lane for courier in (*span_couriers, *log_couriers)]

        if readers:
            build_meter_provider = partial(self._meter_provider, readers, resource)
            providers.meter_provider = self._built("metrics", build_meter_provider, providers)
        if providers.meter_provider is None:
            metric_couriers = []
        else:
            self._own_metrics.start(providers.meter_provider, lanes)
        # Also without an exporter: spans give the lines their ids, and calls of others their parents.
        counts = self._counts_of_the_sdk(providers.meter_provider)
        build_tracer_provider = partial(self._tracer_provider, resource, span_couriers, providers, counts)
        providers.tracer_provider = self._built("traces", build_tracer_provider, providers)
        if log_couriers:
            build_logger_provider = partial(self._logger_provider, resource, log_couriers, counts)
            providers.logger_provider = self._built("logs", build_logger_provider, providers)

        providers._couriers = {  # noqa: SLF001 - built here
            "traces": span_couriers, "logs": log_couriers, "metrics": metric_couriers,
        }  # fmt: skip
        couriers: list[Courier] = [*log_couriers, *span_couriers, *metric_couriers]
        self._thread.serve(couriers, starts_at_once=bool(metric_couriers) and not lanes)
        providers._flush = self._thread.flush  # noqa: SLF001 - built here
        providers._stop = self._stop  # noqa: SLF001 - built here
        self._exit = partial(providers.shutdown, _EXIT_SECONDS)
        # Before the interpreter goes; a worker that is killed never comes here.
        atexit.register(self._exit)

    def _built(self, signal: str, build: Callable[[], Any], providers: Providers) -> Any:
        try:
            return build()
        except Exception as error:  # noqa: BLE001 - the SDK reads limits and samplers by itself, and may raise
            reason = f"{type(error).__name__}: {error}"
            self._report("signal off", level=logging.ERROR, signal=signal, reason=reason)
            providers._descriptions[signal] = "off"  # noqa: SLF001 - built here
            return None

    def _lane_couriers(self, signal: str, prefix: str, masked: Callable[[Any], Any]) -> list[LaneCourier]:
        limits = _lane_limits(prefix, self._environ)
        return [
            LaneCourier(
                Lane(signal, self._budget, limits, self._thread.wake),
                sender,
                self._health_of(sender),
                self._own_metrics,
                self._sdk_loggers,
                masked,
            )
            for sender in self._senders[signal]
        ]

    def _metric_courier(self, sender: Sender) -> MetricCourier:
        return MetricCourier(
            interval_seconds=number(self._environ, "OTEL_METRIC_EXPORT_INTERVAL", 10_000) / 1e3,
            timeout_seconds=number(self._environ, "OTEL_METRIC_EXPORT_TIMEOUT", 30_000) / 1e3,
            sender=sender,
            health=self._health_of(sender),
            own_metrics=self._own_metrics,
            sdk_loggers=self._sdk_loggers,
            flush=self._thread.flush,
        )

    def _health_of(self, sender: Sender) -> Health:
        # One for all signals of one collector: that it is absent is one fact.
        parts = urlsplit(sender.endpoint)
        place = f"{parts.scheme}://{parts.netloc}" if parts.netloc else sender.endpoint
        return self._health.setdefault(place, Health(self._report, place))

    def _meter_provider(self, readers: list[MetricReader], resource: Resource) -> MeterProvider:
        name = text(self._environ, "OTEL_METRICS_EXEMPLAR_FILTER").lower()
        # Of a value that is none, the launcher has told.
        span_of_exemplar = EXEMPLAR_FILTERS.get(name, EXEMPLAR_FILTERS["trace_based"])
        reader = readers[0]
        if len(readers) == 1 and isinstance(reader, ThreadMetricReader) and reader.has_explicit_buckets:
            return RequestMeterProvider(reader, resource, span_of_exemplar)
        return MeterProvider(readers, resource, shutdown_on_exit=False)

    def _tracer_provider(
        self,
        resource: Resource,
        couriers: list[LaneCourier],
        providers: Providers,
        counts: metrics.MeterProvider,
    ) -> TracerProvider:
        # Spans of our own would not be counted.
        provider_class = TracerProvider if isinstance(counts, MeterProvider) else RequestTracerProvider
        provider = provider_class(
            sampler=self._registered_sampler(),
            resource=resource,
            shutdown_on_exit=False,
            id_generator=self._id_generator(),
            meter_provider=counts,
        )
        processors = [
            LaneSpanProcessor(courier.lane, partial(self._thread.flush, courier=courier)) for courier in couriers
        ]
        for processor in processors:
            provider.add_span_processor(processor)
        # Who says always_off wants no span, whatever happens.
        if self._error_samples_per_second and processors and provider.sampler is not ALWAYS_OFF:
            providers.errors = ErrorSampling(self._error_samples_per_second)
            providers.errors.export_with([processor.put for processor in processors])
            provider.add_span_processor(providers.errors)
            provider.sampler = RecordingSampler(provider.sampler)
        return provider

    def _logger_provider(
        self, resource: Resource, couriers: list[LaneCourier], counts: metrics.MeterProvider
    ) -> LoggerProvider:
        return LaneLoggerProvider(
            *(
                LaneLogRecordProcessor(courier.lane, partial(self._thread.flush, courier=courier))
                for courier in couriers
            ),
            takes_events=not isinstance(counts, MeterProvider)
            and all(sender.takes_bytes for sender in self._senders["logs"]),
            resource=resource,
            shutdown_on_exit=False,
            meter_provider=counts,
        )

    def _counts_of_the_sdk(self, meter_provider: Optional[MeterProvider]) -> metrics.MeterProvider:
        # What the SDK counts of every span and record (`otel.sdk.span.started`, …) costs each of them. SDK 1.41 always
        # does, newer ones if asked. None would be the API's provider: another one than ours, or one that was shut down.
        asked = text(self._environ, "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED").lower() == "true"
        return meter_provider if asked and meter_provider is not None else metrics.NoOpMeterProvider()

    def _registered_sampler(self) -> Optional[Sampler]:
        name = text(self._environ, "OTEL_TRACES_SAMPLER")
        if name.lower() in _SDK_SAMPLERS:
            return None
        try:
            sampler: Sampler = load_registered("opentelemetry_traces_sampler", name)(
                text(self._environ, "OTEL_TRACES_SAMPLER_ARG") or None
            )
        except Exception as error:  # noqa: BLE001 - samplers are anybody's code
            self._report_setting("OTEL_TRACES_SAMPLER", name, error)
            return None
        return sampler

    def _id_generator(self) -> IdGenerator:
        name = text(self._environ, "OTEL_PYTHON_ID_GENERATOR")
        if not name:
            return SystemIdGenerator()
        try:
            generator: IdGenerator = load_registered("opentelemetry_id_generator", name)()
        except Exception as error:  # noqa: BLE001 - generators are anybody's code
            self._report_setting("OTEL_PYTHON_ID_GENERATOR", name, error)
            return SystemIdGenerator()
        return generator

    def _report_setting(self, variable: str, value: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._report("setting ignored", level=logging.ERROR, variable=variable, value=value, reason=reason)

    def _stop(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        atexit.unregister(self._exit)
        arrived = self._thread.flush(timeout_seconds)
        self._thread.stop(max(deadline - time.monotonic(), 0.0))
        self._sdk_loggers.restore()
        return arrived


def _lane_limits(prefix: str, environ: Mapping[str, str]) -> LaneLimits:
    # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/; the schedule delay of spans
    # is 5 s there.
    return LaneLimits(
        schedule_delay_seconds=number(environ, f"OTEL_{prefix}_SCHEDULE_DELAY", 1_000) / 1e3,
        export_timeout_seconds=number(environ, f"OTEL_{prefix}_EXPORT_TIMEOUT", 30_000) / 1e3,
        max_queue_size=max(int(number(environ, f"OTEL_{prefix}_MAX_QUEUE_SIZE", 2_048)), 1),
        max_export_batch_size=max(int(number(environ, f"OTEL_{prefix}_MAX_EXPORT_BATCH_SIZE", 512)), 1),
    )
