"""The commonest records by a shorter way: their line comes straight from the record.

A record is plain if its message is a text without arguments, it has no exception and no stack, and its extra fields are
texts, numbers, truth values and None, with nothing to mask in any of them. Its line is the one that `StructlogShape`
would make of its event; other outputs get an event that is put together of what is known by then. A test holds both
ways against each other with arbitrary records.
"""

from __future__ import annotations

from itertools import islice
from logging import LogRecord
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from ts_otel_logging._bound import bound_contextvars
from ts_otel_logging._diagnostics import swallowed
from ts_otel_logging._event import (
    END_OF_TIME,
    LEVELS,
    RECORD_FIELDS,
    RECORD_SIZE,
    Event,
    current_span_context,
    field_name,
    plain_keys,
)
from ts_otel_logging._scope import current as current_scope
from ts_otel_logging._shapes._structlog import UID
from ts_otel_logging._values import ENCODERS, encode_string

if TYPE_CHECKING:
    from ts_otel_logging._event import UidSource
    from ts_otel_logging._pipeline import Output
    from ts_otel_logging._redaction import Redaction
    from ts_otel_logging._shapes._structlog import StructlogShape

_MAX_CACHED: Final = 1_024


class PlainRecords:
    """Writes plain records.

    Args:
        shape: Renders all others; what it keeps of what seldom changes serves both.
        redaction: What is masked.
        write: Takes whole lines.
        surely_fits: How many characters a line may have that need not be counted in bytes.
        others: What else gets every event, after its line.
        uids: Where events get ids from, if they need any.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each from another hand
        self,
        shape: StructlogShape,
        redaction: Redaction,
        write: Callable[[str], None],
        surely_fits: int,
        others: tuple[Output, ...],
        uids: Optional[UidSource],
    ) -> None:
        self._around = shape.around
        self._redaction = redaction
        self._write = write
        self._surely_fits = surely_fits
        self._others = others
        self._uids = uids
        # What may be a number of a card, and what only `plain` can render, is not plain.
        kinds = (str, float, bool, type(None)) if redaction.sees_numbers else tuple(ENCODERS)
        self._encoders = {kind: ENCODERS[kind] for kind in kinds}
        # Rendered already, and seen to have nothing to mask: messages, and keys with what stands around them.
        self._messages: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    def __call__(self, record: LogRecord) -> bool:
        """Write a record's line, and hand its event to the other outputs; return False, for nothing, if not plain."""
        message, name = record.msg, record.name
        if type(message) is not str or record.args or record.exc_info or record.exc_text or record.stack_info:
            return False
        text = self._messages.get(message) or self._message(message)
        level = LEVELS.get(record.levelname)
        created = record.created
        if (
            text is None
            or level is None
            or type(record) is not LogRecord
            or type(name) is not str
            or not 0 <= created < END_OF_TIME
            or bound_contextvars()
        ):
            return False
        fields = ""
        extra: dict[str, Any] = {}
        attributes = record.__dict__
        if len(attributes) > RECORD_SIZE:
            clean, keys, encoders = self._redaction.clean, self._keys, self._encoders
            for key, value in islice(attributes.items(), RECORD_SIZE, None):
                before_value = keys.get(key) or self._key(key)
                encoder = encoders.get(type(value))
                if before_value is None or encoder is None or (encoder is encode_string and value not in clean):
                    return False
                fields += before_value + encoder(value)
                extra[key] = value
        time_micros, span_context, scope = int(created * 1_000_000), current_span_context(), current_scope()
        before, behind = self._around(time_micros, level, name, span_context, scope)
        uid = None
        uids = self._uids
        if uids is not None and not name.startswith(uids.not_for):
            uid = uids.next()
            fields = f'{UID}{uid}"{fields}'
        line = f"{before}{text}{behind}{fields}}}\n"
        if len(line) > self._surely_fits:
            return False
        try:
            self._write(line)
        except Exception as error:  # noqa: BLE001 - as the pipeline does
            swallowed("log output", error)
        if self._others:
            self._hand_over(Event.of_plain(record, time_micros, level, span_context, scope, extra, uid, len(line)))
        return True

    def _hand_over(self, event: Event) -> None:
        for output in self._others:
            try:
                output(event)
            except Exception as error:  # noqa: BLE001, PERF203 - as the pipeline does
                swallowed("log output", error)

    def _message(self, message: str) -> Optional[str]:
        if message not in self._redaction.clean:
            return None
        if len(self._messages) >= _MAX_CACHED:
            self._messages.clear()
        text = self._messages[message] = encode_string(message)
        return text

    def _key(self, key: str) -> Optional[str]:
        # The event of the first record with this key has found out whether it is plain.
        if type(key) is not str or key not in plain_keys or key in RECORD_FIELDS or self._redaction.hidden[key]:
            return None
        if len(self._keys) >= _MAX_CACHED:
            self._keys.clear()
        name = self._keys[key] = f",{encode_string(field_name(key))}:"
        return name
