"""What the export thread does for each exporter: when it is due, what to send, and what follows from the outcome."""

from __future__ import annotations

import math
import random
import time
from time import sleep
from typing import TYPE_CHECKING, Any, Callable, Final, Protocol

from ts_otel_logging._sdk._outcome import ExportOutcome, Verdict
from ts_otel_logging._sdk._processors import ThreadMetricReader

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData

    from ts_otel_logging._sdk._health import Health
    from ts_otel_logging._sdk._lanes import Entry, Lane
    from ts_otel_logging._sdk._own_metrics import OwnMetrics
    from ts_otel_logging._sdk._sdk_loggers import SdkLoggers
    from ts_otel_logging._sdk._sender import Sender

_FIRST_BACKOFF_SECONDS: Final = 1.0
_MAX_BACKOFF_SECONDS: Final = 30.0
# The interpreter's lock is given away now and then: what else runs in this process must not wait for a whole batch.
_ITEMS_AT_ONCE: Final = 128
_PAUSE_SECONDS: Final = 50e-6
_QUIET_ITEMS: Final = 32
_MAX_BLIND_TRIES: Final = 5
"""How often a batch is tried whose failure may be final, for all that is known."""


class Courier(Protocol):
    """Serves one exporter, on the export thread."""

    def seconds_until_due(self, now: float) -> float:
        """Return how long nothing needs to be done."""

    def run(self, now: float) -> None:
        """Do what is due."""

    def flush(self, deadline: float) -> bool:
        """Send everything now; return whether it arrived."""

    def after_fork(self) -> None:
        """Start anew in a forked child."""

    def shutdown(self) -> None:
        """Close the exporter and count what is lost."""


class LaneCourier:
    """Carries a lane's items to a sender.

    Args:
        lane: Where they wait.
        sender: Who sends them.
        health: Tells how it goes.
        own_metrics: Counts them.
        sdk_loggers: Knows what the exporter said.
        ready: Returns an item as the sender takes it, with its secrets masked, on the export thread.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each from another hand
        self,
        lane: Lane,
        sender: Sender,
        health: Health,
        own_metrics: OwnMetrics,
        sdk_loggers: SdkLoggers,
        ready: Callable[[Any], Any],
    ) -> None:
        self.lane = lane
        self._ready = ready
        self._sender = sender
        self._health = health
        self._own_metrics = own_metrics
        self._sdk_loggers = sdk_loggers
        self._generator = random.SystemRandom()
        self._next_export = time.monotonic() + lane.limits.schedule_delay_seconds
        self._retry_at = -math.inf
        self._failures = 0

    def seconds_until_due(self, now: float) -> float:
        """Return how long nothing needs to be done."""
        due = now if self.lane.is_full() else self._next_export
        return max(due, self._retry_at) - now

    def run(self, now: float) -> None:
        """Export what waits, if it is time."""
        self._count_evicted()
        if self.seconds_until_due(now) > 0:
            return
        self._next_export = now + self.lane.limits.schedule_delay_seconds
        self._export_waiting(math.inf)

    def flush(self, deadline: float) -> bool:
        """Export everything that waits, whatever the schedule says."""
        self._count_evicted()
        return self._export_waiting(deadline)

    def _export_waiting(self, deadline: float) -> bool:
        # Only what waits now, or a fast producer would keep the other signals waiting.
        left = len(self.lane)
        while left > 0:
            if time.monotonic() >= deadline:
                return False
            batch = self.lane.take()
            if not batch:
                break
            left -= len(batch)
            if not self._export(batch, deadline):
                return False
        return True

    def _export(self, batch: list[Entry], deadline: float) -> bool:
        """Export one batch, in parts if need be; return False when it has to wait."""
        parts = [batch]
        while parts:
            part = parts.pop()
            outcome = self._send(part, deadline)
            if outcome.verdict is Verdict.SPLIT and len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            waits = outcome.verdict is Verdict.RETRY or (
                outcome.verdict is Verdict.RETRY_A_FEW_TIMES and (self._failures + 1) % _MAX_BLIND_TRIES != 0
            )
            if waits:
                self.lane.put_back([entry for rest in (part, *reversed(parts)) for entry in rest])
            elif outcome.verdict is Verdict.DELIVERED:
                self._failures = 0
                self._retry_at = -math.inf
                self._health.worked(self.lane.signal)
                self._finish(part, outcome)
                continue
            else:
                self._finish(part, outcome)
            self._health.failed(self.lane.signal, outcome.reason)
            if outcome.verdict in (Verdict.RETRY, Verdict.RETRY_A_FEW_TIMES):
                self._back_off(outcome)
                if not waits and parts:
                    self.lane.put_back([entry for rest in reversed(parts) for entry in rest])
                return False
        return True

    def _send(self, part: list[Entry], deadline: float) -> ExportOutcome:
        timeout_seconds = min(self.lane.limits.export_timeout_seconds, deadline - time.monotonic())
        self._sdk_loggers.start_capture()
        try:
            return self._sender.send(self._ready_items(part), timeout_seconds, self._sdk_loggers.take_message)
        finally:
            self._sdk_loggers.take_message()

    def _ready_items(self, part: list[Entry]) -> list[Any]:
        items = []
        ready = self._ready
        for count, (_, _, item) in enumerate(part, 1):
            items.append(ready(item))
            # In a burst the lock would be long in coming back, and the lane run over.
            if not count % _ITEMS_AT_ONCE and len(self.lane) < _QUIET_ITEMS:
                sleep(_PAUSE_SECONDS)
        return items

    def _finish(self, part: list[Entry], outcome: ExportOutcome) -> None:
        self.lane.done(part)
        lost = outcome.rejected if outcome.verdict is Verdict.DELIVERED else len(part)
        self._own_metrics.processed(self.lane, len(part))
        self._own_metrics.exported(self._sender, len(part) - lost)
        if lost:
            self._own_metrics.exported(self._sender, lost, outcome.error_type)
            self._health.dropped(self.lane.signal, lost)
            if outcome.verdict is Verdict.DELIVERED:
                self._health.tell_drops(self.lane.signal, outcome.reason)

    def _back_off(self, outcome: ExportOutcome) -> None:
        self._failures += 1
        seconds = outcome.retry_after_seconds
        # A time that is over is none: with a full batch the next try would come at once, and so on.
        if not seconds:
            longest = min(_FIRST_BACKOFF_SECONDS * 2 ** min(self._failures - 1, 10), _MAX_BACKOFF_SECONDS)
            # Jitter, so that the workers of many hosts do not come back at the same moment.
            seconds = longest * self._generator.uniform(0.5, 1.0)
        self._retry_at = time.monotonic() + seconds

    def _count_evicted(self) -> None:
        evicted = self.lane.take_evicted()
        if evicted:
            self._own_metrics.processed(self.lane, evicted, "queue_full")
            self._health.dropped(self.lane.signal, evicted)
            self._health.tell_drops(self.lane.signal, "queue full")

    def after_fork(self) -> None:
        """Start anew in a forked child."""
        self._retry_at = -math.inf
        self._failures = 0
        self._sender.after_fork()

    def shutdown(self) -> None:
        """Close the lane and the exporter; what still waits is lost and counted."""
        left = self.lane.close() + self.lane.take_evicted()
        if left:
            self._health.dropped(self.lane.signal, left)
        self._sender.shutdown()
        self._health.close()


class MetricCourier:
    """Collects and sends metrics. What could not be sent is not kept: the next collection holds it again.

    Args:
        interval_seconds: From one collection to the next.
        timeout_seconds: The most that one export may take.
        sender: Who sends them.
        health: Tells how it goes.
        own_metrics: Counts the data points.
        sdk_loggers: Knows what the exporter said.
        flush: Lets the export thread flush a courier, for those who ask the reader to.

    Attributes:
        reader: What the meter provider collects through.
        is_paused: Whether nothing is collected.
    """

    def __init__(  # noqa: PLR0913 - each from another hand
        self,
        *,
        interval_seconds: float,
        timeout_seconds: float,
        sender: Sender,
        health: Health,
        own_metrics: OwnMetrics,
        sdk_loggers: SdkLoggers,
        flush: Callable[[float, Courier], bool],
    ) -> None:
        self.reader = ThreadMetricReader(sender.exporter, self.receive, lambda seconds: flush(seconds, self))
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._sender = sender
        self._health = health
        self._own_metrics = own_metrics
        self._sdk_loggers = sdk_loggers
        self._next_collection = time.monotonic() + interval_seconds
        self._deadline = math.inf
        self._arrived = True
        self.is_paused = False

    def seconds_until_due(self, now: float) -> float:
        """Return how long nothing needs to be done."""
        return self._next_collection - now

    def run(self, now: float) -> None:
        """Collect and send, if it is time."""
        if now >= self._next_collection:
            self._next_collection = now + self._interval_seconds
            self.flush(math.inf)

    def flush(self, deadline: float) -> bool:
        """Collect and send now."""
        if self.is_paused:
            return True
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        self._deadline, self._arrived = deadline, True
        try:
            self.reader.collect_everything(timeout_millis=min(self._timeout_seconds, remaining) * 1e3)
        except Exception as error:  # noqa: BLE001 - it calls the instruments' callbacks, which are anybody's code
            self._health.failed("metrics", f"{type(error).__name__}: {error}")
            return False
        return self._arrived

    def receive(self, metrics_data: MetricsData) -> None:
        """Send what was collected."""
        timeout_seconds = min(self._timeout_seconds, max(self._deadline - time.monotonic(), 0.0))
        self._sdk_loggers.start_capture()
        try:
            outcome = self._sender.send(metrics_data, timeout_seconds, self._sdk_loggers.take_message)
        finally:
            self._sdk_loggers.take_message()
        points = sum(
            len(metric.data.data_points)
            for resource in metrics_data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )
        if outcome.verdict is Verdict.DELIVERED:
            self._health.worked("metrics")
            self._own_metrics.exported(self._sender, points - outcome.rejected)
            if outcome.rejected:
                self._own_metrics.exported(self._sender, outcome.rejected, outcome.error_type)
                self._health.dropped("metrics", 1)
                self._health.tell_drops("metrics", outcome.reason)
            return
        self._arrived = False
        self._own_metrics.exported(self._sender, points, outcome.error_type)
        self._health.dropped("metrics", 1)
        self._health.failed("metrics", outcome.reason)
        if outcome.retry_after_seconds is not None:
            self._next_collection = max(self._next_collection, time.monotonic() + outcome.retry_after_seconds)

    def after_fork(self) -> None:
        """Start anew in a forked child."""
        self._next_collection = time.monotonic() + self._interval_seconds
        self._sender.after_fork()

    def shutdown(self) -> None:
        """Close the exporter."""
        self._sender.shutdown()
        self._health.close()
