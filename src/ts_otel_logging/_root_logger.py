"""Our handler on the root logger, and what the program's own logging does to it."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Callable, Optional

from ts_otel_logging import _diagnostics, _structlog
from ts_otel_logging._bridge import ProtocolHandler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ts_otel_logging._bridge import BridgeHandler


class RootLogger:
    """The root logger with our handler on it.

    A model's code that configures logging anew removes the handler; it is put back once. A second removal is respected.

    Args:
        handler: Our handler.
        report: Tells an event with fields.

    Attributes:
        protocol_loggers: The names of the loggers whose lines must get out wherever our handler is.
    """

    def __init__(self, handler: BridgeHandler, report: Callable[..., None]) -> None:
        self._handler = handler
        self._report = report
        self._protocol = ProtocolHandler(handler)
        self.protocol_loggers: tuple[str, ...] = ()
        self._console_streams: dict[str, Any] = {}
        # How often the model's code has removed our handler, and whether it stays away for now.
        self._removals = 0
        self._stays_away = False
        self._told_rendering = False

    def add_handler(self, console_streams: Iterable[str]) -> None:
        """Put our handler on.

        Args:
            console_streams: The names in `sys` of the streams that end where our lines do.
        """
        self._console_streams = {name: getattr(sys, name) for name in console_streams}
        logging.root.addHandler(self._handler)

    def remove_handler(self) -> None:
        """Take our handler off, wherever it is."""
        self._leave_small_loggers()
        self._handler.unmute()
        logging.root.removeHandler(self._handler)

    @property
    def has_lost_handler(self) -> bool:
        """Whether our handler was removed and that is not known yet."""
        return self._handler not in logging.root.handlers and not self._stays_away

    def restore_handler(self, *, is_on: bool) -> Optional[str]:
        """Put our handler back after a model's code removed it; once, the second time is respected.

        Args:
            is_on: Whether the handler writes events.

        Returns:
            What is to be told of it.
        """
        if not self.has_lost_handler:
            return None
        self._removals += 1
        if self._removals > 1 or not is_on:
            self._stay_away()
            return "log handler stays away: the model's code has removed it again" if self._removals > 1 else None
        logging.root.addHandler(self._handler)
        logging.root.setLevel(min(logging.root.level, logging.INFO))
        return "log handler put back: the model's code had removed it"

    def come_back(self) -> None:
        """Be there again, now that the handler writes events, if it stays away only because it did not."""
        if self._stays_away and self._removals == 1:
            self._stays_away = False
            self._leave_small_loggers()
            logging.root.addHandler(self._handler)
            self.look_at_other_output()

    def step_aside(self) -> None:
        """Leave the console to the model's own handlers, now that ours writes no events, if it has any."""
        # As TorchServe's own handler, which the model's code would have removed.
        if self._removals:
            self._stay_away()

    def look_at_other_output(self) -> None:
        """See what the program's own logging does to our lines; said once for each thing that is found."""
        # Those from before the capture, and those that hold now.
        streams = [*self._console_streams.values(), *(getattr(sys, name) for name in self._console_streams)]
        muted = {} if self._stays_away else self._handler.mute_doubles(streams)
        if muted:
            self._report(
                "console handlers muted: their records are lines of this package already",
                level=logging.INFO,
                loggers=list(muted.values()),
            )
        if _structlog.is_rendering() and not self._told_rendering:
            self._told_rendering = True
            self._report(
                "structlog is configured to render text, which is the event now: for fields let its last processor be "
                "structlog.stdlib.render_to_log_kwargs or structlog.stdlib.ProcessorFormatter.wrap_for_formatter"
            )

    def leave_protocol_lines(self, streams: tuple[Any, ...]) -> None:
        """Let protocol lines go out once: not by us where another handler prints them as they are already.

        Args:
            streams: Those that end on standard output as they are written.
        """
        others = (handler for handler in logging.root.handlers if handler is not self._handler)
        self._handler.leave_passthrough_to(others, streams)

    def _stay_away(self) -> None:
        """Leave the root logger to the model's code; reports of ours, and TorchServe's metrics, still get out."""
        self._stays_away = True
        logging.root.removeHandler(self._handler)
        ours = logging.getLogger(_diagnostics.LOGGER_NAME)
        ours.addHandler(self._handler)
        ours.propagate = False
        for name in self.protocol_loggers:
            logging.getLogger(name).addHandler(self._protocol)

    def _leave_small_loggers(self) -> None:
        ours = logging.getLogger(_diagnostics.LOGGER_NAME)
        if self._handler in ours.handlers:
            ours.removeHandler(self._handler)
            ours.propagate = True
        for name in self.protocol_loggers:
            logging.getLogger(name).removeHandler(self._protocol)
