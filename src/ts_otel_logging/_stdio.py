"""``sys.stdout`` and ``sys.stderr`` as events: what Python code prints belongs to the request that printed it.

Only Python's two stream objects are replaced. Descriptors 1 and 2 are neither redirected nor made non-blocking: native
code that writes into a pipe of its own process while it holds the interpreter's lock waits for ever. What native code,
a subprocess or ``sys.__stdout__`` writes goes to the frontend as it is, whose layout makes an event of each line.
"""

from __future__ import annotations

import _thread
import atexit
import contextvars
import functools
import inspect
import io
import logging
import os
import sys
import threading
import traceback
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Callable, Final

from ts_otel_logging import _scope
from ts_otel_logging._values import plain

if TYPE_CHECKING:
    from types import TracebackType

Emit = Callable[[logging.LogRecord], Any]
"""Makes an event of a record; raises nothing."""

# What may be printed without an end of line before it is an event all the same.
_MAX_PARTIAL_BYTES: Final = 64 * 1024


class Capture:
    """Replaces Python's standard streams, and the hooks that print uncaught exceptions, until `undo`.

    Args:
        emit: Makes the events. What is printed to ``stdout`` is INFO, to ``stderr`` WARNING, as TorchServe's frontend
            has it; an uncaught exception is ERROR, that of the main thread CRITICAL.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._undo = ExitStack()
        self._printed: list[_Printed] = []
        for name, level in (("stdout", logging.INFO), ("stderr", logging.WARNING)):
            original = getattr(sys, name)
            # A process without a console, or one whose streams are somebody else's own objects (a notebook, a test).
            if isinstance(original, io.TextIOWrapper):
                printed = _Printed(original, name, level, emit)
                self._printed.append(printed)
                self._replace(sys, name, _Stream(printed))
        for module, name in ((traceback, "print_exception"), (traceback, "print_list")):
            self._replace(module, name, _at_once(getattr(module, name)))
        self._replace(sys, "excepthook", self._uncaught(sys.excepthook))
        self._replace(threading, "excepthook", self._uncaught_in_thread(threading.excepthook))
        self._replace(sys, "unraisablehook", self._unraisable(sys.unraisablehook))
        atexit.register(self.undo)

    def undo(self) -> None:
        """Put everything back that is still ours, and make events of what has no end of line."""
        atexit.unregister(self.undo)
        self._undo.close()
        for printed in self._printed:
            printed.end_all()

    def end_lines(self) -> None:
        """Make events of what was printed without an end of line: by this thread, and for the request that ends now."""
        for printed in self._printed:
            if printed.has_begun():
                scope = _scope.current()
                printed.end()
                printed.end_of((scope, *scope.members))

    def _replace(self, module: Any, name: str, replacement: Any) -> None:
        original = getattr(module, name)

        def restore() -> None:
            # Somebody who came after us keeps what he set.
            if getattr(module, name) is replacement:
                setattr(module, name, original)

        self._undo.callback(restore)
        setattr(module, name, replacement)

    def _uncaught(self, previous: Callable[..., Any]) -> Callable[..., None]:
        def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self._tell("sys.excepthook", logging.CRITICAL, "uncaught exception", error, trace)
            if previous is not sys.__excepthook__:
                previous(kind, error, trace)

        return excepthook

    def _uncaught_in_thread(self, previous: Callable[..., Any]) -> Callable[..., None]:
        def excepthook(args: threading.ExceptHookArgs) -> None:
            # As Python's own: a thread may end by sys.exit().
            if args.exc_type is not SystemExit and args.exc_value is not None:
                thread = args.thread.name if args.thread else "unknown"
                text = f"uncaught exception in thread {thread}"
                self._tell("threading.excepthook", logging.ERROR, text, args.exc_value, args.exc_traceback)
            if previous is not _thread._excepthook:  # noqa: SLF001 - 3.9 has no other name
                previous(args)

        return excepthook

    def _unraisable(self, previous: Callable[..., Any]) -> Callable[..., None]:
        def unraisablehook(args: Any) -> None:
            if args.exc_value is not None:
                text = f"{args.err_msg or 'exception ignored in'}: {plain(args.object)}"
                self._tell("sys.unraisablehook", logging.ERROR, text, args.exc_value, args.exc_traceback)
            if previous is not sys.__unraisablehook__:
                previous(args)

        return unraisablehook

    def _tell(self, logger: str, level: int, text: str, error: BaseException, trace: TracebackType | None) -> None:
        for printed in self._printed:
            printed.end()
        exc_info = (type(error), error, trace or error.__traceback__)
        self._emit(logging.LogRecord(logger, level, "", 0, text, None, exc_info))


# What waits for its end of line: the text, the requests that it was printed for, and the context in which it was, for
# whoever ends it may be at work for another request. No class of its own, which would cost every print.
_Begun = tuple[bytes, _scope.Scope, contextvars.Context]


class _Printed(io.BufferedIOBase):
    """What is printed to one stream, as bytes; the lower half of a text stream.

    A write that ends with a newline is one event, however many lines it has. One that does not waits for the rest, in
    the thread that made it and for the request that it was made for. What a carriage return would overwrite on a screen
    is left out.
    """

    mode = "wb"

    def __init__(self, original: io.TextIOWrapper, name: str, level: int, emit: Emit) -> None:
        super().__init__()
        self.name = f"<{name}>"
        self._original = original
        self._logger = name
        self._level = level
        self._emit = emit
        self._ended = False
        # By thread: two threads that print by pieces must not have them mixed. Not by the thread's ident, which the
        # next thread may get.
        self._begun: dict[threading.Thread, _Begun] = {}
        self._emitting = threading.local()
        os.register_at_fork(after_in_child=self._begun.clear)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._original.fileno()

    def isatty(self) -> bool:
        return self._original.isatty()

    def flush(self) -> None:
        """Do nothing: a line that is not ended may still be added to, or overwritten as progress bars are."""

    def write(self, data: Any) -> int:
        written = bytes(data)
        if self._ended or getattr(self._emitting, "active", False):
            # Somebody kept the stream; or a processor or a sink prints: an event of that would call it again.
            with suppress(ValueError):
                self._original.write(written.decode("utf-8", "backslashreplace"))
                self._original.flush()
            return len(written)
        thread = threading.current_thread()
        scope = _scope.current()
        text = written
        begun = self._begun.pop(thread, None)
        if begun is not None:
            if begun[1] is scope:
                text = begun[0] + written
            else:
                self._tell_begun(begun)
        if text.endswith(b"\n") or len(text) > _MAX_PARTIAL_BYTES:
            self._tell(text)
        elif text:
            if self._begun:
                self._end_dead()
            if b"\r" in text:
                text = _shown(text) + (b"\r" if text.endswith(b"\r") else b"")
            self._begun[thread] = (text, scope, contextvars.copy_context())
        return len(written)

    def has_begun(self) -> bool:
        """Return whether any line waits for its end."""
        return bool(self._begun)

    def end(self) -> None:
        """End this thread's line."""
        if self._begun:
            begun = self._begun.pop(threading.current_thread(), None)
            if begun is not None:
                self._tell_begun(begun)

    def end_of(self, scopes: tuple[_scope.Scope, ...]) -> None:
        """End the lines of requests, whichever thread has begun them, and those of threads that are no more."""
        if self._begun:
            self._end_dead()
            for thread, (_, scope, _) in list(self._begun.items()):
                if scope in scopes:
                    self._end_of_thread(thread)

    def _end_dead(self) -> None:
        for thread in list(self._begun):
            if not thread.is_alive():
                self._end_of_thread(thread)

    def _end_of_thread(self, thread: threading.Thread) -> None:
        # Its own thread may have ended it in between.
        begun = self._begun.pop(thread, None)
        if begun is not None:
            self._tell_begun(begun)

    def end_all(self) -> None:
        """End every thread's line, and write what is printed from now on as it is."""
        self._ended = True
        while self._begun:
            self._tell_begun(self._begun.popitem()[1])

    def _tell_begun(self, begun: _Begun) -> None:
        text, _, context = begun
        context.run(self._tell, text)

    def _tell(self, text: bytes) -> None:
        # An empty line has nothing to say.
        message = _shown(text).decode("utf-8", "backslashreplace").rstrip("\n")
        if not message.strip():
            return
        self._emitting.active = True
        try:
            self._emit(logging.LogRecord(self._logger, self._level, "", 0, message, None, None))
        finally:
            self._emitting.active = False


def _shown(text: bytes) -> bytes:
    """Return what a screen would show of lines: in each the part behind its last carriage return."""
    if b"\r" not in text:
        return text
    return b"\n".join(line.rstrip(b"\r").rpartition(b"\r")[2] for line in text.split(b"\n"))


class _Stream(io.TextIOWrapper):
    """A standard stream of Python whose text goes to `_Printed`, with everything that programs ask a stream."""

    def __init__(self, printed: _Printed) -> None:
        # No character that somebody prints is an error: there is a way to write each.
        super().__init__(printed, "utf-8", "backslashreplace", newline="\n", write_through=True)
        # As `open` sets it, whatever the type says.
        self.mode = "w"  # type: ignore[misc]


def _at_once(print_lines: Callable[..., None]) -> Callable[..., None]:
    """Return a function of `traceback` that prints its lines in one write, if it prints them to one of our streams."""
    signature = inspect.signature(print_lines)

    @functools.wraps(print_lines)
    def print_at_once(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        target = bound.arguments.get("file") or sys.stderr
        if not isinstance(target, _Stream):
            print_lines(*args, **kwargs)
            return
        bound.arguments["file"] = lines = io.StringIO()
        print_lines(*bound.args, **bound.kwargs)
        target.write(lines.getvalue())

    return print_at_once
