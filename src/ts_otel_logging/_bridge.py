"""The bridge: standard `logging` records through structlog's processors to a JSON line and an OTLP log record."""

from __future__ import annotations

import logging
import os
import sys
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Callable, Optional, TextIO

from ts_otel_logging import _config, _names
from ts_otel_logging._caps import cut_event
from ts_otel_logging._diagnostics import swallowed
from ts_otel_logging._event import Event, UidSource
from ts_otel_logging._line_writer import LineWriter
from ts_otel_logging._pipeline import Output, Pipeline, Process
from ts_otel_logging._redaction import MASK, Redaction
from ts_otel_logging._shapes import Shape, build_shape
from ts_otel_logging._shapes._plain_records import PlainRecords
from ts_otel_logging._shapes._structlog import StructlogShape
from ts_otel_logging._sink_output import SinkOutput
from ts_otel_logging._values import encode_plain, text_of, utf8

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry._logs import LoggerProvider
    from structlog.typing import Processor


class BridgeHandler(logging.Handler):
    """A `logging` handler that writes each record as one line of JSON, with the trace ids of the current span.

    When a log call returns, its line has been written. A call never raises and never loses the event. What a line looks
    like is the renderer's to say: a formatter (`setFormatter`) is not used.

    Example:
        >>> logging.basicConfig(handlers=[BridgeHandler()], level=logging.INFO)

    Args:
        processors: structlog processors; they get a copy of every event as a dict, may change it, or drop it by
            raising `structlog.DropEvent`.
        renderer: The name of a shape (``structlog``, ``otel``, ``ecs``, ``gcp``, ``datadog``, ``console``), or a
            structlog renderer: a callable like `structlog.processors.JSONRenderer()` that turns the dict into the line.
        stream: Where lines go; ``sys.stdout`` by default. With a descriptor it is written by system calls, past
            Python's buffer.
        logger_provider: An OpenTelemetry LoggerProvider that gets every event as an OTLP log record as well.
        sinks: Further `logging` handlers, which get the record with its processed message and fields.
        max_record_bytes: The longest line, its newline included; a longer one is cut to valid JSON and marked with
            ``truncated``.
        redact: What is masked in every output, besides the built-in lists: names of keys, regular expressions in
            slashes, ``email``, ``card``.
        resource: What this process is, as OpenTelemetry's resource attributes, for the shapes that name the service;
            by default the provider's, else what ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` say.

    Raises:
        ValueError: The renderer is a name that is no shape, or an item of `redact` cannot be used.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the contract's signature
        self,
        processors: Iterable[Processor] = (),
        renderer: Optional[Any] = None,
        stream: Optional[TextIO] = None,
        logger_provider: Optional[LoggerProvider] = None,
        sinks: Iterable[logging.Handler] = (),
        max_record_bytes: int = 16_000,
        redact: Iterable[str] = (),
        resource: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__()
        self._writer = LineWriter(stream)
        self._max_record_bytes = max_record_bytes
        self._processors = tuple(processors)
        self._otlp: Optional[Output] = None
        self._uids: Optional[UidSource] = None
        self._build_shape: Callable[[Any], Shape] = lambda renderer: _shape(renderer, stream, resource, logger_provider)
        if logger_provider is not None:
            from ts_otel_logging._otlp_log import NOT_EXPORTED, OtlpLogOutput

            self._otlp = OtlpLogOutput(logger_provider)
            # Where there are two copies to tell apart: whoever drops lines by it would lose the only one.
            self._uids = _uid_source(NOT_EXPORTED)
        self._redaction = Redaction(redact)
        self.switch(renderer, outputs=map(SinkOutput, sinks))
        self.passthrough: Optional[Callable[[logging.LogRecord], bool]] = None
        """Says which records are not events but lines of somebody's protocol, written as they are."""
        self._others: tuple[logging.StreamHandler[Any], ...] = ()
        self._muted: list[logging.StreamHandler[Any]] = []
        self._threshold = logging.NOTSET
        self._thresholds: Optional[_Thresholds] = None

    def switch(self, renderer: Optional[Any] = None, *, otlp_logs: bool = True, outputs: Iterable[Output] = ()) -> None:
        """Let later events be lines of a shape and go to these outputs, all in one step.

        Args:
            renderer: As for the class.
            otlp_logs: Whether the logger provider gets them.
            outputs: What else gets them, after the line and the OTLP record.
        """
        line = _LineOutput(self._build_shape(renderer), self._writer, self._max_record_bytes)
        otlp = (self._otlp,) if otlp_logs and self._otlp is not None else ()
        self._is_stock = False
        uids = self._uids if otlp else None
        self.pipeline = Pipeline(self._processors, (line, *otlp, *outputs), self._redaction, uids)

    def add_output(self, output: Output) -> None:
        """Hand every event to one more output, after the others."""
        pipeline = self.pipeline
        outputs = *pipeline.outputs, output
        self.pipeline = Pipeline(pipeline.processors, outputs, pipeline.redaction, pipeline.uids)

    def set_redaction(self, redaction: Redaction) -> None:
        """Mask in every later event what this says."""
        self._redaction = redaction
        pipeline = self.pipeline
        self.pipeline = Pipeline(pipeline.processors, pipeline.outputs, redaction, pipeline.uids)

    def switch_to_stock(self) -> None:
        """Let later events be what a worker of TorchServe prints by itself: messages, still masked, on stdout alone."""
        from ts_otel_logging._shapes._stock import stock_text

        self._is_stock = True
        self.pipeline = Pipeline((), (_LineOutput(stock_text, self._writer, sys.maxsize),), self._redaction)

    def createLock(self) -> None:  # noqa: N802 - the base class's name
        """Go without the base class's lock: the line writer has the one lock that is needed."""
        self.lock = None

    def set_thresholds(self, level: int, levels: Mapping[str, int]) -> None:
        """Let records below a level make no event; unlike the handler's own level this lets protocol lines pass.

        Args:
            level: For every logger that is not named.
            levels: By logger; its children follow it.
        """
        self._threshold = level
        self._thresholds = _Thresholds(level, levels) if levels else None

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record as an event. Nothing is raised.

        The base class's method would take a lock and call `emit`: here one call does it all.
        """
        try:
            if self.filters:
                passed: Any = self.filter(record)
                if not passed:
                    return False
                if isinstance(passed, logging.LogRecord):
                    record = passed
            if self.passthrough is not None and self.passthrough(record):
                self._write_through(record)
            # Not by _threshold_of: one call less for every record.
            elif record.levelno >= (self._threshold if self._thresholds is None else self._thresholds[record.name]):
                pipeline = self.pipeline
                if pipeline.write_plain is not None and pipeline.write_plain(record):
                    return True
                event = Event(record)
                uids = pipeline.uids
                if uids is not None and not event.logger.startswith(uids.not_for):
                    event.uid = uids.next()
                pipeline(event)
        except Exception as error:  # noqa: BLE001 - the shield
            try:
                self._write_anyway(record, error)
            except RecursionError:
                # The caller is at the very end of its stack: its next call fails by itself.
                return False
        return True

    def _write_anyway(self, record: logging.LogRecord, error: Exception) -> None:
        # Whatever went wrong, the event must not be lost: the least that can be said of it.
        message = MASK
        try:
            redaction = self.pipeline.redaction
            text = text_of(record.msg)
            message = text if redaction is None else redaction.text(text)
        except Exception as failure:  # noqa: BLE001 - what could not be looked through must not leave
            swallowed("redaction", failure)
        # A character takes at most six bytes, escaped; there are three texts, and names around them.
        most = max(1, (self._max_record_bytes - 150) // 18)
        try:
            fields = {
                _names.TIMESTAMP: datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                _names.LEVEL: utf8(text_of(record.levelname).lower())[:most],
                _names.LOGGER: utf8(text_of(record.name))[:most],
                _names.EVENT: utf8(message)[:most],
            }
            self._writer.write(encode_plain(fields) + "\n")
        except Exception as failure:  # noqa: BLE001 - the reader is gone; nothing is left to write to
            swallowed("line", failure)
        swallowed("bridge", error)

    def mute_doubles(self, streams: Iterable[Any]) -> dict[logging.StreamHandler[Any], str]:
        """Let the stream handlers of this process leave out what this handler, on the root logger, writes already.

        A handler stays where it is, and goes on writing what does not come here: records of loggers that do not
        propagate, and those below our level. Handlers with an ``emit`` of their own are left alone.

        Args:
            streams: Those that end where our lines do.

        Returns:
            The handlers that were found now, and not before, with the name of their logger.
        """
        streams = [stream for stream in streams if stream is not None]
        loggers = [logging.root, *list(logging.root.manager.loggerDict.values())]
        found = {
            handler: logger.name
            for logger in loggers
            if isinstance(logger, logging.Logger)
            for handler in logger.handlers
            if isinstance(handler, logging.StreamHandler)
            and type(handler).emit is logging.StreamHandler.emit
            and any(handler.stream is stream for stream in streams)
            and self.leaves_to_others not in handler.filters
        }
        for handler in found:
            handler.addFilter(self.leaves_to_others)
        self._muted.extend(found)
        return found

    def unmute(self) -> None:
        """Let the handlers that `mute_doubles` found write everything again."""
        while self._muted:
            self._muted.pop().removeFilter(self.leaves_to_others)

    def leaves_to_others(self, record: logging.LogRecord) -> bool:
        """Return whether a record does not become a line of ours."""
        logger = logging.root if record.name == "root" else logging.root.manager.loggerDict.get(record.name)
        while isinstance(logger, logging.Logger) and logger is not logging.root:
            if not logger.propagate:
                return True
            logger = logger.parent
        if logger is None or self._is_stock or self not in logging.root.handlers or record.levelno < self.level:
            return True
        return record.levelno < self._threshold_of(record) and not (
            self.passthrough is not None and self.passthrough(record)
        )

    def _threshold_of(self, record: logging.LogRecord) -> int:
        return self._threshold if self._thresholds is None else self._thresholds[record.name]

    def leave_passthrough_to(self, handlers: Iterable[logging.Handler], streams: tuple[Any, ...]) -> None:
        """Let protocol lines go out once: not by us where one of the handlers prints them as they are already.

        Args:
            handlers: Other handlers of the root logger.
            streams: Those that end on standard output as they are written.
        """
        self._others = tuple(
            handler
            for handler in handlers
            if isinstance(handler, logging.StreamHandler)
            and any(handler.stream is stream for stream in streams)
            and handler not in self._muted
        )

    def write_protocol_line(self, record: logging.LogRecord) -> None:
        """Write a record as it is if it is a protocol line; else do nothing."""
        if self.passthrough is not None and self.passthrough(record):
            self._write_through(record)

    def write_unrecorded(self, logger: logging.Logger, text: str) -> bool:
        """Write a protocol line of a logger's at INFO without making a record, if nobody else would get that one.

        Args:
            logger: Whose line it is.
            text: The line, without its end.

        Returns:
            Whether it was written, or lost with its reader.
        """
        if self.passthrough is None or self.filters or logger.filters or not logger.isEnabledFor(logging.INFO):
            return False
        node: Optional[logging.Logger] = logger
        while node is not None and node is not logging.root:
            if node.handlers or not node.propagate:
                return False
            node = node.parent
        handlers = logging.root.handlers
        if node is None or len(handlers) != 1 or handlers[0] is not self:
            return False
        try:
            self._writer.write(text + "\n")
        except Exception as error:  # noqa: BLE001 - as for a record
            swallowed("line", error)
        return True

    def _write_through(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if not any(record.levelno >= other.level and other.format(record) == line for other in self._others):
            self._writer.write(line + "\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as an event: what wrappers of handlers call."""
        self.handle(record)


class ProtocolHandler(logging.Handler):
    """Writes the protocol lines of a bridge, and nothing else, where the bridge itself is on no logger.

    Args:
        bridge: Knows them, and writes them.
    """

    def __init__(self, bridge: BridgeHandler) -> None:
        super().__init__()
        self._bridge = bridge

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as it is if it is a protocol line."""
        try:
            self._bridge.write_protocol_line(record)
        except Exception as error:  # noqa: BLE001 - the shield
            swallowed("protocol line", error)


class _Thresholds(dict[str, int]):
    """The level of each logger: its own or its nearest named ancestor's."""

    def __init__(self, level: int, levels: Mapping[str, int]) -> None:
        super().__init__(levels)
        self._level = level

    def __missing__(self, name: str) -> int:
        parent = name.rpartition(".")[0]
        level = self[name] = self[parent] if parent else self._level
        return level


@lru_cache(maxsize=1)
def _uid_source(not_for: tuple[str, ...]) -> UidSource:
    return UidSource(not_for)


class _LineOutput:
    """Renders events and writes their lines.

    Args:
        shape: Turns an event into its line.
        writer: Takes whole lines.
        max_record_bytes: A longer line is cut to this size and marked.
    """

    def __init__(self, shape: Shape, writer: LineWriter, max_record_bytes: int) -> None:
        self._shape = shape
        self._writer = writer
        # A character takes at most four bytes of UTF-8, so only a line longer than this may be over the limit.
        self._max_record_bytes = max_record_bytes
        self._surely_fits = max_record_bytes // 4

    def __call__(self, event: Event) -> None:
        """Write the event's line."""
        try:
            line = self._shape(event)
            if len(line) > self._surely_fits and self._is_too_long(line):
                line = cut_event(event, self._shape, self._max_record_bytes - 1)
        except Exception as error:  # noqa: BLE001 - a renderer of the user's: the event must not be lost with it
            self._write_in_default_shape(event)
            swallowed("renderer", error)
            return
        self._writer.write(line + "\n")

    def for_plain_records(
        self,
        redaction: Optional[Redaction],
        others: tuple[Output, ...],
        uids: Optional[UidSource],
        process: Optional[Process],
        deliver: Output,
    ) -> Optional[Callable[[logging.LogRecord], bool]]:
        """Return what writes plain records by a shorter way, as `Pipeline` takes it; None where this shape has none."""
        if redaction is None or type(self._shape) is not StructlogShape:
            return None
        write, surely_fits = self._writer.write, self._surely_fits
        return PlainRecords(self._shape, redaction, write, surely_fits, others, uids, process, deliver).write

    def _is_too_long(self, line: str) -> bool:
        return len(line.encode("utf-8", "backslashreplace")) >= self._max_record_bytes

    def _write_in_default_shape(self, event: Event) -> None:
        shape = build_shape("structlog", {}, colors=False)
        line = shape(event)
        if self._is_too_long(line):
            line = cut_event(event, shape, self._max_record_bytes - 1)
        self._writer.write(line + "\n")


class _RendererShape:
    """A structlog renderer in a shape's place."""

    def __init__(self, renderer: Callable[[Any, str, dict[str, Any]], Any]) -> None:
        self._renderer = renderer

    def __call__(self, event: Event) -> str:
        fields = event.as_dict() if event.fields is None else dict(event.fields)
        line = self._renderer(event.record, event.level, fields)
        if isinstance(line, (bytes, bytearray)):
            return bytes(line).decode("utf-8")
        if not isinstance(line, str):
            raise TypeError(f"the renderer returned {type(line).__name__}, not a line")
        return line


def _shape(
    renderer: Optional[Any], stream: Optional[TextIO], resource: Optional[Mapping[str, Any]], provider: Any
) -> Shape:
    if renderer is not None and not isinstance(renderer, str):
        return _RendererShape(renderer)
    if resource is None:
        # The SDK's providers know theirs.
        resource = getattr(getattr(provider, "resource", None), "attributes", None)
    return build_shape(
        renderer or "structlog",
        _config.resource_attributes(os.environ) if resource is None else resource,
        colors=_config.is_coloured(os.environ, sys.stdout if stream is None else stream),
    )
