"""The sinks of a settings file: made by the standard library's own configurator, kept while the file says the same."""

from __future__ import annotations

import logging
import sys
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Optional

from ts_otel_logging._settings_file import (
    ANOTHER_PLACE_ACCEPTED,
    SINK_ACCEPTED,
    FileProblem,
    resolved,
    wrong_arguments,
)
from ts_otel_logging._sink_thread import SinkThread

if TYPE_CHECKING:
    from ts_otel_logging._pipeline import Output
    from ts_otel_logging._settings_file import Routes, SettingsFile, Sink


class FileSinks:
    """The handlers of a settings file, behind the queues of one thread.

    Attributes:
        thread: The thread; it is an output, too.
    """

    def __init__(self) -> None:
        self.thread = SinkThread()
        self._built: dict[str, tuple[Any, logging.Handler]] = {}

    def take(self, file: SettingsFile) -> list[FileProblem]:
        """Have the sinks of a file from now on; those that are not in it get what waits for them, and are closed.

        Returns:
            What could not be made.
        """
        if not file.sinks and not self._built:
            return []
        factory = SinkFactory(file)
        before, self._built = self._built, {}
        for sink in file.sinks:
            wanted = (sink.config, file.parts)
            kept = before.get(sink.name)
            handler = kept[1] if kept is not None and kept[0] == wanted else factory.build(sink)
            if handler is None:
                continue
            handler.setLevel(sink.level)
            for old in [item for item in handler.filters if isinstance(item, _Route)]:
                handler.removeFilter(old)
            if file.routes is not None:
                handler.addFilter(_Route(file.routes, sink.name))
            self._built[sink.name] = (wanted, handler)
        self.thread.set_sinks({name: handler for name, (_, handler) in self._built.items()})
        return factory.problems

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What events are to be handed to."""
        return (self.thread,) if self._built else ()


class _Route(logging.Filter):
    """Lets the records of some loggers through."""

    def __init__(self, routes: Routes, sink: str) -> None:
        super().__init__()
        self._reaches = lru_cache(maxsize=1_024)(partial(routes.reaches, sink=sink))

    def filter(self, record: logging.LogRecord) -> bool:
        return self._reaches(record.name)


class SinkFactory:
    """Makes the handlers of a settings file, with the standard library's own configurator.

    Args:
        file: The settings file.
    """

    def __init__(self, file: SettingsFile) -> None:
        self._file = file
        self.problems: list[FileProblem] = []
        self._configurator = self._with_parts()

    def _with_parts(self) -> Any:
        from logging.config import DictConfigurator

        configurator: Any = DictConfigurator({"version": 1, "handlers": {}, **self._file.parts})
        for section, build in (
            ("formatters", configurator.configure_formatter),
            ("filters", configurator.configure_filter),
        ):
            parts = configurator.config.get(section) or {}
            configurator.config[section] = {}
            for name in parts:
                try:
                    configurator.config[section][name] = build(parts[name])
                except Exception as error:  # noqa: BLE001, PERF203 - the user's classes and texts
                    self._refuse(f"{section}.{name}", parts[name], error, "what logging.config.dictConfig accepts")
        return configurator

    def build(self, sink: Sink) -> Optional[logging.Handler]:
        """Make a handler.

        Args:
            sink: What the file says about it.

        Returns:
            The handler, or None with one more of `problems`.
        """
        try:
            # Through the configurator's own mapping: it resolves ext:// and cfg://, and takes out what it uses.
            self._configurator.config["handlers"][sink.name] = dict(sink.config)
            handler: Any = self._configurator.configure_handler(self._configurator.config["handlers"][sink.name])
        except Exception as error:  # noqa: BLE001 - the user's classes and arguments
            kind = sink.config.get("class") or sink.config.get("()")
            factory = resolved(str(kind))
            wrong = wrong_arguments(factory, sink.config) if isinstance(error, TypeError) else []
            for name, accepted in wrong:
                self._tell(f"{sink.key}.{name}", sink.config.get(name, ""), accepted)
            if not wrong and isinstance(error, OSError) and "filename" in sink.config:
                self._refuse(f"{sink.key}.filename", sink.config["filename"], error, "a file that can be written")
            elif not wrong:
                accepted = SINK_ACCEPTED if factory is None else "arguments that it can be made with"
                self._refuse(sink.key, kind, error, accepted)
            return None
        # A target of another handler (logging.handlers.MemoryHandler) is found by its name.
        self._configurator.config["handlers"][sink.name] = handler
        if not isinstance(handler, logging.Handler):
            self._refuse(sink.key, sink.config.get("class"), TypeError("no logging.Handler"), SINK_ACCEPTED)
            return None
        if getattr(handler, "stream", None) in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            # Every event is on the console already; and what a sink prints may itself become an event.
            self._tell(sink.key, type(handler).__name__, ANOTHER_PLACE_ACCEPTED)
            return None
        handler.name = sink.name
        handler.setLevel(sink.level)
        return handler

    def _refuse(self, key: str, value: Any, error: Exception, accepted: str) -> None:
        reason = error if error.__cause__ is None else error.__cause__
        self._tell(key, value, f"{accepted}; {type(reason).__name__}: {reason}")

    def _tell(self, key: str, value: Any, accepted: str) -> None:
        self.problems.append(FileProblem(self._file.path, key, str(value)[:200], accepted))
