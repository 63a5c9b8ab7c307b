"""The instruments: latency as histograms whose exemplars name real traces. API only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Optional

from ts_otel_logging import _names
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider

DURATION_BUCKETS_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Records measurements; durations in seconds.

    Args:
        meter_provider: An OpenTelemetry MeterProvider.
    """

    def __init__(self, meter_provider: MeterProvider) -> None:
        meter = meter_provider.get_meter(_names.SCOPE_NAME, __version__, _names.SCHEMA_URL)

        def duration(name: str, description: str) -> _Record:
            return meter.create_histogram(
                name,
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=DURATION_BUCKETS_SECONDS,
            ).record

        self._request = duration(_names.METRIC_REQUEST_DURATION, "From the worker's receipt of a request to its answer")
        self._first_chunk = duration(
            _names.METRIC_TIME_TO_FIRST_CHUNK, "From the worker's receipt of a request to the first part of its answer"
        )
        self._queue = duration(
            _names.METRIC_QUEUE_DURATION, "From a request's arrival in front of TorchServe to the worker's receipt"
        )
        self._phase = duration(_names.METRIC_PHASE_DURATION, "One phase of a handler, once per batch")
        self._load = duration(_names.METRIC_MODEL_LOAD_DURATION, "One load of a model by a worker")
        self._reported = duration(_names.METRIC_REPORTED_DURATION, "A latency that a log record reported")
        self._batch = meter.create_histogram(
            _names.METRIC_BATCH_SIZE,
            unit="{request}",
            description="Requests that TorchServe handed over in one batch",
            explicit_bucket_boundaries_advisory=_BATCH_BUCKETS,
        ).record

    def request(self, seconds: float, model: Mapping[str, str], error_type: Optional[str], context: Context) -> None:
        """Record a request's duration; `context` holds the span that the exemplar names."""
        self._request(seconds, _with_error(model, error_type), context)

    def queue(self, seconds: float, model: Mapping[str, str], context: Context) -> None:
        """Record how long a request waited for its worker."""
        self._queue(seconds, model, context)

    def first_chunk(
        self, seconds: float, model: Mapping[str, str], error_type: Optional[str], context: Context
    ) -> None:
        """Record how long a request waited for the first part of its streamed answer."""
        self._first_chunk(seconds, _with_error(model, error_type), context)

    def phase(
        self, name: str, seconds: float, model: Mapping[str, str], error_type: Optional[str], context: Context
    ) -> None:
        """Record one phase's duration."""
        self._phase(seconds, {_names.ATTR_PHASE_NAME: name, **_with_error(model, error_type)}, context)

    def load(self, seconds: float, model: Mapping[str, str], error_type: Optional[str], context: Context) -> None:
        """Record the duration of a model's load."""
        self._load(seconds, _with_error(model, error_type), context)

    def reported(self, name: str, seconds: float, model: Mapping[str, str], context: Context) -> None:
        """Record a latency that a log record reported."""
        self._reported(seconds, {_names.ATTR_REPORTED_NAME: name, **model}, context)

    def batch(self, size: int, model: Mapping[str, str], context: Context) -> None:
        """Record how many requests a batch has."""
        self._batch(size, model, context)


if TYPE_CHECKING:
    from typing import Callable

    _Record = Callable[..., None]


def _with_error(model: Mapping[str, str], error_type: Optional[str]) -> Mapping[str, str]:
    return model if error_type is None else {**model, _names.ATTR_ERROR_TYPE: error_type}
