"""Files of OTLP JSON lines, ``otlp_json_file``: upstream's exporters where they are installed, else the same format.

The format is https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/. Upstream's package needs Python 3.10;
below, the protobuf encoders' messages are turned into the JSON encoding of
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
from typing import TYPE_CHECKING, Any, Callable, Final, NamedTuple, Optional

from google.protobuf.json_format import MessageToDict
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.trace import ReadableSpan

MAX_FOLDER_BYTES: Final = 256 * 1024 * 1024
MAX_FILE_BYTES: Final = 8 * 1024 * 1024

_NAME: Final = re.compile(r"(?:traces|logs|metrics)-(?P<host>.+)-(?P<pid>\d+)\.jsonl(?P<rotated>\.\d+)?")
_ID_FIELDS: Final = ("traceId", "spanId", "parentSpanId")


class RotatingFile:
    """A text stream of whole lines into ``<signal>-<host>-<pid>.jsonl``, this process's alone.

    A full file is renamed to ``….jsonl.<number>``. The files of all processes in the folder together stay below a
    bound: rotated files, and files of processes that are gone, are deleted oldest first; never a file in use.

    Args:
        folder: Where; it is made if need be.
        signal: ``traces``, ``logs`` or ``metrics``.
        max_file_bytes: The size from which a file is rotated.
        max_folder_bytes: The bound of all files.

    Raises:
        OSError: The folder or the file cannot be made or written.
    """

    def __init__(
        self,
        folder: str,
        signal: str,
        max_file_bytes: int = MAX_FILE_BYTES,
        max_folder_bytes: int = MAX_FOLDER_BYTES,
    ) -> None:
        self._folder = folder
        self._signal = signal
        self._max_file_bytes = max_file_bytes
        self._max_folder_bytes = max_folder_bytes
        self._host = re.sub(r"[^\w.-]", "_", socket.gethostname())
        self._pending: list[str] = []
        self._descriptor: Optional[int] = None
        self.closed = False
        os.makedirs(folder, exist_ok=True)
        self._open()

    @property
    def path(self) -> str:
        """The file that is being written."""
        return os.path.join(self._folder, f"{self._signal}-{self._host}-{self._pid}.jsonl")

    def write(self, text: str) -> int:
        """Take text for the next `flush`."""
        self._pending.append(text)
        return len(text)

    def flush(self) -> None:
        """Write what was taken; all of it or, when the disk is full, nothing.

        Raises:
            OSError: It could not be written.
        """
        data = "".join(self._pending).encode("utf-8", "backslashreplace")
        self._pending.clear()
        if not data:
            return
        if self._pid != os.getpid():
            # A forked child writes a file of its own.
            self._close_descriptor()
        if self._descriptor is None:
            self._open()
        if self._size and self._size + len(data) > self._max_file_bytes:
            self._rotate()
        self._write(data)

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._close_descriptor()

    def _write(self, data: bytes) -> None:
        descriptor = self._descriptor
        assert descriptor is not None  # noqa: S101 - opened by flush
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            # No half line: readers follow this file.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._size)
            raise
        self._size += len(data)

    def _open(self) -> None:
        self._pid = os.getpid()
        self._make_room()
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._descriptor).st_size

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _rotate(self) -> None:
        prefix = os.path.basename(self.path) + "."
        numbers = [int(name[len(prefix) :]) for name in os.listdir(self._folder) if _is_rotated(name, prefix)]
        os.rename(self.path, f"{self.path}.{max(numbers, default=0) + 1}")
        self._close_descriptor()
        self._open()

    def _make_room(self) -> None:
        """Delete the oldest files that nobody writes, until one more full file fits."""
        total, deletable = 0, []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match is None:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                total += status.st_size
                if match["rotated"] or self._is_abandoned(match["host"], int(match["pid"])):
                    deletable.append((status.st_mtime_ns, entry.path, status.st_size))
        for _, path, size in sorted(deletable):
            if total + self._max_file_bytes <= self._max_folder_bytes:
                return
            # Another process of the folder may be faster.
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size

    def _is_abandoned(self, host: str, pid: int) -> bool:
        if host != self._host or pid == self._pid:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


def _is_rotated(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name[len(prefix) :].isdigit()


class FileSpanExporter(SpanExporter):
    """Writes spans as one line of OTLP JSON a batch.

    Args:
        stream: Where to.
    """

    def __init__(self, *, stream: RotatingFile) -> None:
        self._stream = stream

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a batch."""
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        _write_line(self._stream, encode_spans(spans))
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: every batch is flushed."""
        del timeout_millis
        return True

    def shutdown(self) -> None:
        """Do nothing: the stream is not the exporter's."""


class FileLogExporter(LogRecordExporter):
    """Writes log records as one line of OTLP JSON a batch.

    Args:
        stream: Where to.
    """

    def __init__(self, *, stream: RotatingFile) -> None:
        self._stream = stream

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Write a batch."""
        from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

        _write_line(self._stream, encode_logs(batch))
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: every batch is flushed."""
        del timeout_millis
        return True

    def shutdown(self) -> None:
        """Do nothing: the stream is not the exporter's."""


class FileMetricExporter(MetricExporter):
    """Writes metrics as one line of OTLP JSON a collection; temporality is cumulative.

    Args:
        stream: Where to.
    """

    def __init__(self, *, stream: RotatingFile) -> None:
        super().__init__()
        self._stream = stream

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_kwargs: Any) -> MetricExportResult:
        """Write a collection."""
        from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

        del timeout_millis  # a file takes none
        _write_line(self._stream, encode_metrics(metrics_data))
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing: every batch is flushed."""
        del timeout_millis
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_kwargs: Any) -> None:
        """Do nothing: the stream is not the exporter's."""


def _write_line(stream: RotatingFile, message: Any) -> None:
    # An OSError goes to the sender, which knows it for a reason to try again.
    document = MessageToDict(message, use_integers_for_enums=True)
    _ids_to_hex(document)
    stream.write(json.dumps(document, separators=(",", ":")) + "\n")
    stream.flush()


def _ids_to_hex(value: Any) -> None:
    # protobuf's own JSON has base64 for bytes; OTLP's has hex for these three. No attribute can be mistaken for one:
    # attributes are lists of key and value.
    if isinstance(value, list):
        for item in value:
            _ids_to_hex(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in _ID_FIELDS and isinstance(item, str):
                value[key] = base64.b64decode(item).hex()
            else:
                _ids_to_hex(item)


class _OwnExporters(NamedTuple):
    traces: Callable[..., SpanExporter] = FileSpanExporter
    logs: Callable[..., LogRecordExporter] = FileLogExporter
    metrics: Callable[..., MetricExporter] = FileMetricExporter


OWN_EXPORTERS: Final = _OwnExporters()
