"""Latencies that log records report, as a table."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any, Final, Optional

from ts_otel_logging.sinks._append_file import RETRY_SECONDS, AppendFile
from ts_otel_logging.sinks._record import TRACE_FIELDS, timestamp, trace_fields

_MAX_SECONDS: Final = 3_600.0
_PERCENTILES: Final = (50, 90, 95, 99)
# Buckets a fiftieth apart: what is read from their middles is at most one percent off. Below a nanosecond is none.
_GROWTH: Final = math.log(1.02)
_MIN_SECONDS: Final = 1e-9


class LatencyHandler(logging.Handler):
    """Appends the latencies that records carry in ``extra`` to a CSV file, one row each, as they happen.

    ``logger.info("Inference complete", extra={"inference_latency": 0.012})`` is the row
    ``2026-11-21T10:32:06.093795Z,0.012``. Records without a latency leave no row, nor does a value that is no number,
    negative, not finite or longer than an hour. The first line names the columns. Several processes may share the file,
    and logrotate may rename or truncate it.

    `close` appends what this process has seen since the handler was made to a second CSV file: one row for each field
    with count, mean, minimum, maximum, and the 50th, 90th, 95th and 99th percentile (within 1 %). A process that is
    killed leaves its rows, but no such summary.

    Args:
        filename: The CSV file; its folder must be there.
        fields: Names of ``extra`` fields that are latencies in seconds. With more than one, a column ``field`` tells
            which.
        columns: Attributes of the record to add as columns, like ``model_name``, ``request_id`` or ``trace_id``; empty
            where a record has none.
        summary_filename: The file for the summaries; by default ``latency.summary.csv`` beside ``latency.csv``.

    Raises:
        TypeError: A file's name is no path, or a name is no text.
        ValueError: No field is named.

    Attributes:
        retry_seconds: Behind the queue, how long to wait before a row that could not be written is tried again.
    """

    retry_seconds: Final = RETRY_SECONDS

    def __init__(
        self,
        filename: str | os.PathLike[str],
        fields: Iterable[str] = ("inference_latency",),
        columns: Iterable[str] = (),
        summary_filename: Optional[str | os.PathLike[str]] = None,
    ) -> None:
        super().__init__()
        self._fields = _names("fields", fields)
        self._columns = _names("columns", columns)
        if not self._fields:
            raise ValueError("fields: accepted is at least one name of an extra field")
        self._tells_field = len(self._fields) > 1
        head = ("time", *(("field",) if self._tells_field else ()), "latency", *self._columns)
        self._file = AppendFile(filename, _row(head))
        if summary_filename is None:
            stem, extension = os.path.splitext(self._file.filename)
            summary_filename = f"{stem}.summary{extension}"
        percentiles = (f"p{percentile}" for percentile in _PERCENTILES)
        self._summary_file = AppendFile(
            summary_filename,
            _row(("time", "process", "field", "count", "mean", "min", "max", *percentiles)),
            "summary_filename",
        )
        self._distributions: dict[str, _Distribution] = {}
        self._process_id = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's latencies, if it has any."""
        attributes = vars(record)
        try:
            rows = []
            found = []
            for field in self._fields:
                seconds = _seconds(attributes.get(field))
                if seconds is not None:
                    name = (field,) if self._tells_field else ()
                    rows.append(_row((timestamp(record), *name, seconds, *self._values(record))))
                    found.append((field, seconds))
            if rows:
                self._file.write(b"".join(rows))
                self._count(found)
        except Exception:  # noqa: BLE001 - as every handler of logging's
            self.handleError(record)

    def _values(self, record: logging.LogRecord) -> list[Any]:
        attributes = vars(record)
        if any(name in TRACE_FIELDS for name in self._columns):
            attributes = {**attributes, **trace_fields(record)}
        return [attributes.get(name, "") for name in self._columns]

    def _count(self, found: list[tuple[str, float]]) -> None:
        if self._process_id != os.getpid():
            # What the parent counted before the fork is the parent's to tell.
            self._process_id = os.getpid()
            self._distributions.clear()
        for field, seconds in found:
            self._distributions.setdefault(field, _Distribution()).add(seconds)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return what this process has seen since the handler was made.

        Returns:
            For each field ``count``, and in seconds ``mean``, ``min``, ``max``, ``p50``, ``p90``, ``p95``, ``p99``.
        """
        self.acquire()
        try:
            return self._summary()
        finally:
            self.release()

    def _summary(self) -> dict[str, dict[str, float]]:
        if self._process_id != os.getpid():
            return {}
        return {field: distribution.summary() for field, distribution in self._distributions.items()}

    def check(self) -> Optional[str]:
        """Return why the table cannot be written to, or None; it is not made by that."""
        self.acquire()
        try:
            return self._file.check()
        finally:
            self.release()

    def close(self) -> None:
        """Append the summary to its file, and close both.

        Raises:
            OSError: The summary cannot be written.
        """
        self.acquire()
        try:
            now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            rows = [
                _row((now, os.getpid(), field, *values.values())) for field, values in sorted(self._summary().items())
            ]
            # It is told once, also when logging closes its handlers a second time at exit.
            self._distributions.clear()
            if rows:
                self._summary_file.write(b"".join(rows))
        finally:
            self._file.close()
            self._summary_file.close()
            self.release()
            super().close()


class _Distribution:
    """Counts values in buckets that grow by 2 %: a few kilobytes, however many values there are."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._min = math.inf
        self._max = 0.0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        self._count += 1
        self._sum += seconds
        self._min = min(self._min, seconds)
        self._max = max(self._max, seconds)
        bucket = math.floor(math.log(max(seconds, _MIN_SECONDS)) / _GROWTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def summary(self) -> dict[str, float]:
        result = {"count": self._count, "mean": self._sum / self._count, "min": self._min, "max": self._max}
        result.update((f"p{percentile}", self._percentile(percentile)) for percentile in _PERCENTILES)
        return result

    def _percentile(self, percentile: int) -> float:
        # The nearest rank: the smallest value that so many percent are not above.
        rank = math.ceil(self._count * percentile / 100)
        bucket = 0
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                break
        middle = math.exp((bucket + 0.5) * _GROWTH)
        return min(max(middle, self._min), self._max)


def _names(argument: str, names: Iterable[str]) -> tuple[str, ...]:
    result: tuple[str, ...] = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    if not all(isinstance(name, str) and name for name in result):
        raise TypeError(f"{argument}: accepted is a list of names, not {names!r}")
    return result


def _seconds(value: Any) -> Optional[float]:
    if value is None or isinstance(value, (bool, str, bytes)):
        return None
    try:
        seconds = float(value)
    except Exception:  # noqa: BLE001 - a value of any kind; one that is no number is no latency
        return None
    return seconds if 0.0 <= seconds <= _MAX_SECONDS else None


def _row(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "backslashreplace")
