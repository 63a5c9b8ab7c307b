"""A latency in a record's ``extra`` is also a span and a measurement. API only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Optional

from opentelemetry.context import get_current

from ts_otel_logging import _names
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from ts_otel_logging._event import Event
    from ts_otel_logging._metrics import Metrics

_MAX_SECONDS: Final = 3_600.0


class LatencyOutput:
    """Turns the latency fields of an event into finished spans and measurements.

    A span is a child of the event's span, has the field's name, ends at the event's time and lasts as long as the
    field says. A value that is no number, negative, not finite or longer than an hour stays a plain field.

    Args:
        fields: The names of ``extra`` fields that are latencies in seconds.
        tracer_provider: An OpenTelemetry TracerProvider, or None when traces are off.
        metrics: Our instruments, or None when metrics are off.
    """

    def __init__(
        self, fields: tuple[str, ...], tracer_provider: Optional[TracerProvider], metrics: Optional[Metrics]
    ) -> None:
        self._fields = fields
        self._tracer = (
            None
            if tracer_provider is None
            else tracer_provider.get_tracer(_names.SCOPE_NAME, __version__, _names.SCHEMA_URL)
        )
        self._metrics = metrics

    def __call__(self, event: Event) -> None:
        """Look for latencies in an event."""
        for name in self._fields:
            if name in event.extra:
                seconds = _seconds(event.extra[name])
                if seconds is not None:
                    self._report(name, seconds, event)

    def _report(self, name: str, seconds: float, event: Event) -> None:
        if self._tracer is not None:
            end_nanos = event.time_micros * 1_000
            span = self._tracer.start_span(
                name,
                start_time=end_nanos - int(seconds * 1e9),
                attributes={_names.ATTR_SPAN_SOURCE: _names.SPAN_SOURCE_LOG, **event.scope.attributes},
            )
            span.end(end_nanos)
        if self._metrics is not None:
            attributes = event.scope.attributes
            model = {
                key: attributes[key] for key in (_names.ATTR_MODEL_NAME, _names.ATTR_MODEL_VERSION) if key in attributes
            }
            self._metrics.reported(name, seconds, model, get_current())


def _seconds(value: Any) -> Optional[float]:
    if isinstance(value, bool):
        return None
    try:
        seconds = float(value) if not isinstance(value, (str, bytes)) else -1.0
    except Exception:  # noqa: BLE001 - a value of any kind; one that is no number is no latency
        return None
    return seconds if 0.0 <= seconds <= _MAX_SECONDS else None
