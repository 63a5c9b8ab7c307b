"""The order of work on an event: the user's processors, then the outputs. Immutable, swapped whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

import structlog

from ts_otel_logging._diagnostics import swallowed

if TYPE_CHECKING:
    from structlog.typing import Processor

    from ts_otel_logging._event import Event

Output = Callable[["Event"], None]
"""Takes an event that is ready; must not change it, and must not block on network or disk."""


class Pipeline:
    """What happens to an event.

    Args:
        processors: The user's structlog processors. They see a copy of the event as a dict, once for all outputs, may
            change it, or drop it by raising `structlog.DropEvent`. One that raises anything else or returns no dict
            costs its own effect, not the event.
        outputs: Called in their order with every event that was not dropped.
    """

    __slots__ = ("outputs", "processors")

    def __init__(self, processors: tuple[Processor, ...], outputs: tuple[Output, ...]) -> None:
        self.processors = processors
        self.outputs = outputs

    def __call__(self, event: Event) -> None:
        """Process an event and hand it to every output."""
        if self.processors and not self._process(event):
            return
        for output in self.outputs:
            try:
                output(event)
            except Exception as error:  # noqa: BLE001, PERF203 - one output's failure must not cost the others
                swallowed("log output", error)

    def _process(self, event: Event) -> bool:
        fields = event.as_dict()
        for processor in self.processors:
            try:
                # A copy each: what a processor did before it raised must not stay half done.
                result: Any = processor(event.record, event.level, dict(fields))
            except structlog.DropEvent:
                return False
            except Exception as error:  # noqa: BLE001 - the user's code
                swallowed(f"processor {_name(processor)}", error)
                continue
            if isinstance(result, dict):
                fields = result
            else:
                swallowed(f"processor {_name(processor)}", TypeError(f"returned {type(result).__name__}, not a dict"))
        event.replace(fields)
        return True


def _name(processor: Any) -> str:
    return getattr(processor, "__qualname__", type(processor).__qualname__)
