"""A log record as an event: what happened, and the moment it happened in, taken once."""

from __future__ import annotations

import itertools
import os
import sys
import time
import traceback
from functools import lru_cache
from logging import LogRecord
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from opentelemetry import trace
from opentelemetry.context import Context, get_current

from ts_otel_logging import _names, _scope
from ts_otel_logging._bound import bound_contextvars
from ts_otel_logging._values import MAX_CHARACTERS, key_text, plain, text_of, unique_name, utf8, without_device_copies

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

# Computed, not listed: the attributes that a record of this Python has by itself. A formatter adds the last two, and
# Python 3.12 the task's name.
RECORD_FIELDS: Final = frozenset({*vars(LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"})
RECORD_SIZE: Final = len(vars(LogRecord("", 0, "", 0, "", (), None)))
LAST_FIELD: Final = [*vars(LogRecord("", 0, "", 0, "", (), None))][-1]
"""What the caller says comes after it, and at the very end what a formatter adds."""
_MAX_CAUSES: Final = 16
# The end of the year 9999 in seconds: no calendar, no OTLP field goes further.
END_OF_TIME: Final = 253_402_300_800
# Arguments of these kinds cannot raise, nor hold a tensor.
_SIMPLE: Final = frozenset({str, int, float, bool, type(None)})

Moment = tuple[int, str, str, Optional[trace.SpanContext], _scope.Scope]
"""When and where something happened: microseconds since the epoch, level, logger, span and requests."""


class Event:
    """One thing that happened.

    Attributes:
        record: The record it was made from.
        time_micros: When, in microseconds since the epoch.
        level: The level as structlog names it: lower case.
        logger: The logger's name.
        message: The message with its arguments.
        span_context: The span it happened in, or None outside a span.
        scope: The requests it belongs to.
        exception: The exception as one object, or None.
        uid: Unique among events, when one is needed to tell copies apart downstream.
        fields: None, or what the user's processors made of the event: then this is what the line shows.
        plain_characters: How long the line is if the event is plain: if its values are texts, numbers, truth values and
            None, and nothing will change it any more. 0 for any other.
    """

    __slots__ = (
        "_extra",
        "exception",
        "fields",
        "level",
        "logger",
        "message",
        "plain_characters",
        "record",
        "scope",
        "span_context",
        "time_micros",
        "uid",
    )

    record: LogRecord
    time_micros: int
    level: str
    logger: str
    message: str
    span_context: Optional[trace.SpanContext]
    scope: _scope.Scope
    exception: Optional[dict[str, Any]]
    uid: Optional[str]
    fields: Optional[dict[str, Any]]
    plain_characters: int
    _extra: Optional[dict[str, Any]]

    def __init__(self, record: LogRecord) -> None:
        self.record = record
        created = record.created
        # False for NaN too.
        self.time_micros = int(created * 1_000_000) if 0 <= created < END_OF_TIME else time.time_ns() // 1_000
        self.level = LEVELS.get(record.levelname) or record.levelname.lower()
        name = record.name
        self.logger = name if type(name) is str else text_of(name)
        message = record.msg
        self.message = message if type(message) is str and not record.args else _message(record)
        self.span_context = current_span_context()
        self.scope = _scope.current()
        extra = self._extra = bound_contextvars()
        attributes = record.__dict__
        if len(attributes) > RECORD_SIZE:
            # The record's own attributes come first in a plain record: only what was added needs a look.
            own = RECORD_SIZE if type(record) is LogRecord else 0
            for key in [*attributes][own:]:
                if key not in RECORD_FIELDS:
                    extra[key] = attributes[key]
        if record.stack_info:
            extra["stack_info"] = record.stack_info
        self.exception = _exception(record) if record.exc_info or record.exc_text else None
        if type(message) is dict and _STRUCTLOG_NAME in extra:
            self._unwrap(message, extra)
        if not plain_keys.issuperset(extra):
            self._extra = with_plain_keys(extra)
        self.uid = None
        self.fields = None
        self.plain_characters = 0

    @classmethod
    def of_plain(  # noqa: PLR0913, PLR0917 - its parts
        cls,
        record: LogRecord,
        moment: Moment,
        message: str,
        extra: dict[str, Any],
        uid: Optional[str],
        characters: int = 0,
    ) -> Event:
        """Return the event of a plain record (`_shapes/_plain_records.py`), whose parts are known."""
        event = cls.__new__(cls)
        event.record = record
        event.time_micros, event.level, event.logger, event.span_context, event.scope = moment
        event.message = message
        event._extra = extra  # noqa: SLF001 - its own class
        event.exception = None
        event.uid = uid
        event.fields = None
        event.plain_characters = characters
        return event

    def _unwrap(self, event_dict: dict[str, Any], extra: dict[str, Any]) -> None:
        """Take apart what `structlog.stdlib.ProcessorFormatter.wrap_for_formatter` hands to `logging`.

        The event dict is the record's message there, and what tells it from a dict that somebody logs is the name.
        """
        for key in ("_logger", _STRUCTLOG_NAME):
            extra.pop(key, None)
        extra.update(event_dict)
        self.message = text_of(extra.pop(_names.EVENT, ""))
        # Its own processors may have added what the record has anyway.
        for key, value in ((_names.LEVEL, self.level), (_names.LOGGER, self.logger)):
            if extra.get(key) == value:
                del extra[key]
        exc_info = extra.pop("exc_info", None)
        if exc_info and self.exception is None:
            # True means the exception that is being handled: this is still the caller's frame and thread.
            self.exception = _exception_of(sys.exc_info() if exc_info is True else exc_info)
        if self.exception is None and isinstance(extra.get(_names.EXCEPTION), str):
            self.exception = {"stacktrace": _end(extra.pop(_names.EXCEPTION))}

    @property
    def extra(self) -> dict[str, Any]:
        """The caller's own fields: bound structlog context and ``extra``, in that order."""
        if self._extra is None:
            fields, scope = self.fields or {}, self.scope.fields
            self._extra = {
                key: value for key, value in fields.items() if key not in _names.LINE_FIELDS and key not in scope
            }
        return self._extra

    def replace(self, fields: dict[str, Any]) -> None:
        """Let the event be what processors made of it; time, severity and ids of its OTLP twin stay as they were."""
        if not plain_keys.issuperset(fields):
            fields = with_plain_keys(fields)
        self.fields = fields
        message = fields.get(_names.EVENT, self.message)
        self.message = message if type(message) is str else text_of(message)
        if self.exception is not None:
            self.exception = fields.get(_names.EXCEPTION)
        self._extra = None

    def as_dict(self) -> dict[str, Any]:
        """Return the event as structlog's processors know one, in the order of the default shape.

        Trace ids are hex text, the time is left out: shapes and processors that need it have `time_micros`.
        A caller's key that is a name of ours is kept under `EXTRA_PREFIX`.
        """
        result = head_of(self.level, self.logger, self.message, self.span_context, self.scope)
        if self.scope.members:
            # Copies: a processor may change what it gets.
            result.update((key, list(value)) for key, value in self.scope.fields.items() if type(value) is list)
        if self.uid is not None:
            result[_names.LOG_RECORD_UID] = self.uid
        for key, value in self.extra.items():
            result[field_name(key)] = value
        if self.exception is not None:
            result[_names.EXCEPTION] = self.exception
        return result


def head_of(
    level: str, logger: str, message: str, span_context: Optional[trace.SpanContext], scope: _scope.Scope
) -> dict[str, Any]:
    """Return the fields with which each event begins, as `Event.as_dict` has them; the lists of a batch are its own."""
    result: dict[str, Any] = {_names.LEVEL: level, _names.LOGGER: logger, _names.EVENT: message}
    if span_context is not None:
        result.update(trace_fields(span_context))
    result.update(scope.fields)
    return result


class UidSource:
    """Gives each event of this process an id that no other event has: random once, then counted.

    Args:
        not_for: How the names of loggers begin whose events get none.

    Attributes:
        next: Returns the next one.
    """

    def __init__(self, not_for: tuple[str, ...]) -> None:
        self.not_for = not_for
        self._renew()
        # For good: there is one source a process.
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        prefix = os.urandom(8).hex()
        self.next: Callable[[], str] = map(f"{prefix}-%x".__mod__, itertools.count()).__next__


# Contexts are immutable (OpenTelemetry specification, "Context"), so the span of the last one seen can be kept.
_last_span: tuple[Optional[Context], Optional[trace.SpanContext]] = (None, None)


def current_span_context() -> Optional[trace.SpanContext]:
    """Return the ids of the current span, or None outside a span."""
    global _last_span  # noqa: PLW0603 - a cache of one, swapped whole
    context = get_current()
    cached, span_context = _last_span
    if cached is not context:
        current = trace.get_current_span(context).get_span_context()
        span_context = current if current.is_valid else None
        _last_span = (context, span_context)
    return span_context


LEVELS: Final = {name: name.lower() for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}


# Keys that were seen to be text that UTF-8 can hold and no longer than a name: most records have no other.
plain_keys: set[Any] = set()
_MAX_PLAIN_KEYS: Final = 1_024
_MAX_KEY_CHARACTERS: Final = 256


def with_plain_keys(fields: dict[Any, Any]) -> dict[str, Any]:
    """Return fields with their keys, or in place of odd ones different texts that are short and UTF-8 can hold."""
    result: dict[str, Any] = {}
    odd = []
    for key, value in fields.items():
        if type(key) is str and 0 < len(key) <= _MAX_KEY_CHARACTERS and utf8(key) is key:
            if len(plain_keys) >= _MAX_PLAIN_KEYS:
                plain_keys.clear()
            plain_keys.add(key)
            result[key] = value
        else:
            odd.append((key, value))
    for key, value in odd:
        name = key_text(key)[:_MAX_KEY_CHARACTERS]
        result[unique_name(name, result)] = value
    return result


@lru_cache(maxsize=_MAX_PLAIN_KEYS)
def field_name(key: str) -> str:
    """Return the name under which a caller's key stands in a line."""
    name = key
    # However often prefixed: a caller may have chosen the very name that another key would get.
    while name.startswith(_names.EXTRA_PREFIX):
        name = name[len(_names.EXTRA_PREFIX) :]
    is_ours = name in _names.LINE_FIELDS or name.startswith(_names.REQUEST_HEADER_PREFIX)
    return _names.EXTRA_PREFIX + key if is_ours else key


def trace_fields(span_context: trace.SpanContext) -> Mapping[str, str]:
    """Return a span's ids as lower-case hex digits: 32, 16 and 2 of them."""
    global _last_ids  # noqa: PLW0603 - a cache of one, swapped whole
    cached, fields = _last_ids
    if cached is not span_context:
        fields = {
            _names.TRACE_ID: f"{span_context.trace_id:032x}",
            _names.SPAN_ID: f"{span_context.span_id:016x}",
            _names.TRACE_FLAGS: f"{span_context.trace_flags:02x}",
        }
        _last_ids = (span_context, fields)
    return fields


_last_ids: tuple[Optional[trace.SpanContext], dict[str, str]] = (None, {})


_STRUCTLOG_NAME: Final = "_name"


def are_simple(arguments: Any) -> bool:
    """Return whether a message's arguments are texts and numbers alone, which are what they are whenever one looks."""
    return _SIMPLE.issuperset(map(type, arguments.values() if type(arguments) is dict else arguments))


def _message(record: LogRecord) -> str:
    try:
        if type(record.msg) is str and are_simple(record.args or ()):
            # What getMessage does, but for records of a class of the program's own.
            message: Any = record.msg % record.args if type(record) is LogRecord else record.getMessage()
        else:
            with without_device_copies():
                message = record.getMessage()
    except Exception as error:  # noqa: BLE001 - the caller's mistake; the event must not be lost
        if not record.args:
            return text_of(record.msg)
        return f"{text_of(record.msg)} (arguments {plain(record.args)!r} do not fit: {text_of(error)})"
    return message if type(message) is str else text_of(message)


def _exception(record: LogRecord) -> Optional[dict[str, Any]]:
    result = _exception_of(record.exc_info)
    if result is None and record.exc_text:
        result = {"stacktrace": _end(text_of(record.exc_text))}
    return result


def _exception_of(exc_info: Any) -> Optional[dict[str, Any]]:
    if isinstance(exc_info, BaseException):
        return exception_fields(exc_info)
    if isinstance(exc_info, tuple) and len(exc_info) > 1 and isinstance(exc_info[1], BaseException):
        trace_back = exc_info[2] if len(exc_info) > 2 else None  # noqa: PLR2004 - (type, value, traceback)
        return exception_fields(exc_info[1], trace_back)
    return None


def exception_fields(error: BaseException, trace_back: Optional[TracebackType] = None) -> dict[str, Any]:
    """Return an exception as one object.

    Args:
        error: The exception.
        trace_back: Where it was raised, if not as the exception itself says.

    Returns:
        ``type``, ``message``, ``stacktrace``; and what it has of ``notes`` (texts that were added to it), ``causes``
        and ``exceptions`` (a group's own; each with type and message), at most 16 of a kind.
    """
    with without_device_copies():
        try:
            stacktrace = "".join(traceback.format_exception(type(error), error, trace_back or error.__traceback__))
        except Exception as failure:  # noqa: BLE001 - an exception whose own code raises
            stacktrace = f"<no stack trace: {type(failure).__name__}>"
        result: dict[str, Any] = {**_type_and_message(error), "stacktrace": _end(stacktrace)}
        # https://peps.python.org/pep-0678/ and -0654/; on older Pythons the backport has the same attributes.
        more: dict[str, list[Any]] = {
            "notes": [utf8(text_of(note)) for note in _members(error, "__notes__")],
            "causes": _causes(error),
            "exceptions": [_type_and_message(member) for member in _members(error, "exceptions", BaseException)],
        }
        result.update({name: values for name, values in more.items() if values})
    return result


def _members(error: BaseException, name: str, kind: type = object) -> list[Any]:
    try:
        members: Any = getattr(error, name, None)
    except Exception:  # noqa: BLE001 - an exception whose own code raises
        return []
    return [member for member in members[:_MAX_CAUSES] if isinstance(member, kind)] if type(members) in _LISTS else []


_LISTS: Final = (list, tuple)


def _end(text: str) -> str:
    # A stack trace's last frames say most.
    return utf8(text if len(text) <= MAX_CHARACTERS else "…" + text[1 - MAX_CHARACTERS :])


def _type_and_message(error: BaseException) -> dict[str, str]:
    return {"type": utf8(type_name(error)), "message": utf8(text_of(error))}


def _causes(error: BaseException) -> list[dict[str, str]]:
    causes: list[dict[str, str]] = []
    seen = {id(error)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and id(cause) not in seen and len(causes) < _MAX_CAUSES:
        seen.add(id(cause))
        causes.append(_type_and_message(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return causes


def type_name(error: BaseException) -> str:
    """Return an exception's type as the semantic conventions want ``exception.type``: qualified, builtins bare."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
