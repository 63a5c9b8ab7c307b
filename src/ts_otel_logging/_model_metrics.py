"""What a handler measures with TorchServe's own metrics, as OpenTelemetry's. API only.

Counters and histograms are recorded as they come. A gauge's last value is kept until it is collected: a handler's call
updates several of them, which costs a dictionary's entry each.
"""

from __future__ import annotations

import math
import re
import threading
from typing import TYPE_CHECKING, Any, Callable, Final

from opentelemetry.metrics import CallbackOptions, Observation

from ts_otel_logging import _names
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.metrics import MeterProvider

# https://ucum.org, as OpenTelemetry writes units, by TorchServe's words and abbreviations (ts/metrics/unit.py).
_UNITS: Final = {
    "Milliseconds": "ms", "ms": "ms", "Seconds": "s", "s": "s", "Percent": "%", "percent": "%",
    "Count": "1", "count": "1", "unit": "1", "": "1",
    "Bytes": "By", "B": "By", "Kilobytes": "kBy", "kB": "kBy", "Megabytes": "MBy", "MB": "MBy",
    "Gigabytes": "GBy", "GB": "GBy",
}  # fmt: skip
# https://opentelemetry.io/docs/specs/otel/metrics/api/#instrument-name-syntax and #instrument-unit
_NOT_IN_A_NAME: Final = re.compile(r"[^-_./A-Za-z0-9]")
# The SDK makes every name lower-case: https://opentelemetry.io/docs/specs/semconv/general/naming/ has words joined so.
_BETWEEN_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MAX_NAME_CHARACTERS: Final = 255
_MAX_UNIT_CHARACTERS: Final = 63
# https://opentelemetry.io/docs/specs/otel/metrics/sdk/#cardinality-limits has the number and the attribute.
MAX_ATTRIBUTE_SETS: Final = 2_000
"""How many sets of attributes an instrument may have; what comes later has `OVERFLOW` in their place."""
OVERFLOW: Final[Mapping[str, Any]] = {"otel.metric.overflow": True}


class ModelMetrics:
    """Takes the values of TorchServe's counters, gauges and histograms.

    Args:
        meter_provider: An OpenTelemetry MeterProvider.
    """

    def __init__(self, meter_provider: MeterProvider) -> None:
        self._meter = meter_provider.get_meter(_names.SCOPE_NAME, __version__, _names.SCHEMA_URL)
        self._instruments: dict[tuple[str, str, str], _Instrument] = {}
        self._lock = threading.Lock()

    def record(self, kind: str, name: str, unit: str, value: float, dimensions: str) -> None:
        """Record one value.

        Args:
            kind: ``COUNTER``, ``GAUGE`` or ``HISTOGRAM``.
            name: The metric's name; ``PredictionTime`` becomes ``torchserve.prediction_time``, and what OpenTelemetry's
                names cannot have an underscore.
            unit: Its unit, in TorchServe's words.
            value: What was measured; what is not finite is left out.
            dimensions: As TorchServe prints them: ``name:value,name:value``.
        """
        if not math.isfinite(value):
            return
        key = kind, name, unit
        instrument = self._instruments.get(key)
        if instrument is None:
            with self._lock:
                instrument = self._instruments.setdefault(key, self._build(kind, name, unit))
        instrument.take(value, instrument.attributes(dimensions))

    def _build(self, kind: str, name: str, unit: str) -> _Instrument:
        words = _BETWEEN_WORDS.sub("_", _NOT_IN_A_NAME.sub("_", name))
        name = f"{_names.TORCHSERVE_PREFIX}{words}".lower()[:_MAX_NAME_CHARACTERS]
        unit = _UNITS.get(unit, unit.encode("ascii", "replace").decode()[:_MAX_UNIT_CHARACTERS])
        if kind == "COUNTER":
            return _Instrument(self._meter.create_counter(name, unit).add)
        if kind == "HISTOGRAM":
            return _Instrument(self._meter.create_histogram(name, unit).record)
        last = _LastValues()
        self._meter.create_observable_gauge(name, [last.collect], unit)
        return _Instrument(last.set)


class _Instrument:
    def __init__(self, take: Callable[[float, Mapping[str, Any]], None]) -> None:
        self.take = take
        self._attributes: dict[str, Mapping[str, Any]] = {}

    def attributes(self, dimensions: str) -> Mapping[str, Any]:
        found = self._attributes.get(dimensions)
        if found is None:
            if len(self._attributes) >= MAX_ATTRIBUTE_SETS:
                return OVERFLOW
            found = self._attributes[dimensions] = _parsed(dimensions)
        return found


class _LastValues:
    def __init__(self) -> None:
        self._values: dict[int, tuple[float, Mapping[str, Any]]] = {}

    def set(self, value: float, attributes: Mapping[str, Any]) -> None:
        # Equal attributes are one object: `_Instrument` made it.
        self._values[id(attributes)] = value, attributes

    def collect(self, _options: CallbackOptions) -> Iterable[Observation]:
        # What was not set since the last collection is not said again, as a gauge of the SDK has it.
        values, self._values = self._values, {}
        return [Observation(value, attributes) for value, attributes in values.values()]


def _parsed(dimensions: str) -> dict[str, str]:
    attributes: dict[str, str] = {}
    name = ""
    for part in dimensions.split(","):
        before, colon, value = part.partition(":")
        if colon:
            name = before
            attributes[name] = value
        elif name:
            # A comma of the value's own.
            attributes[name] += f",{part}"
    return attributes
