"""Events straight into the lanes (docs/adr/018-own-encoder.md).

Making the SDK's log record of an event, copying it, weighing it and encoding it later costs more than everything else
of a line. It is done where somebody may look at the record: another processor, or an exporter that takes no bytes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from opentelemetry.sdk._logs import Logger, LoggerProvider, LogRecordLimits

from ts_otel_logging._otlp_log import log_record_of
from ts_otel_logging._sdk._otlp_log_records import encode_event, encode_plain_parts, has_room, plain_parts

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LogRecordProcessor

    from ts_otel_logging._event import Event
    from ts_otel_logging._sdk._otlp_encoder import EventRecord
    from ts_otel_logging._sdk._processors import LaneLogRecordProcessor

# Besides its bytes: the objects around them, and its place in the lane.
_RECORD_BYTES: Final = 250
# Of a plain event, besides what is as large as its line: the objects that its values are.
_PLAIN_BYTES: Final = 500


class LaneLoggerProvider(LoggerProvider):
    """The SDK's provider with the lanes' processors, which takes events too.

    Args:
        processors: Those of the lanes.
        takes_events: Whether all lanes' exporters take bytes, and nobody wants the SDK to count its records.
        **kwargs: What the SDK's takes.

    Attributes:
        max_attributes: The most that a log record may have, or None.
    """

    def __init__(self, *processors: LaneLogRecordProcessor, takes_events: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        limits = LogRecordLimits()
        # Their names differ from release to release.
        most = getattr(limits, "max_log_record_attributes", limits.max_attributes)
        longest = getattr(limits, "max_log_record_attribute_length", limits.max_attribute_length)
        self.max_attributes: Optional[int] = most
        for processor in processors:
            super().add_log_record_processor(processor)
        self._puts: tuple[Callable[[Any, int], None], ...] = ()
        # Where texts are cut, the SDK has to look at each.
        if takes_events and longest is None:
            self._puts = tuple(processor.put for processor in processors)

    def add_log_record_processor(self, log_record_processor: LogRecordProcessor) -> None:
        """Take one more, which gets every event as the SDK's log record."""
        self._puts = ()
        super().add_log_record_processor(log_record_processor)

    def emitter(self, logger: Any) -> Callable[[Event], None]:
        """Return what lets events wait for export, or emits them where somebody needs them as log records.

        Args:
            logger: One of this provider's. What is returned raises if an event cannot be encoded.
        """
        return partial(self._put if type(logger) is Logger else self._emit, logger)

    def _emit(self, logger: Any, event: Event) -> None:
        logger.emit(log_record_of(event, self.max_attributes))

    def _put(self, logger: Any, event: Event) -> None:
        puts = self._puts
        if not puts:
            self._emit(logger, event)
            return
        characters = event.plain_characters
        if characters and has_room(event, self.max_attributes):
            # Encoded on the export thread, in a row with others, it takes a quarter of the time.
            record: EventRecord = logger, plain_parts(event)
            size_bytes = _PLAIN_BYTES + characters
        else:
            data = encode_event(event, self.max_attributes)
            record = logger, data
            size_bytes = _RECORD_BYTES + len(data)
        for put in puts:
            put(record, size_bytes)


def ready_log_record(masked: Callable[[Any], Any], item: Any) -> Any:
    """Return an item of a lane as exporters get it, a plain event as bytes.

    Args:
        masked: Returns a log record of the SDK with its secrets masked.
        item: Such a record, or an `EventRecord`.
    """
    if type(item) is not tuple:
        return masked(item)
    logger, what = item
    if type(what) is bytes:
        return item
    try:
        return logger, encode_plain_parts(what)
    except Exception:  # noqa: BLE001 - the batch's encoder will fail on it too, and the batch lose it alone
        return item
