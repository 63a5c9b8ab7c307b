"""The default shape: structlog's own names, in the contract's order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Optional

from ts_otel_logging import _names
from ts_otel_logging._event import Event, field_name, trace_fields
from ts_otel_logging._values import encode_plain, encode_string, encode_value

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from ts_otel_logging._scope import Scope

_MAX_CACHED: Final = 1_024


class StructlogShape:
    """Renders an event, reusing what seldom changes: the second, a logger's head, keys, a span's ids, a request's fields.

    Each cache entry is one immutable value, swapped whole, so that threads need no lock.
    """

    def __init__(self) -> None:
        self._second: tuple[int, str] = (-1, "")
        self._heads: dict[tuple[str, str], str] = {}
        self._keys: dict[Any, str] = {}
        self._span: tuple[Optional[SpanContext], str] = (None, "")

    def __call__(self, event: Event) -> str:
        """Return the event's line without its newline."""
        if event.fields is not None:
            return render_fields(event.time_micros, event.fields)
        second, micros = divmod(event.time_micros, 1_000_000)
        cached_second, start = self._second
        if cached_second != second:
            start = '{"timestamp":"' + _date(second)
            self._second = (second, start)
        head = self._heads.get((event.level, event.logger)) or self._head(event.level, event.logger)
        span_context = event.span_context
        ids = ""
        if span_context is not None:
            cached_span, ids = self._span
            if cached_span is not span_context:
                ids = _members(trace_fields(span_context))
                self._span = (span_context, ids)
        scope = event.scope.rendered
        if scope is None:
            scope = _render_scope(event.scope)
        line = f"{start}{micros:06d}{head}{encode_string(event.message)}{ids}{scope}"
        if event.uid is not None:
            line += f',"{_names.LOG_RECORD_UID}":"{event.uid}"'
        for key, value in event.extra.items():
            line += (self._keys.get(key) or self._key(key)) + encode_value(value)
        if event.exception is not None:
            line += f',"{_names.EXCEPTION}":{encode_plain(event.exception)}'
        return line + "}"

    def _head(self, level: str, logger: str) -> str:
        if len(self._heads) >= _MAX_CACHED:
            self._heads.clear()
        head = f'Z","level":{encode_value(level)},"logger":{encode_value(logger)},"event":'
        self._heads[level, logger] = head
        return head

    def _key(self, key: Any) -> str:
        if len(self._keys) >= _MAX_CACHED:
            self._keys.clear()
        text = self._keys[key] = f",{encode_string(field_name(key))}:"
        return text


def render_fields(time_micros: int, fields: dict[str, Any]) -> str:
    """Return the line of an event that processors had in their hands.

    Args:
        time_micros: When it happened, in microseconds since the epoch; a ``timestamp`` among the fields wins.
        fields: The line's fields in their order.
    """
    members = dict(fields)
    second, micros = divmod(time_micros, 1_000_000)
    timestamp = members.pop(_names.TIMESTAMP, f"{_date(second)}{micros:06d}Z")
    return f'{{"{_names.TIMESTAMP}":{encode_value(timestamp)}{_members(members)}}}'


def _date(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))


def _members(fields: dict[str, Any]) -> str:
    return "".join(
        f",{encode_string(key if type(key) is str else field_name(key))}:{encode_value(value)}"
        for key, value in fields.items()
    )


def _render_scope(scope: Scope) -> str:
    rendered = scope.rendered = _members(dict(scope.fields))
    return rendered
