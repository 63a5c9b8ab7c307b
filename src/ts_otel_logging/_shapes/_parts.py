"""What the shapes of other publishers have in common."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Final

from ts_otel_logging import _names
from ts_otel_logging._values import encode_plain, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_otel_logging._event import Event

_MAX_CACHED: Final = 1_024


def fields_of(event: Event) -> dict[str, Any]:
    """Return what a line shows of an event: itself, or what the user's processors made of it. Not to be changed."""
    return event.as_dict() if event.fields is None else event.fields


class UtcTime:
    """Gives times as ISO 8601 in UTC, with microseconds and a ``Z``."""

    def __init__(self) -> None:
        # Swapped whole: threads need no lock.
        self._second: tuple[int, str] = (-1, "")

    def __call__(self, time_micros: int) -> str:
        """Return a time.

        Args:
            time_micros: Microseconds since the epoch.
        """
        second, micros = divmod(time_micros, 1_000_000)
        cached_second, text = self._second
        if cached_second != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = (second, text)
        return f"{text}{micros:06d}Z"


class CallersNames:
    """Gives the names under which a caller's keys stand in a line, away from those that mean something there.

    Args:
        is_taken: Says whether a name means something to the line's reader.
    """

    def __init__(self, is_taken: Callable[[str], bool]) -> None:
        self._is_taken = is_taken
        self._cache: dict[str, str] = {}

    def __call__(self, key: str) -> str:
        """Return the name for a key of an event's fields."""
        name = self._cache.get(key)
        if name is None:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            name = self._cache[key] = self._name(key)
        return name

    def _name(self, key: str) -> str:
        bare = key
        # However often prefixed, as in `_event.field_name`, which has moved what collides with a name of ours already.
        while bare.startswith(_names.EXTRA_PREFIX):
            bare = bare[len(_names.EXTRA_PREFIX) :]
        moved = bare != key and bare in _names.LINE_FIELDS
        return _names.EXTRA_PREFIX + key if self._is_taken(bare) and not moved else key


def exception_texts(exception: Any) -> dict[str, str]:
    """Return an exception's ``type``, ``message`` and ``stacktrace`` as texts, as many as are known.

    Args:
        exception: An event's, or what a user's processor made of it.
    """
    if isinstance(exception, dict):
        return {key: _text(exception[key]) for key in ("type", "message", "stacktrace") if key in exception}
    return {"stacktrace": _text(exception)}


def _text(value: Any) -> str:
    shown = plain(value)
    return shown if isinstance(shown, str) else encode_plain(shown)


def environment_of(resource: Mapping[str, Any]) -> Any:
    """Return the deployment's name, ``production`` for instance, or None.

    The attribute had another name until semantic conventions 1.27
    (https://opentelemetry.io/docs/specs/semconv/resource/deployment-environment/).
    """
    return resource.get("deployment.environment.name") or resource.get("deployment.environment")
