"""One exporter behind one method that never raises and always says what became of the batch."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Callable, Optional

from ts_otel_logging._sdk._outcome import DELIVERED, ExportOutcome, Verdict

if TYPE_CHECKING:
    from ts_otel_logging._sdk._json_file import RotatingFile


class Sender:
    """Sends batches through an SDK exporter.

    Args:
        signal: ``traces``, ``logs`` or ``metrics``.
        exporter: A SpanExporter, LogRecordExporter or MetricExporter.
        endpoint: Where it sends to, for people.
        component_type: The ``otel.component.type`` of its metrics.
        takes_bytes: Whether what is sent is made by our encoder, so that a batch may have `EventRecord`s.
        stream: A stream that it writes to and does not close.
    """

    def __init__(  # noqa: PLR0913 - one argument an attribute
        self,
        signal: str,
        exporter: Any,
        endpoint: str,
        component_type: str,
        *,
        takes_bytes: bool = False,
        stream: Optional[RotatingFile] = None,
    ) -> None:
        self.signal = signal
        self.exporter = exporter
        self.endpoint = endpoint
        self.component_type = component_type
        self.takes_bytes = takes_bytes
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, batch: Any, timeout_seconds: float, last_message: Callable[[], str]) -> ExportOutcome:
        """Export one batch.

        Args:
            batch: What the exporter takes.
            timeout_seconds: The most that it may take, where that can be told.
            last_message: Returns what the exporter's logger said during this call.
        """
        del timeout_seconds  # an exporter has its own
        # The SDK promises exporters that they are never called twice at a time.
        with self._lock:
            try:
                result = self.exporter.export(batch)
            except OSError as error:
                return ExportOutcome(
                    Verdict.RETRY_A_FEW_TIMES, f"{type(error).__name__}: {error}", type(error).__name__
                )
            except Exception as error:  # noqa: BLE001 - exporters are anybody's code
                # One item may be what the encoder stumbles on.
                return ExportOutcome(Verdict.SPLIT, f"{type(error).__name__}: {error}", error_type=type(error).__name__)
            if getattr(result, "name", "SUCCESS") == "SUCCESS":
                return DELIVERED
            return ExportOutcome(Verdict.RETRY_A_FEW_TIMES, last_message() or "the exporter failed")

    def after_fork(self) -> None:
        """Let a forked child use connections of its own."""
        self._lock = threading.Lock()

    def shutdown(self) -> None:
        """Close the exporter; a retry of its own that is going on ends."""
        self.exporter.shutdown()
        if self._stream is not None:
            self._stream.close()
