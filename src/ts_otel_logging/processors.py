"""structlog processors to choose from, for `BridgeHandler`, `configure` and ``TS_OTEL_LOGGING_PROCESSORS``.

Example:
    A module of one's own, named as ``TS_OTEL_LOGGING_PROCESSORS=acme_logging:PROCESSORS``::

        from ts_otel_logging.processors import build_storm_collapser

        PROCESSORS = [build_storm_collapser(interval_seconds=5.0)]
"""

from __future__ import annotations

import atexit
import contextvars
import hashlib
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Callable, Final

from ts_otel_logging import _names
from ts_otel_logging._event import field_name
from ts_otel_logging._values import encode_value, plain

if TYPE_CHECKING:
    from structlog.typing import Processor

__all__ = ["build_storm_collapser"]

# What two events of one storm may differ in. The trace of a request is its own already; without requests, spans differ.
_NOT_COMPARED: Final = frozenset({_names.TRACE_ID, _names.SPAN_ID, _names.TRACE_FLAGS, _names.LOG_RECORD_UID})
# Kept to tell the count with: of a storm, not of every event.
_MAX_KEPT_CHARACTERS: Final = 4_096


def build_storm_collapser(
    *, interval_seconds: float = 1.0, max_events: int = 1_024, clock: Callable[[], float] = time.monotonic
) -> Processor:
    """Return a processor that lets the first of equal events through and counts the others for a while.

    Equal are events with the same logger, level, message, extras, bound context, exception and request ids: events of
    two requests are never taken for one. How many were left out is told when the interval is over, with the next event
    of any kind, or when the process ends: as the same event in the same context, with ``repeated``. No thread nor timer
    is used, so a process that is killed does not tell the last count. Left out are the line, the OTLP record and the
    sinks' records alike.

    Args:
        interval_seconds: For how long, from the first one, equal events are left out; above 0.
        max_events: How many different events are remembered; with more, the oldest is told and forgotten. From 1.
        clock: Returns seconds that never go back.

    Raises:
        ValueError: A number out of its range.
    """
    if not 0 < interval_seconds < float("inf"):
        raise ValueError(f"interval_seconds={interval_seconds!r}: accepted is a number above 0")
    if max_events < 1:
        raise ValueError(f"max_events={max_events!r}: accepted is a whole number from 1")
    return _StormCollapser(interval_seconds, max_events, clock)


REPEATED: Final = "repeated"
"""The field that says how many equal events were left out."""


class _Storm:
    """One event that was let through, and what is left out of those equal to it."""

    __slots__ = ("context", "count", "event", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.count = 0
        self.context: contextvars.Context | None = None
        self.event: tuple[str, int, Any, dict[str, Any]] | None = None


class _StormCollapser:
    def __init__(self, interval_seconds: float, max_events: int, clock: Callable[[], float]) -> None:
        self._interval_seconds = interval_seconds
        self._max_events = max_events
        self._clock = clock
        # The oldest first: all have the same interval.
        self._storms: OrderedDict[bytes, _Storm] = OrderedDict()
        # Reentrant: a signal handler may log while this thread is inside.
        self._lock = threading.RLock()
        _collapsers.add(self)

    def __call__(self, record: Any, _method: str, event_dict: Any) -> Any:
        now = self._clock()
        key = _key(event_dict)
        with self._lock:
            over = self._take_over(now)
            storm = self._storms.get(key)
            if storm is None:
                if len(self._storms) >= self._max_events:
                    over.extend(self._take_first())
                self._storms[key] = _Storm(now + self._interval_seconds)
            else:
                storm.count += 1
                if storm.event is None:
                    # Of the first that is left out: its spans and requests are those of the event that was shown.
                    storm.context = contextvars.copy_context()
                    storm.event = _kept(record, event_dict)
        _tell(over)
        if storm is not None:
            from structlog import DropEvent

            raise DropEvent
        return event_dict

    def _take_over(self, now: float) -> list[_Storm]:
        over: list[_Storm] = []
        while self._storms and next(iter(self._storms.values())).until <= now:
            over.extend(self._take_first())
        return over

    def _take_first(self) -> list[_Storm]:
        _, storm = self._storms.popitem(last=False)
        return [storm] if storm.count else []

    def flush(self) -> None:
        """Tell every count."""
        with self._lock:
            over = [storm for storm in self._storms.values() if storm.count]
            self._storms.clear()
        _tell(over)

    def renew(self) -> None:
        """Start anew in the child of a fork: the counts are the parent's."""
        self._lock = threading.RLock()
        self._storms.clear()


def _key(event_dict: Any) -> bytes:
    # As JSON text: 1, 1.0 and True are equal in Python. A digest, because what is compared may be long.
    digest = hashlib.blake2b(digest_size=16)
    for name, value in event_dict.items():
        if name not in _NOT_COMPARED:
            text = f"{name}\0{encode_value(value)}\0"
            digest.update(text.encode("utf-8", "backslashreplace"))
    return digest.digest()


def _kept(record: logging.LogRecord, event_dict: Any) -> tuple[str, int, Any, dict[str, Any]]:
    message = plain(event_dict.get(_names.EVENT))
    extra: dict[str, Any] = {}
    room = _MAX_KEPT_CHARACTERS
    for name, value in event_dict.items():
        # Ours are made anew from the context.
        if name in _names.LINE_FIELDS:
            continue
        room -= len(name) + len(encode_value(value))
        if room < 0:
            break
        # A key that was given our prefix will be given it again.
        extra[name[len(_names.EXTRA_PREFIX) :] if field_name(name) != name else name] = plain(value)
    return record.name, record.levelno, str(message)[:_MAX_KEPT_CHARACTERS], extra


def _tell(storms: list[_Storm]) -> None:
    for storm in storms:
        if storm.event is not None and storm.context is not None:
            storm.context.run(_log, storm.count, *storm.event)


def _log(count: int, name: str, level: int, message: str, extra: dict[str, Any]) -> None:
    # As a record of its own, through all that a record goes through; this processor does not see what it logs.
    own = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": message, REPEATED: count}
    logging.getLogger(name).handle(logging.makeLogRecord({**extra, **own}))


_collapsers: weakref.WeakSet[_StormCollapser] = weakref.WeakSet()


@atexit.register
def _flush() -> None:
    for collapser in list(_collapsers):
        collapser.flush()


def _after_fork_in_child() -> None:
    for collapser in list(_collapsers):
        collapser.renew()


os.register_at_fork(after_in_child=_after_fork_in_child)
