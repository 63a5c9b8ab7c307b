"""The one thread that exports all three signals of a process."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, Optional

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

from ts_otel_logging._diagnostics import swallowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ts_otel_logging._sdk._couriers import Courier
    from ts_otel_logging._sdk._lanes import QueueBudget

_THREAD_NAME: Final = "ts-otel-logging-export"
_LONGEST_WAIT_SECONDS: Final = 60.0


class _FlushRequest:
    def __init__(self, couriers: Sequence[Courier], deadline: float) -> None:
        self.couriers = couriers
        self.deadline = deadline
        self.arrived = False
        self.done = threading.Event()


class ExportThread:
    """Serves the couriers: started at the first item, anew in a forked child, and never waited for by a request.

    Args:
        budget: The lanes.
    """

    def __init__(self, budget: QueueBudget) -> None:
        self._budget = budget
        self._couriers: Sequence[Courier] = ()
        self._requests: deque[_FlushRequest] = deque()
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._is_stopping = False
        self._starts_at_once = False
        method = weakref.WeakMethod(self._after_fork)

        def after_in_child() -> None:
            after_fork = method()
            if after_fork is not None:
                after_fork()

        os.register_at_fork(after_in_child=after_in_child)

    def serve(self, couriers: Sequence[Courier], *, starts_at_once: bool) -> None:
        """Take the couriers, in the order in which they shall flush.

        Args:
            couriers: All of them.
            starts_at_once: Whether to run before the first item waits: there may be measurements and nothing else.
        """
        self._couriers = couriers
        self._starts_at_once = starts_at_once
        if starts_at_once:
            self._ensure_running()

    def wake(self) -> None:
        """Look at the lanes now; start the thread if it does not run."""
        self._ensure_running()
        self._wake.set()

    def flush(self, timeout_seconds: float, courier: Optional[Courier] = None) -> bool:
        """Export everything that waits, and wait for it.

        Args:
            timeout_seconds: The most that it may take.
            courier: The one whose items are meant; by default all are.

        Returns:
            Whether everything arrived in time.
        """
        if threading.current_thread() is self._thread:
            return False
        couriers = self._couriers if courier is None else (courier,)
        request = _FlushRequest(couriers, time.monotonic() + timeout_seconds)
        if self._ensure_running():
            self._requests.append(request)
            self._wake.set()
            request.done.wait(timeout_seconds)
        else:
            self._serve(request)
        return request.arrived

    def stop(self, timeout_seconds: float) -> None:
        """End the thread, and close exporters and lanes; what waits is lost and counted.

        Args:
            timeout_seconds: How long to wait for an export that is going on.
        """
        self._is_stopping = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)
        for courier in self._couriers:
            try:
                courier.shutdown()
            except Exception as error:  # noqa: BLE001, PERF203 - the shield, a few times in a process's life
                swallowed("shutdown of an exporter", error)

    def _ensure_running(self) -> bool:
        with self._starting:
            if self._is_stopping or (self._thread is not None and self._thread.is_alive()):
                return not self._is_stopping
            # First of all: an item of a finalizer, which may run meanwhile, must not come here again.
            self._budget.is_served = True
            thread = threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is shutting down, or the process has no thread left to give.
                return False
            self._thread = thread
            return True

    def _run(self) -> None:
        # What our own requests do must not become spans: instrumented requests, urllib3 and gRPC look at this.
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003 - the key's own value
        while not self._is_stopping:
            now = time.monotonic()
            wait = min((courier.seconds_until_due(now) for courier in self._couriers), default=_LONGEST_WAIT_SECONDS)
            self._wake.wait(min(max(wait, 0.0), _LONGEST_WAIT_SECONDS))
            self._wake.clear()
            while self._requests:
                self._serve(self._requests.popleft())
            for courier in self._couriers:
                if self._is_stopping:
                    return
                self._run_courier(courier)

    def _run_courier(self, courier: Courier) -> None:
        try:
            courier.run(time.monotonic())
        except BaseException as error:  # noqa: BLE001 - the shield: a callback may raise asyncio's CancelledError
            swallowed("export thread", error)

    def _serve(self, request: _FlushRequest) -> None:
        try:
            arrived = [courier.flush(request.deadline) for courier in request.couriers]
            request.arrived = all(arrived)
        except BaseException as error:
            # Of the main thread, where there is no other one any more.
            if isinstance(error, KeyboardInterrupt):
                raise
            swallowed("flush", error)
        finally:
            request.done.set()

    def _after_fork(self) -> None:
        # Only the forking thread lives on; every lock may be held by one that does not.
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread = None
        self._requests.clear()
        self._budget.forget()
        for courier in self._couriers:
            courier.after_fork()
        if self._starts_at_once:
            self._ensure_running()
