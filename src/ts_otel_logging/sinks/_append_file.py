"""A file that several processes append whole records to, and that others rename or truncate meanwhile."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Final, Optional

RETRY_SECONDS: Final = 1.0
"""How long to wait after a failure: somebody makes room on the disk, or the folder."""

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY


class AppendFile:
    """Opens a file when it is written to, and again after it was renamed or removed.

    One record is one `os.write` with ``O_APPEND``: on a local file system it stands whole, whatever other processes
    write (POSIX, "write"), and after a truncation at the new end.

    Args:
        filename: Where; relative to the current folder.
        head: The first line of a new or emptied file, with its newline; written once, by whichever process comes first.
        argument: What the caller calls the file's name.

    Raises:
        TypeError: The file's name is no path.
    """

    def __init__(self, filename: str | os.PathLike[str], head: bytes = b"", argument: str = "filename") -> None:
        if not isinstance(filename, (str, os.PathLike)):
            raise TypeError(f"{argument}: accepted is a path, not {filename!r}")
        # Absolute now: TorchServe changes the folder when it loads a model.
        self.filename = os.path.abspath(os.fspath(filename))
        self._head = head
        self._descriptor: Optional[int] = None
        self._is_torn = False

    def write(self, data: bytes) -> None:
        """Append a record.

        Args:
            data: Whole lines.

        Raises:
            OSError: It cannot be opened, or not all could be written.
        """
        descriptor = self._current_descriptor()
        if self._head and not os.fstat(descriptor).st_size:
            self._write_first(descriptor, data)
        else:
            self._write(descriptor, data)

    def _write(self, descriptor: int, data: bytes) -> None:
        if self._is_torn:
            # A full disk took a part of the last record: the next one must not be glued to it.
            data = b"\n" + data
        written = os.write(descriptor, data)
        while written < len(data):
            self._is_torn = True
            data = data[written:]
            written = os.write(descriptor, data)
        self._is_torn = False

    def _write_first(self, descriptor: int, data: bytes) -> None:
        # Whoever finds the file empty asks for the lock, so that the head stands in it once.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            self._write(descriptor, data if os.fstat(descriptor).st_size else self._head + data)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _current_descriptor(self) -> int:
        if self._descriptor is not None:
            mine = os.fstat(self._descriptor)
            with contextlib.suppress(FileNotFoundError):
                there = os.stat(self.filename)
                if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                    return self._descriptor
            self.close()
        self._descriptor = os.open(self.filename, _FLAGS, 0o666)
        return self._descriptor

    def check(self) -> Optional[str]:
        """Return why the file cannot be written to, or None; it is not made by that, nor changed."""
        try:
            os.close(os.open(self.filename, (_FLAGS & ~os.O_CREAT) | os.O_NONBLOCK))
        except FileNotFoundError as error:
            folder = os.path.dirname(self.filename)
            if os.access(folder, os.W_OK | os.X_OK):
                return None
            reason = os.strerror(errno.EACCES) if os.path.isdir(folder) else error.strerror
        except OSError as error:
            reason = error.strerror
        else:
            return None
        return f"{self.filename} cannot be written to: {reason}"

    def close(self) -> None:
        """Close the file; the next record opens it again."""
        descriptor, self._descriptor = self._descriptor, None
        self._is_torn = False
        if descriptor is not None:
            os.close(descriptor)
