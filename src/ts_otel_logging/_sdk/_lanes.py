"""What waits for the collector: one lane an exporter of spans or log records, one budget of bytes for all of them."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from typing import Any, Callable, Final, NamedTuple

# A batch is also bounded by its weight: collectors refuse requests of more than 4 MiB over gRPC and 20 MiB over HTTP.
_MAX_BATCH_BYTES: Final = 1_048_576
# An item above this part of the budget would cost all that waits in every lane.
_MAX_ITEM_PART: Final = 4

Entry = tuple[int, int, Any]
"""One item that waits: its number among the items of all lanes, its weight in bytes, and itself."""


class LaneLimits(NamedTuple):
    """The ``OTEL_BSP_*`` or ``OTEL_BLRP_*`` variables; times in seconds."""

    schedule_delay_seconds: float
    export_timeout_seconds: float
    max_queue_size: int
    max_export_batch_size: int


class QueueBudget:
    """The bytes that all lanes together may hold.

    Args:
        max_bytes: The bound; what is being sent counts until it has arrived.

    Attributes:
        max_item_bytes: The heaviest item that is taken.
        pressing_bytes: Half of the bytes.
        is_pressing: Whether half of the bytes are used and that was told.
        is_served: Whether a thread looks at the lanes.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.max_item_bytes = max_bytes // _MAX_ITEM_PART
        self.pressing_bytes = max_bytes // 2
        self.used_bytes = 0
        self.is_pressing = False
        self.is_served = False
        self.lanes: list[Lane] = []
        self.next_number: Callable[[], int] = itertools.count().__next__
        # Re-entrant, because the garbage collector may run a finalizer that logs while the lock is held. Free, it
        # costs no system call; it is only ever held for a few moves of a deque.
        self.lock = threading.RLock()

    def evict(self) -> None:
        """Drop the oldest entries of any lane until the budget holds. The lock is held."""
        while self.used_bytes > self.max_bytes:
            filled = [lane for lane in self.lanes if lane.entries]
            if not filled:
                return
            min(filled, key=_oldest_number).drop_oldest()

    def release(self, size_bytes: int) -> None:
        """Give back the bytes of entries that are gone. The lock is held."""
        self.used_bytes -= size_bytes
        if self.used_bytes < self.pressing_bytes:
            self.is_pressing = False

    def forget(self) -> None:
        """Start anew in a forked child: what waited belongs to the parent, and the lock may be held by no one."""
        self.lock = threading.RLock()
        self.used_bytes = 0
        self.is_pressing = False
        self.is_served = False
        for lane in self.lanes:
            lane.entries.clear()
            lane.evicted = 0


def _oldest_number(lane: Lane) -> int:
    return lane.entries[0][0]


class Lane:
    """What waits for one exporter, oldest first. `put` is the only method that a caller's thread meets.

    Args:
        signal: ``traces`` or ``logs``.
        budget: The bytes it shares with the other lanes.
        limits: Its own bounds.
        wake: Called when there is a full batch, when the budget is half used, and while nobody serves the lanes.
    """

    def __init__(self, signal: str, budget: QueueBudget, limits: LaneLimits, wake: Callable[[], None]) -> None:
        self.signal = signal
        self.limits = limits
        self.entries: deque[Entry] = deque()
        self.evicted = 0
        self.is_closed = False
        self.is_paused = False
        self._max_batch = min(limits.max_export_batch_size, limits.max_queue_size)
        self._budget = budget
        self._wake = wake
        budget.lanes.append(self)

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self.entries)

    def put(self, item: Any, size_bytes: int) -> None:
        """Let an item wait, or drop it when it is too heavy; never blocks, and rarely makes a system call."""
        budget = self._budget
        # Not by the lock's methods: after `acquire` a signal's handler may raise before `try` is reached.
        with budget.lock:
            if self.is_closed or self.is_paused:
                return
            wakes = not budget.is_served
            if size_bytes > budget.max_item_bytes:
                self.evicted += 1
            else:
                entries = self.entries
                entries.append((budget.next_number(), size_bytes, item))
                budget.used_bytes += size_bytes
                count = len(entries)
                if count >= self._max_batch:
                    wakes = wakes or count == self._max_batch
                    if count > self.limits.max_queue_size:
                        self.drop_oldest()
                if budget.used_bytes > budget.pressing_bytes:
                    if budget.used_bytes > budget.max_bytes:
                        budget.evict()
                    if not budget.is_pressing and budget.used_bytes > budget.pressing_bytes:
                        budget.is_pressing = wakes = True
        if wakes:
            self._wake()

    def is_full(self) -> bool:
        """Return whether waiting longer would not make a better batch, or would cost items."""
        return len(self.entries) >= self._max_batch or (self._budget.is_pressing and bool(self.entries))

    def take(self) -> list[Entry]:
        """Take the oldest batch out; its bytes stay charged until `done`."""
        batch: list[Entry] = []
        size_bytes = 0
        with self._budget.lock:
            entries = self.entries
            if len(entries) <= self._max_batch and self._budget.used_bytes <= _MAX_BATCH_BYTES:
                # In one step: a finalizer that runs meanwhile may let an item wait, too.
                self.entries = deque()
                batch.extend(entries)
                return batch
            while entries and len(batch) < self._max_batch:
                size_bytes += entries[0][1]
                if batch and size_bytes > _MAX_BATCH_BYTES:
                    break
                batch.append(entries.popleft())
        return batch

    def done(self, batch: list[Entry]) -> None:
        """Give back the bytes of entries that were taken."""
        with self._budget.lock:
            self._budget.release(sum(size_bytes for _, size_bytes, _ in batch))

    def put_back(self, batch: list[Entry]) -> None:
        """Put entries that were taken back to the head; the bounds hold, and the oldest go."""
        with self._budget.lock:
            self.entries.extendleft(reversed(batch))
            while len(self.entries) > self.limits.max_queue_size:
                self.drop_oldest()
            self._budget.evict()

    def drop_oldest(self) -> None:
        """Drop the oldest entry and count it. The lock is held."""
        self._budget.release(self.entries.popleft()[1])
        self.evicted += 1

    def take_evicted(self) -> int:
        """Return how many were dropped for want of room since the last call."""
        with self._budget.lock:
            evicted, self.evicted = self.evicted, 0
        return evicted

    def close(self) -> int:
        """Accept nothing more.

        Returns:
            How many items are still waiting; they are dropped.
        """
        with self._budget.lock:
            self.is_closed = True
            left = list(self.entries)
            self.entries.clear()
            self._budget.release(sum(size_bytes for _, size_bytes, _ in left))
        return len(left)
