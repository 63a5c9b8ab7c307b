"""Whole lines to a stream: when `write` returns, the line is in the pipe."""

from __future__ import annotations

import os
import select
import sys
import threading
import weakref
from typing import Any, Optional, TextIO

_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()


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
        # Reentrant: a signal handler may log while this very thread is inside `write`.
        self._lock = threading.RLock()
        _writers.add(self)

    def write(self, line: str) -> None:
        """Write one line that ends with its newline.

        Raises:
            OSError: The reader is gone.
            ValueError: The stream is closed.
        """
        if self._descriptor is None:
            with self._lock:
                self._stream.write(line)
                self._stream.flush()
            return
        if self._stream.closed:
            # Its descriptor may be another file's by now.
            raise ValueError("the stream is closed")
        data = line.encode("utf-8")
        # Up to PIPE_BUF the kernel keeps one write whole (pipe(7)), but a longer line of another thread may be half
        # written just now: the lock is for that, and costs less than finding out.
        with self._lock:
            try:
                written = os.write(self._descriptor, data)
            except BlockingIOError:
                written = 0
            if written != len(data):
                self._finish(data[written:])

    def _finish(self, data: bytes) -> None:
        descriptor = self._descriptor
        assert descriptor is not None  # noqa: S101 - only called for streams with one
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while data:
            # Somebody made the descriptor non-blocking: wait until there is room, losing nothing.
            poll.poll()
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                continue

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()


def _descriptor(stream: Any) -> Optional[int]:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError, TypeError):
        return None


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held a lock at the moment of the fork; it does not exist in the child.
    for writer in list(_writers):
        writer._renew_lock()  # noqa: SLF001 - same module


os.register_at_fork(after_in_child=_after_fork_in_child)
