"""Whole lines to a stream: when `write` returns, the line is in the pipe."""

from __future__ import annotations

import fcntl
import multiprocessing.process
import os
import select
import sys
import threading
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Optional, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_WAITING: Final = 1_024
# Loaded by `multiprocessing` as it starts a process, by any of its methods.
_STARTS_PROCESSES: Final = "multiprocessing.popen_fork"

_modules: Final = sys.modules

_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()
# The second is so while a child that was not forked imports its main module (multiprocessing/spawn.py).
_is_forked = multiprocessing.process.parent_process() is not None or hasattr(
    multiprocessing.process.current_process(), "_inheriting"
)
"""Whether another process, parent or child of this one, may write to our streams too."""


class LineWriter:
    """Writes whole lines, never interleaved with another thread's.

    A stream with a descriptor is written by system calls alone, so a line survives SIGKILL of this process as soon as
    `write` returns. Other streams (``io.StringIO``, pytest's capture) are written through their own methods.

    Args:
        stream: A text stream; None means whatever ``sys.stdout`` is now.
    """

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        stream = sys.stdout if stream is None else stream
        self._descriptor = _descriptor(stream)
        self._stream = stream
        # Reentrant: a signal handler or a finalizer may log while this very thread is inside `write`.
        self._lock = threading.RLock()
        self._writing = False
        self._waiting: deque[str] = deque(maxlen=_MAX_WAITING)
        _writers.add(self)

    def write(self, line: str) -> None:
        """Write one line that ends with its newline.

        A line of a signal handler that interrupted this thread's own write comes directly after that one.

        Raises:
            OSError: The reader is gone.
            ValueError: The stream is closed.
        """
        # Up to PIPE_BUF the kernel keeps one write whole (pipe(7)), but a longer line of another thread may be half
        # written just now: the lock is for that, and costs less than finding out.
        # Not by its methods: after `acquire` a signal's handler may raise before `try` is reached.
        with self._lock:
            if self._writing:
                self._waiting.append(line)
                return
            self._writing = True
            try:
                self._put(line)
            finally:
                self._writing = False
                # Asked after the flag is down: what interrupts from now on writes by itself.
                if self._waiting:
                    self._put_waiting()

    def _put_waiting(self) -> None:
        while self._waiting:
            self._writing = True
            try:
                # What interrupted before the flag was up has written them.
                if self._waiting:
                    self._put(self._waiting.popleft())
            finally:
                self._writing = False

    def _put(self, line: str) -> None:
        descriptor = self._descriptor
        if descriptor is None:
            self._stream.write(line)
            self._stream.flush()
            return
        if self._stream.closed:
            # Its descriptor may be another file's by now.
            raise ValueError("the stream is closed")
        data = line.encode("utf-8", "backslashreplace")
        if _is_forked or _STARTS_PROCESSES in _modules:
            with _other_processes_kept_out(descriptor):
                self._finish(descriptor, data)
            return
        try:
            written = os.write(descriptor, data)
        except BlockingIOError:
            written = 0
        if written != len(data):
            self._finish(descriptor, data[written:])

    def _finish(self, descriptor: int, data: bytes) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while data:
            # Somebody may have made the descriptor non-blocking: wait until there is room, losing nothing.
            poll.poll()
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                continue

    def renew(self) -> None:
        """Start anew in the child of a fork: a thread of the parent may have been inside `write`."""
        self._lock = threading.RLock()
        self._writing = False
        self._waiting.clear()


def _descriptor(stream: Any) -> Optional[int]:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError, TypeError):
        return None


@contextmanager
def _other_processes_kept_out(descriptor: int) -> Iterator[None]:
    """Hold the record lock of a stream: longer than PIPE_BUF, another process's line could end up inside ours.

    A lock of fcntl(2) belongs to the process, so that it excludes a forked child, and goes with it when it is killed.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    except OSError:
        # A stream that knows no locks.
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_UN)


def _after_fork_in_parent() -> None:
    global _is_forked  # noqa: PLW0603 - a process's state
    _is_forked = True


def _after_fork_in_child() -> None:
    _after_fork_in_parent()
    # Another thread of the parent may have held a lock at the moment of the fork; it does not exist in the child.
    for writer in list(_writers):
        writer.renew()


os.register_at_fork(after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
