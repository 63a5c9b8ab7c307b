"""The order of work on an event: the user's processors, redaction, the outputs. Immutable, swapped whole."""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from ts_otel_logging import _names
from ts_otel_logging._diagnostics import swallowed
from ts_otel_logging._redaction import MASK, Redaction
from ts_otel_logging._values import MAX_ITEMS, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from logging import LogRecord

    from structlog.typing import Processor

    from ts_otel_logging._event import Event, UidSource

_NUMBERS: Final = frozenset({int, float, bool, type(None)})
_NOTHING: Final[Mapping[Any, Any]] = {}
_NONE: Final[frozenset[str]] = frozenset()
_PROCESSOR_FAILED: Final = "processor failed: its effect on the event is lost, nothing else"
_NEVER_SECRET: Final = _names.LINE_FIELDS - {_names.EVENT, _names.EXCEPTION}

Output = Callable[["Event"], None]
"""Takes an event that is ready; must not change it, and must not block on network or disk."""
Process = Callable[["LogRecord", str, dict[str, Any], list[str]], Optional[dict[str, Any]]]
"""See `Pipeline._process`."""


class Pipeline:
    """What happens to an event.

    Args:
        processors: The user's structlog processors. They see a copy of the event as a dict, once for all outputs, may
            change it, or drop it by raising `structlog.DropEvent`. One that raises anything else or returns no dict
            costs its own effect, not the event.
        outputs: Called in their order with every event that was not dropped.
        redaction: Masks secrets after the processors, before the outputs; None leaves everything as it is.
        uids: Where events get ids from; None for those that need none.

    Attributes:
        write_plain: Does all of this with a record that is plain (`_shapes/_plain_records.py`), by a shorter way, and
            returns whether it was; None where there is no such way: in another shape than the default one.
    """

    __slots__ = ("outputs", "processors", "redaction", "uids", "write_plain")

    def __init__(
        self,
        processors: tuple[Processor, ...],
        outputs: tuple[Output, ...],
        redaction: Optional[Redaction] = None,
        uids: Optional[UidSource] = None,
    ) -> None:
        self.processors = processors
        self.outputs = outputs
        self.redaction = redaction
        self.uids = uids
        self.write_plain: Optional[Callable[[LogRecord], bool]] = None
        for_plain_records = getattr(outputs[0], "for_plain_records", None) if outputs else None
        if for_plain_records is not None:
            process = self._process if processors else None
            self.write_plain = for_plain_records(redaction, outputs[1:], uids, process, self._deliver)

    def __call__(self, event: Event) -> None:
        """Process an event and hand it to every output."""
        if self.processors:
            fields = event.as_dict()
            nested = [name for name, value in fields.items() if type(value) in CONTAINERS]
            processed = self._process(event.record, event.level, fields, nested)
            if processed is None:
                return
            event.replace(processed)
        self._deliver(event)

    def _deliver(self, event: Event) -> None:
        if self.redaction is not None:
            _redact(event, self.redaction)
        hand_out(event, self.outputs)

    def _process(
        self, record: LogRecord, level: str, fields: dict[str, Any], nested: list[str]
    ) -> Optional[dict[str, Any]]:
        """Return what the processors make of an event; None if one of them drops it.

        Args:
            record: Its record.
            level: Its level, as structlog names it.
            fields: The event. They get copies.
            nested: Those of them that are dicts and lists.
        """
        running = _running.processors
        outer = tuple(running)
        running.append(None)
        try:
            for processor in self.processors:
                if outer and any(processor is other for other in outer):
                    # It logs itself: its own events are the one thing that it does not see.
                    continue
                running[-1] = processor
                try:
                    # A copy each: what a processor did before it raised must not stay half done.
                    result: Any = processor(record, level, _copy(fields, nested) if nested else fields.copy())
                except BaseException as error:
                    if _is_drop(error):
                        return None
                    if not isinstance(error, Exception):
                        raise
                    swallowed(f"processor {_name(processor)}", error, _PROCESSOR_FAILED)
                    continue
                if type(result) is dict:
                    fields = result
                elif isinstance(result, dict):
                    fields = dict(result)
                else:
                    rubbish = TypeError(f"returned {type(result).__name__}, not a dict")
                    swallowed(f"processor {_name(processor)}", rubbish, _PROCESSOR_FAILED)
        finally:
            running.pop()
        return fields


def hand_out(event: Event, outputs: Iterable[Output]) -> None:
    """Hand an event that is ready to each output; one that fails does not cost the others."""
    for output in outputs:
        try:
            output(event)
        except Exception as error:  # noqa: BLE001, PERF203 - as above
            swallowed("log output", error)


def _is_drop(error: BaseException) -> bool:
    # Who raises it has imported it; who does not use structlog shall not have to wait for its import.
    structlog = sys.modules.get("structlog")
    return structlog is not None and isinstance(error, structlog.DropEvent)


class _Running(threading.local):
    """The processors that this thread is in."""

    def __init__(self) -> None:
        self.processors: list[Optional[Processor]] = []


_running = _Running()
CONTAINERS: Final = frozenset({dict, list})


def _copy(fields: dict[str, Any], nested: list[str]) -> dict[str, Any]:
    copy = dict(fields)
    copies: dict[int, Any] = {}
    for key in nested:
        if type(copy.get(key)) in CONTAINERS:
            copy[key] = _copy_container(copy[key], copies)
    return copy


def _copy_container(value: Any, copies: dict[int, Any]) -> Any:
    """Return a copy of a dict or list and of those in it.

    Other objects, and what is larger than a line could show, are the caller's own, as structlog has it.
    """
    copy = copies.get(id(value))
    if copy is not None:
        return copy
    if len(value) > MAX_ITEMS or len(copies) > MAX_ITEMS:
        return value
    copy = copies[id(value)] = value.copy()
    for key, item in list(copy.items()) if type(copy) is dict else enumerate(copy):
        if type(item) in CONTAINERS:
            copy[key] = _copy_container(item, copies)
    return copy


def _redact(event: Event, redaction: Redaction) -> None:
    try:
        if event.message not in redaction.clean:
            event.message = redaction.text(event.message)
        if event.exception is not None:
            # What processors left alone is plain.
            mask = redaction.value if event.fields is None else partial(_redacted, redaction=redaction)
            event.exception = mask(event.exception)
        if event.fields is None:
            extra = event.extra
            masked = _masked_fields(extra, redaction, _NONE) if extra else _NOTHING
            if masked:
                extra.update(masked)
        else:
            masked = _masked_fields(event.fields, redaction, _NEVER_SECRET)
            if masked:
                event.replace({**event.fields, **masked})
    except Exception as error:  # noqa: BLE001 - whatever it was, what could not be looked through must not leave
        event.message = MASK
        fields = event.as_dict() if event.fields is None else event.fields
        event.replace({key: value if key in _NEVER_SECRET else MASK for key, value in fields.items()})
        swallowed("redaction", error)


def _masked_fields(fields: Mapping[Any, Any], redaction: Redaction, never_secret: frozenset[str]) -> Mapping[Any, Any]:
    """Return those of an event's fields that have secrets, with these masked."""
    clean, hidden = redaction.clean, redaction.hidden
    sees_numbers = redaction.sees_numbers
    masked = _NOTHING
    for key, value in fields.items():
        if hidden[key]:
            new = redaction.hide(value)
        elif type(value) is str:
            if value in clean or key in never_secret:
                continue
            new = redaction.text(value)
        elif sees_numbers or type(value) not in _NUMBERS:
            new = _redacted(value, redaction)
        else:
            continue
        if new is not value:
            masked = {**masked, key: new}
    return masked


def _redacted(value: Any, redaction: Redaction) -> Any:
    # Of an object of any kind what the outputs will show of it; itself, if there is nothing to hide in that.
    shown = plain(value)
    masked = redaction.value(shown)
    return value if masked is shown else masked


def _name(processor: Any) -> str:
    return getattr(processor, "__qualname__", type(processor).__qualname__)
