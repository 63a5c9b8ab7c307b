"""The ``otel.sdk.*`` metrics of our processors and exporters, written on the export thread only.

Names, units and attributes: https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/. The SDK's own processors
emit the same for themselves, newer releases only when asked to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.semconv._incubating.attributes.otel_attributes import OTEL_COMPONENT_NAME, OTEL_COMPONENT_TYPE
from opentelemetry.semconv._incubating.metrics import otel_metrics
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ts_otel_logging._sdk._lanes import Lane
    from ts_otel_logging._sdk._sender import Sender

_PROCESSOR_TYPES = {"traces": "batching_span_processor", "logs": "batching_log_processor"}


class OwnMetrics:
    """Counts what lanes and senders do, once `start` gave it a meter provider; without one it does nothing."""

    def __init__(self) -> None:
        self._meter: Optional[Meter] = None
        self._processed: dict[str, Any] = {}
        self._exported: dict[str, Any] = {}
        self._names: dict[int, dict[str, str]] = {}

    def start(self, meter_provider: MeterProvider, lanes: Iterable[Lane]) -> None:
        """Count from now on, and show how full the lanes are and how many items they can hold."""
        meter = self._meter = meter_provider.get_meter("opentelemetry-sdk")
        by_signal: dict[str, list[Lane]] = {}
        for lane in lanes:
            by_signal.setdefault(lane.signal, []).append(lane)
        for signal, same in by_signal.items():

            def sizes(_options: CallbackOptions, lanes: tuple[Lane, ...] = tuple(same)) -> Iterable[Observation]:
                return [Observation(len(lane), self._component(lane, _PROCESSOR_TYPES[lane.signal])) for lane in lanes]

            if signal == "traces":
                size_name, item = otel_metrics.OTEL_SDK_PROCESSOR_SPAN_QUEUE_SIZE, "span"
                capacity = otel_metrics.create_otel_sdk_processor_span_queue_capacity(meter)
            else:
                size_name, item = otel_metrics.OTEL_SDK_PROCESSOR_LOG_QUEUE_SIZE, "log_record"
                capacity = otel_metrics.create_otel_sdk_processor_log_queue_capacity(meter)
            meter.create_observable_up_down_counter(
                size_name, callbacks=[sizes], unit=f"{{{item}}}", description=f"The {item}s that wait for export"
            )
            for lane in same:
                capacity.add(lane.limits.max_queue_size, self._component(lane, _PROCESSOR_TYPES[lane.signal]))

    def processed(self, lane: Lane, count: int, error_type: Optional[str] = None) -> None:
        """Count items that left a lane: handed to an exporter, or lost for the reason given."""
        if self._meter is None or not count:
            return
        counter = self._processed.get(lane.signal)
        if counter is None:
            create = (
                otel_metrics.create_otel_sdk_processor_span_processed
                if lane.signal == "traces"
                else otel_metrics.create_otel_sdk_processor_log_processed
            )
            counter = self._processed[lane.signal] = create(self._meter)
        counter.add(count, _with_error(self._component(lane, _PROCESSOR_TYPES[lane.signal]), error_type))

    def exported(self, sender: Sender, count: int, error_type: Optional[str] = None) -> None:
        """Count items whose export ended: delivered, or given up for the reason given."""
        if self._meter is None or not count:
            return
        counter = self._exported.get(sender.signal)
        if counter is None:
            create = {
                "traces": otel_metrics.create_otel_sdk_exporter_span_exported,
                "logs": otel_metrics.create_otel_sdk_exporter_log_exported,
                "metrics": otel_metrics.create_otel_sdk_exporter_metric_data_point_exported,
            }[sender.signal]
            counter = self._exported[sender.signal] = create(self._meter)
        counter.add(count, _with_error(self._component(sender, sender.component_type), error_type))

    def _component(self, owner: object, component_type: str) -> dict[str, str]:
        found = self._names.get(id(owner))
        if found is None:
            number = sum(names[OTEL_COMPONENT_TYPE] == component_type for names in self._names.values())
            found = self._names[id(owner)] = {
                OTEL_COMPONENT_TYPE: component_type,
                OTEL_COMPONENT_NAME: f"{component_type}/{number}",
            }
        return found


def _with_error(attributes: dict[str, str], error_type: Optional[str]) -> dict[str, str]:
    return attributes if error_type is None else {**attributes, ERROR_TYPE: error_type}
