"""The commonest records by a shorter way: their line comes straight from the record.

A record is plain if it has no exception and no stack, its fields are texts, numbers, truth values, None and lists of
numbers, and there is nothing to mask in any of them. With processors, what they make of it has to be so, too, and to
begin with what is ours as it was. Its line is the one that `StructlogShape` would make of its event; other outputs get
an event that is put together of what is known by then. A test holds both ways against each other with arbitrary
records and processors.
"""

from __future__ import annotations

from logging import LogRecord
from operator import is_
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from ts_otel_logging._bound import bound_contextvars
from ts_otel_logging._diagnostics import swallowed
from ts_otel_logging._event import (
    END_OF_TIME,
    LAST_FIELD,
    LEVELS,
    RECORD_FIELDS,
    RECORD_SIZE,
    Event,
    are_simple,
    current_span_context,
    field_name,
    head_of,
    plain_keys,
)
from ts_otel_logging._names import EVENT, LINE_FIELDS, LOG_RECORD_UID
from ts_otel_logging._pipeline import CONTAINERS, hand_out
from ts_otel_logging._scope import current as current_scope
from ts_otel_logging._shapes._structlog import UID
from ts_otel_logging._values import ENCODERS, MAX_DIGITS, encode_numbers, encode_string

if TYPE_CHECKING:
    from ts_otel_logging._event import Moment, UidSource
    from ts_otel_logging._pipeline import Output, Process
    from ts_otel_logging._redaction import Redaction
    from ts_otel_logging._shapes._structlog import StructlogShape

_MAX_CACHED: Final = 1_024
_MAX_CACHED_CHARACTERS: Final = 256
_NO_JSON: Final = frozenset({"nan", "inf", "-inf"})


class PlainRecords:
    """Writes plain records.

    Args:
        shape: Renders all others; what it keeps of what seldom changes serves both.
        redaction: What is masked.
        put: Takes whole lines.
        surely_fits: How many characters a line may have that need not be counted in bytes.
        others: What else gets every event, after its line.
        uids: Where events get ids from, if they need any.
        process: The processors, if there are any.
        deliver: Takes the event of what they made of a record that is not plain any more.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each from another hand
        self,
        shape: StructlogShape,
        redaction: Redaction,
        put: Callable[[str], None],
        surely_fits: int,
        others: tuple[Output, ...],
        uids: Optional[UidSource],
        process: Optional[Process],
        deliver: Output,
    ) -> None:
        self._with_head = shape.with_head
        self._redaction = redaction
        self._put = put
        self._surely_fits = surely_fits
        self._others = others
        self._uids = uids
        self._process = process
        self._deliver = deliver
        # What may be a number of a card, and what only `plain` can render, is not plain.
        kinds = (str, float, bool, type(None)) if redaction.sees_numbers else tuple(ENCODERS)
        self._encoders: dict[type, Callable[[Any], Optional[str]]] = {kind: ENCODERS[kind] for kind in kinds}
        # What it gives is what the encoders give, but for those that are looked for then.
        self._encoders.update((kind, repr) for kind in (int, float) if kind in kinds)
        # Who gets the event may look at it later: a list can be another then.
        if not redaction.sees_numbers and not others:
            self._encoders[list] = encode_numbers
        # Rendered already, and seen to have nothing to mask: messages, and keys with what stands around them.
        self._messages: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        # Of what processors made it is masked, too.
        self._masks_ours = any(redaction.hidden[name] for name in LINE_FIELDS)

    def write(self, record: LogRecord) -> bool:
        """Write a record's line, and hand its event to the other outputs; return False, for nothing, if not plain."""
        message = _with_arguments(record.msg, record.args) if record.args else record.msg
        if type(message) is not str or record.exc_info or record.exc_text or record.stack_info:
            return False
        level = LEVELS.get(record.levelname)
        logger = record.name
        created = record.created
        if level is None or type(record) is not LogRecord or type(logger) is not str:
            return False
        if not 0 <= created < END_OF_TIME or bound_contextvars():
            return False
        moment = int(created * 1_000_000), level, logger, current_span_context(), current_scope()
        uids = self._uids
        uid = None if uids is None or logger.startswith(uids.not_for) else uids.next()
        if self._process is not None:
            return self._write_processed(self._process, record, moment, message, uid)
        line = self._line(moment, message, uid, record.__dict__, LAST_FIELD)
        if line is None:
            return False
        self._write_line(line)
        if self._others:
            attributes = record.__dict__
            extra = {name: attributes[name] for name in [*attributes][RECORD_SIZE:]}
            hand_out(Event.of_plain(record, moment, message, extra, uid, len(line)), self._others)
        return True

    def _write_processed(
        self, process: Process, record: LogRecord, moment: Moment, message: str, uid: Optional[str]
    ) -> bool:
        _, level, logger, span_context, scope = moment
        # A processor may change lists of ids in their place.
        if self._masks_ours or scope.members:
            return False
        head = head_of(level, logger, message, span_context, scope)
        if uid is not None:
            head[LOG_RECORD_UID] = uid
        fields = head.copy()
        attributes = record.__dict__
        nested = []
        for name in [*attributes][RECORD_SIZE:]:
            if name not in self._keys and self._key(name) is None:
                return False
            value = fields[name] = attributes[name]
            if type(value) in CONTAINERS:
                nested.append(name)
        processed = process(record, level, fields, nested)
        if processed is None:
            return True
        # What the caller says may be another; nothing else, nor its place.
        text: Any = processed.get(EVENT)
        head[EVENT] = text
        ours = [*head]
        is_ours = (
            type(text) is str and ours == [*processed][: len(ours)] and all(map(is_, head.values(), processed.values()))
        )
        line = self._line(moment, text, uid, processed, ours[-1]) if is_ours else None
        if line is not None:
            self._write_line(line)
        if line is None or self._others:
            event = Event.of_plain(record, moment, message, {}, uid)
            event.replace(processed)
            if line is None:
                self._deliver(event)
            else:
                hand_out(event, self._others)
        return True

    def _write_line(self, line: str) -> None:
        try:
            self._put(line)
        except Exception as error:  # noqa: BLE001 - as the pipeline does
            swallowed("log output", error)

    def _line(
        self, moment: Moment, message: str, uid: Optional[str], fields: dict[str, Any], last: str
    ) -> Optional[str]:
        """Return the line with the fields that come after the last one that is not the caller's; None if not plain."""
        try:
            text = self._messages.get(message) or self._message(message)
            if text is None:
                return None
            keys, encoders, redaction = self._keys, self._encoders, self._redaction
            members = "}\n"
            # From the end: a record has twenty attributes before those of the caller.
            for name in reversed(fields):
                if name == last:
                    break
                value = fields[name]
                key = keys.get(name) or self._key(name)
                encoder = encoders[type(value)]
                if key is None:
                    return None
                if encoder is encode_string and value not in redaction.clean and redaction.text(value) is not value:
                    return None
                encoded = encoder(value)
                if encoded is None or (encoder is repr and (encoded in _NO_JSON or len(encoded) > MAX_DIGITS)):
                    return None
                members = f"{key}{encoded}{members}"
        except Exception:  # noqa: BLE001 - a value of another kind; the other way knows what to do
            return None
        if uid is not None:
            members = f'{UID}{uid}"{members}'
        line = self._with_head(moment, text, members)
        return None if len(line) > self._surely_fits else line

    def _message(self, message: str) -> Optional[str]:
        if self._redaction.text(message) is not message:
            return None
        text = encode_string(message)
        if len(message) <= _MAX_CACHED_CHARACTERS:
            if len(self._messages) >= _MAX_CACHED:
                self._messages.clear()
            self._messages[message] = text
        return text

    def _key(self, name: str) -> Optional[str]:
        # The event of the first record with this key has found out whether it is plain.
        if type(name) is not str or name not in plain_keys or name in RECORD_FIELDS or field_name(name) != name:
            return None
        if self._redaction.hidden[name]:
            return None
        if len(self._keys) >= _MAX_CACHED:
            self._keys.clear()
        key = self._keys[name] = f",{encode_string(name)}:"
        return key


def _with_arguments(message: Any, arguments: Any) -> Optional[str]:
    try:
        return message % arguments if type(message) is str and are_simple(arguments) else None
    except Exception:  # noqa: BLE001 - the event's message says what does not fit
        return None
