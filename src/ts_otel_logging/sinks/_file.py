"""Records as lines of a text file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Optional

from ts_otel_logging.sinks._append_file import RETRY_SECONDS, AppendFile
from ts_otel_logging.sinks._record import timestamp, trace_fields

if TYPE_CHECKING:
    import os


class TimestampedFileHandler(logging.Handler):
    """Appends each record to a file, with its time in front.

    A record is in the file when the call returns. It is one write, so several processes may share the file without a
    torn line. A file that was renamed or removed, as logrotate does, is opened anew; one that was truncated
    (``copytruncate``) goes on at its new end. Further lines of a record, a traceback's say, begin with a tab: whatever
    begins with a time is a record.

    Without a formatter a record is its level, its logger, its message, and in a span the trace and span id. A formatter
    takes the place of all but the time.

    Example:
        >>> logging.getLogger().addHandler(TimestampedFileHandler("/var/log/custom.log"))

    Args:
        filename: The file; its folder must be there. It is made with the first record.

    Raises:
        TypeError: The file's name is no path.

    Attributes:
        retry_seconds: Behind the queue, how long to wait before a record that could not be written is tried again.
    """

    retry_seconds: Final = RETRY_SECONDS

    def __init__(self, filename: str | os.PathLike[str]) -> None:
        super().__init__()
        self._file = AppendFile(filename)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            text = f"{timestamp(record)} {self.format(record)}".replace("\n", "\n\t")
            self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        except Exception:  # noqa: BLE001 - as every handler of logging's
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text without its time."""
        return (self.formatter or _FORMATTER).format(record)

    def check(self) -> Optional[str]:
        """Return why the file cannot be written to, or None; it is not made by that."""
        self.acquire()
        try:
            return self._file.check()
        finally:
            self.release()

    def close(self) -> None:
        """Close the file."""
        self.acquire()
        try:
            self._file.close()
        finally:
            self.release()
        super().close()


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        ids = trace_fields(record)
        text = super().formatMessage(record)
        return text + "".join(f" {name}={ids[name]}" for name in ("trace_id", "span_id") if name in ids)


_FORMATTER: Final = _Formatter("%(levelname)s %(name)s %(message)s")
