"""Events as records for `logging` handlers: with the masked message and fields, and the ids as attributes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from ts_otel_logging import _names
from ts_otel_logging._event import RECORD_FIELDS, Event, field_name, trace_fields
from ts_otel_logging._values import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

# So that a formatter's %(trace_id)s never fails: outside a span, outside a request, before a model is loaded.
_IDS: Final[Mapping[str, str]] = dict.fromkeys(
    (
        _names.TRACE_ID,
        _names.SPAN_ID,
        _names.TRACE_FLAGS,
        _names.REQUEST_ID,
        _names.REQUEST_IDS,
        _names.TRACE_IDS,
        _names.CLIENT_REQUEST_ID,
        _names.MODEL_NAME,
        _names.MODEL_VERSION,
        _names.WORKER_ID,
    ),
    "",
)
_FLAT: Final = frozenset({str, int, float, bool, type(None)})


class SinkOutput:
    """Hands every event to one handler, on the caller's thread.

    Args:
        sink: The handler; its level and its filters hold.
    """

    def __init__(self, sink: logging.Handler) -> None:
        self._sink = sink

    def __call__(self, event: Event) -> None:
        """Let the handler handle the event's record."""
        if event.record.levelno >= self._sink.level:
            self._sink.handle(sink_record(event))


def sink_record(event: Event) -> logging.LogRecord:
    """Return an event as a record for handlers and their formatters.

    Its message is the processed and masked one, without arguments. The caller's ``extra`` and bound structlog context
    are attributes, and so are the ids of span, requests, model and worker, each an empty text where there is none. A
    key that would take the place of one of those, or of a record's own attribute, is kept as ``extra.<key>``. Values
    are copies: what the caller does with an object later does not show.
    """
    record = event.record
    fields: dict[str, Any] = {key: value for key, value in vars(record).items() if key in RECORD_FIELDS}
    fields.update(msg=event.message, message=event.message, args=None, stack_info=None, exc_info=None, exc_text=None)
    if event.exception is not None:
        # The text as it was masked: a formatter takes it as it is, and would make its own of the exception, like this
        # one without the last newline.
        fields["exc_text"] = _stacktrace(event.exception).rstrip("\n")
    fields.update(_IDS)
    if event.fields is None:
        if event.span_context is not None:
            fields.update(trace_fields(event.span_context))
        fields.update(event.scope.fields)
    else:
        fields.update((key, value) for key, value in event.fields.items() if key in _IDS)
    for key, value in event.extra.items():
        name = field_name(key)
        if name in RECORD_FIELDS:
            name = _names.EXTRA_PREFIX + name
        fields[name] = value if type(value) in _FLAT else plain(value)
    # As logging.makeLogRecord does, without first working out all that is overwritten then.
    result = logging.LogRecord.__new__(logging.LogRecord)
    result.__dict__ = fields
    return result


def _stacktrace(exception: Any) -> str:
    return str(exception.get("stacktrace", "") if isinstance(exception, dict) else exception)
