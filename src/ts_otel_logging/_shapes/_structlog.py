"""The default shape: structlog's own names, in the contract's order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Optional

from ts_otel_logging import _names
from ts_otel_logging._event import Event, Moment, field_name, trace_fields
from ts_otel_logging._values import ENCODERS, encode_flat, encode_plain, encode_string, encode_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import SpanContext


_MAX_CACHED: Final = 1_024
_MICROS: Final = 1_000_000
UID: Final = f',"{_names.LOG_RECORD_UID}":"'


class StructlogShape:
    """Renders an event, reusing what seldom changes: the second, a logger's head, keys, a span's and a request's ids.

    Each cache entry is one immutable value, swapped whole, so that threads need no lock.
    """

    def __init__(self) -> None:
        # When it began, and how its lines do.
        self._second: tuple[int, str] = (-_MICROS, "")
        self._heads: dict[tuple[str, str], str] = {}
        self._keys: dict[Any, str] = {}
        self._names: dict[Any, str] = {}
        self._span: tuple[Optional[SpanContext], str] = (None, "")

    def __call__(self, event: Event) -> str:
        """Return the event's line without its newline."""
        if event.fields is not None:
            return self._render_fields(event.time_micros, event.fields)
        members = ""
        if event.uid is not None:
            members = f'{UID}{event.uid}"'
        keys = self._keys
        for key, value in event.extra.items():
            encoder = ENCODERS.get(type(value))
            members += (keys.get(key) or self._key(key)) + (encoder(value) if encoder else encode_value(value))
        if event.exception is not None:
            members += f',"{_names.EXCEPTION}":{encode_plain(event.exception)}'
        moment = event.time_micros, event.level, event.logger, event.span_context, event.scope
        return self.with_head(moment, encode_string(event.message), members + "}")

    def with_head(self, moment: Moment, message: str, members: str) -> str:
        """Return a line.

        Args:
            moment: When and where it happened.
            message: As JSON text.
            members: The caller's, each with a comma in front of it, and the end.
        """
        time_micros, level, logger, span_context, scope = moment
        second_micros, start = self._second
        micros = time_micros - second_micros
        if not 0 <= micros < _MICROS:
            second_micros, start = self._start(time_micros)
            micros = time_micros - second_micros
        head = self._heads.get((level, logger)) or self._head(level, logger)
        requests = scope.rendered
        if requests is None:
            requests = scope.rendered = self._members(scope.fields)
        # Half of what it takes in the f-string.
        padded = "%06d" % micros  # noqa: UP031 - as above
        if span_context is None:
            return f"{start}{padded}{head}{message}{requests}{members}"
        cached_span, ids = self._span
        if cached_span is not span_context:
            ids = self._members(trace_fields(span_context))
            self._span = (span_context, ids)
        return f"{start}{padded}{head}{message}{ids}{requests}{members}"

    def _render_fields(self, time_micros: int, fields: dict[str, Any]) -> str:
        if _names.TIMESTAMP in fields:
            rest = dict(fields)
            timestamp = encode_value(rest.pop(_names.TIMESTAMP))
            return f'{{"{_names.TIMESTAMP}":{timestamp}{self._members(rest)}}}'
        second_micros, start = self._second
        micros = time_micros - second_micros
        if not 0 <= micros < _MICROS:
            second_micros, start = self._start(time_micros)
            micros = time_micros - second_micros
        text = encode_flat(fields)
        members = f"{self._members(fields)}}}" if text is None else f",{text[1:]}"
        return f'{start}{micros:06d}Z"{members}'

    def _start(self, time_micros: int) -> tuple[int, str]:
        second = time_micros // _MICROS
        start = '{"timestamp":"' + time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        self._second = (second * _MICROS, start)
        return second * _MICROS, start

    def _head(self, level: str, logger: str) -> str:
        _make_room(self._heads)
        head = f'Z","level":{encode_value(level)},"logger":{encode_value(logger)},"event":'
        self._heads[level, logger] = head
        return head

    def _key(self, key: Any) -> str:
        _make_room(self._keys)
        text = self._keys[key] = f",{encode_string(field_name(key))}:"
        return text

    def _members(self, fields: Mapping[str, Any]) -> str:
        names = self._names
        text = ""
        for key, value in fields.items():
            encoder = ENCODERS.get(type(value))
            text += (names.get(key) or self._name(key)) + (encoder(value) if encoder else encode_value(value))
        return text

    def _name(self, key: Any) -> str:
        # Of a field that stands under its own name: one of ours, or what a processor put there.
        _make_room(self._names)
        text = self._names[key] = f",{encode_string(key if type(key) is str else field_name(key))}:"
        return text


def _make_room(cache: dict[Any, str]) -> None:
    if len(cache) >= _MAX_CACHED:
        cache.clear()
