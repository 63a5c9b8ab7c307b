"""Lines of the commonest records, straight from the record: no event is made for them.

A record is plain if its message is a text without arguments, it has no exception and no stack, and its extra fields are
texts, numbers, truth values and None, with nothing to mask in any of them. Its line is the one that `StructlogShape`
would make of its event; a test holds both against each other with arbitrary records.
"""

from __future__ import annotations

from itertools import islice
from logging import LogRecord
from typing import TYPE_CHECKING, Final, Optional

from ts_otel_logging._bound import bound_contextvars
from ts_otel_logging._event import (
    END_OF_TIME,
    LEVELS,
    RECORD_FIELDS,
    RECORD_SIZE,
    current_span_context,
    field_name,
    plain_keys,
)
from ts_otel_logging._scope import current as current_scope
from ts_otel_logging._values import ENCODERS, encode_string

if TYPE_CHECKING:
    from ts_otel_logging._redaction import Redaction
    from ts_otel_logging._shapes._structlog import StructlogShape

_MAX_CACHED: Final = 1_024


class PlainRecords:
    """Renders plain records.

    Args:
        shape: Renders all others; what it keeps of what seldom changes serves both.
        redaction: What is masked.
    """

    def __init__(self, shape: StructlogShape, redaction: Redaction) -> None:
        self._around = shape.around
        self._redaction = redaction
        # What may be a number of a card, and what only `plain` can render, is not plain.
        kinds = (str, float, bool, type(None)) if redaction.sees_numbers else tuple(ENCODERS)
        self._encoders = {kind: ENCODERS[kind] for kind in kinds}
        # Rendered already, and seen to have nothing to mask: messages, and keys with what stands around them.
        self._messages: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    def __call__(self, record: LogRecord) -> Optional[str]:
        """Return a record's line without its newline, or None if it is not plain."""
        message = record.msg
        if type(message) is not str or record.args or record.exc_info or record.exc_text or record.stack_info:
            return None
        text = self._messages.get(message) or self._message(message)
        level = LEVELS.get(record.levelname)
        created = record.created
        if text is None or level is None or type(record) is not LogRecord or type(record.name) is not str:
            return None
        if not 0 <= created < END_OF_TIME or bound_contextvars():
            return None
        fields = ""
        attributes = record.__dict__
        if len(attributes) > RECORD_SIZE:
            clean, keys, encoders = self._redaction.clean, self._keys, self._encoders
            for key, value in islice(attributes.items(), RECORD_SIZE, None):
                name = keys.get(key) or self._key(key)
                encoder = encoders.get(type(value))
                if name is None or encoder is None or (encoder is encode_string and value not in clean):
                    return None
                fields += name + encoder(value)
        before, behind = self._around(
            int(created * 1_000_000), level, record.name, current_span_context(), current_scope()
        )
        return f"{before}{text}{behind}{fields}}}"

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
