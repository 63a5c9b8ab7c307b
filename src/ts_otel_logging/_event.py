"""A log record as an event: what happened, and the moment it happened in, taken once."""

from __future__ import annotations

import traceback
from itertools import islice
from logging import LogRecord
from typing import TYPE_CHECKING, Any, Final, Optional

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from structlog.contextvars import get_contextvars

from ts_otel_logging import _names, _scope
from ts_otel_logging._values import plain, utf8

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

# Computed, not listed: the attributes that a record of this Python has by itself. A formatter adds the last two, and
# Python 3.12 the task's name.
RECORD_FIELDS: Final = frozenset({*vars(LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"})
_RECORD_SIZE: Final = len(vars(LogRecord("", 0, "", 0, "", (), None)))
_MAX_CAUSES: Final = 16


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
    """

    __slots__ = (
        "_extra",
        "exception",
        "fields",
        "level",
        "logger",
        "message",
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
    _extra: Optional[dict[str, Any]]

    def __init__(self, record: LogRecord) -> None:
        self.record = record
        self.time_micros = int(record.created * 1_000_000)
        self.level = _LEVELS.get(record.levelname) or record.levelname.lower()
        self.logger = record.name
        try:
            self.message = record.getMessage()
        except Exception as error:  # noqa: BLE001 - the caller's mistake; the event must not be lost
            self.message = f"{_text(record.msg)} (arguments {plain(record.args)!r} do not fit: {error})"
        self.span_context = _span_context()
        self.scope = _scope.current()
        extra = self._extra = get_contextvars()
        attributes = record.__dict__
        if len(attributes) > _RECORD_SIZE:
            # The record's own attributes come first in a plain record: only what was added needs a look.
            own = _RECORD_SIZE if type(record) is LogRecord else 0
            for key, value in islice(attributes.items(), own, None):
                if key not in RECORD_FIELDS:
                    extra[key] = value
        if record.stack_info:
            extra["stack_info"] = record.stack_info
        self.exception = _exception(record) if record.exc_info or record.exc_text else None
        self.uid = None
        self.fields = None

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
        self.fields = fields
        self.message = str(fields.get(_names.EVENT, self.message))
        if self.exception is not None:
            self.exception = fields.get(_names.EXCEPTION)
        self._extra = None

    def as_dict(self) -> dict[str, Any]:
        """Return the event as structlog's processors know one, in the order of the default shape.

        Trace ids are hex text, the time is left out: shapes and processors that need it have `time_micros`.
        A caller's key that is a name of ours is kept under `EXTRA_PREFIX`.
        """
        result: dict[str, Any] = {
            _names.LEVEL: self.level,
            _names.LOGGER: self.logger,
            _names.EVENT: self.message,
        }
        if self.span_context is not None:
            result.update(trace_fields(self.span_context))
        for key, value in self.scope.fields.items():
            # A copy: a processor may change what it gets.
            result[key] = list(value) if type(value) is list else value
        if self.uid is not None:
            result[_names.LOG_RECORD_UID] = self.uid
        for key, value in self.extra.items():
            result[field_name(key)] = value
        if self.exception is not None:
            result[_names.EXCEPTION] = self.exception
        return result


# Contexts are immutable (OpenTelemetry specification, "Context"), so the span of the last one seen can be kept.
_last_span: tuple[Optional[Context], Optional[trace.SpanContext]] = (None, None)


def _span_context() -> Optional[trace.SpanContext]:
    global _last_span  # noqa: PLW0603 - a cache of one, swapped whole
    context = get_current()
    cached, span_context = _last_span
    if cached is not context:
        current = trace.get_current_span(context).get_span_context()
        span_context = current if current.is_valid else None
        _last_span = (context, span_context)
    return span_context


_LEVELS: Final = {name: name.lower() for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}


def field_name(key: Any) -> str:
    """Return the name under which a caller's key stands in a line."""
    if type(key) is not str:
        key = str(plain(key))
    name: str = key
    # The second: a caller may have chosen the very name that another key would get.
    collides = name in _names.LINE_FIELDS or (
        name.startswith(_names.EXTRA_PREFIX) and name[len(_names.EXTRA_PREFIX) :] in _names.LINE_FIELDS
    )
    return _names.EXTRA_PREFIX + name if collides else name


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


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a message object whose __str__ raises
        return str(plain(value))


def _exception(record: LogRecord) -> Optional[dict[str, Any]]:
    exc_info = record.exc_info
    if not isinstance(exc_info, tuple) or exc_info[1] is None:
        return {"stacktrace": record.exc_text} if record.exc_text else None
    return exception_fields(exc_info[1], exc_info[2])


def exception_fields(error: BaseException, trace_back: Optional[TracebackType] = None) -> dict[str, Any]:
    """Return an exception as one object: ``type``, ``message``, ``stacktrace``, and ``causes`` if it has any.

    Args:
        error: The exception.
        trace_back: Where it was raised, if not as the exception itself says.
    """
    try:
        stacktrace = "".join(traceback.format_exception(type(error), error, trace_back or error.__traceback__))
    except Exception as failure:  # noqa: BLE001 - an exception whose own code raises
        stacktrace = f"<no stack trace: {type(failure).__name__}>"
    result: dict[str, Any] = {
        "type": type_name(error),
        "message": utf8(_text(error)),
        "stacktrace": utf8(stacktrace),
    }
    causes = _causes(error)
    if causes:
        result["causes"] = causes
    return result


def _causes(error: BaseException) -> list[dict[str, str]]:
    causes: list[dict[str, str]] = []
    seen = {id(error)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and id(cause) not in seen and len(causes) < _MAX_CAUSES:
        seen.add(id(cause))
        causes.append({"type": type_name(cause), "message": utf8(_text(cause))})
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return causes


def type_name(error: BaseException) -> str:
    """Return an exception's type as the semantic conventions want ``exception.type``: qualified, builtins bare."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
