"""How export to one destination goes, told to the operator in few words: once at first, then at most once a minute."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any, Callable, Final

INTERVAL_SECONDS: Final = 60.0
_COUNT_FIELDS: Final = {"traces": "dropped_spans", "logs": "dropped_log_records", "metrics": "dropped_metric_exports"}


class Health:
    """The state of one destination, shared by the signals that go there; used on one thread at a time.

    Args:
        report: Tells the operator.
        endpoint: The destination, for people.
    """

    def __init__(self, report: Callable[..., None], endpoint: str) -> None:
        self._report = report
        self._endpoint = endpoint
        self._failing: set[str] = set()
        self._dropped: Counter[str] = Counter()
        # By event: that the queue was full must not hide why.
        self._told_at: dict[str, float] = {}
        self._failure_was_told = False

    def failed(self, signal: str, reason: str) -> None:
        """Note that an export failed."""
        self._failing.add(signal)
        if self._may_tell("export failed"):
            self._failure_was_told = True
            self._tell("export failed", level=logging.WARNING, signal=signal, reason=reason)

    def dropped(self, signal: str, count: int) -> None:
        """Note that items are lost, or metrics that could not be sent; the next event tells how many."""
        self._dropped[signal] += count

    def worked(self, signal: str) -> None:
        """Note that an export arrived."""
        self._failing.discard(signal)
        if not self._failing and self._failure_was_told:
            self._failure_was_told = False
            self._tell("export works again", level=logging.INFO)

    def tell_drops(self, signal: str, reason: str) -> None:
        """Tell about items that were lost although no export failed."""
        if not self._failing and self._dropped and self._may_tell("telemetry dropped"):
            self._tell("telemetry dropped", level=logging.WARNING, signal=signal, reason=reason)

    def close(self) -> None:
        """Tell what was lost and not told yet."""
        if self._dropped:
            self._tell("telemetry dropped", level=logging.WARNING, reason="export ended")

    def _may_tell(self, event: str) -> bool:
        now = time.monotonic()
        if now - self._told_at.get(event, -INTERVAL_SECONDS) < INTERVAL_SECONDS:
            return False
        self._told_at[event] = now
        return True

    def _tell(self, event: str, **fields: Any) -> None:
        counts = {_COUNT_FIELDS[signal]: count for signal, count in self._dropped.items() if count}
        self._dropped.clear()
        self._report(event, endpoint=self._endpoint, **fields, **counts)
