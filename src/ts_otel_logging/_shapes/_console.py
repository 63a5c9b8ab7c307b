"""Lines for people: structlog's own renderer, coloured where a terminal shows them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from structlog.dev import ConsoleRenderer

from ts_otel_logging import _names
from ts_otel_logging._shapes._parts import UtcTime, exception_texts, fields_of
from ts_otel_logging._values import plain

if TYPE_CHECKING:
    from ts_otel_logging._event import Event

# Nobody who reads a terminal needs them.
_LEFT_OUT: Final = frozenset({_names.TRACE_FLAGS, _names.LOG_RECORD_UID})
_FIRST: Final = (_names.TIMESTAMP, _names.LEVEL, _names.EVENT, _names.LOGGER)
# Keys that the renderer takes for something else.
_RENDERERS_OWN: Final = frozenset({"stack", "exc_info", "logger_name"})
# Control characters could paint over what is on the screen; the others end a line for some readers.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# A further line never begins where a line of its own would: what a handler logs cannot pass for a control line.
_INDENT: Final = "\n    "


def _safe(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda match: ascii(match.group())[1:-1], text).replace("\n", _INDENT)


class ConsoleShape:
    """Renders an event for people: its time, level, message and logger, the caller's fields, then ours.

    An event may have several lines: those after the first are indented.

    Args:
        colors: Whether to use the colours of a terminal.
    """

    def __init__(self, *, colors: bool) -> None:
        self._time = UtcTime()
        self._renderer = ConsoleRenderer(colors=colors, sort_keys=False)

    def __call__(self, event: Event) -> str:
        """Return the event's lines without the last newline."""
        fields = fields_of(event)
        shown: dict[str, Any] = {
            _names.TIMESTAMP: self._time(event.time_micros),
            _names.LEVEL: _text(fields.get(_names.LEVEL, event.level)),
            _names.EVENT: _text(fields.get(_names.EVENT, "")),
            _names.LOGGER: _text(fields.get(_names.LOGGER, event.logger)),
        }
        ours = {}
        for key, value in fields.items():
            if key in _names.LINE_FIELDS:
                if key not in _FIRST and key not in _LEFT_OUT and key != _names.EXCEPTION:
                    ours[key] = _value(value)
            else:
                shown[_safe(_names.EXTRA_PREFIX + key if key in _RENDERERS_OWN else key)] = _value(value)
        shown.update(ours)
        line = self._renderer(None, "", shown)
        stack = fields.get(_names.EXCEPTION)
        if stack is not None:
            texts = exception_texts(stack)
            text = texts.get("stacktrace") or ": ".join(texts.values())
            line += "\n" + _safe("\n" + text.rstrip("\n"))[1:]
        return line


def _text(value: Any) -> str:
    return _safe(str(plain(value)))


def _value(value: Any) -> Any:
    shown = plain(value)
    # The renderer shows the rest by its repr, which is printable.
    return _safe(shown) if isinstance(shown, str) and "\n" not in shown else shown
