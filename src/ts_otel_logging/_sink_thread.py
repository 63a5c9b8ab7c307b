"""The one thread that runs the settings file's sinks, off the request's path."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value

from ts_otel_logging import _diagnostics
from ts_otel_logging._sink_output import sink_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_otel_logging._event import Event

THREAD_NAME: Final = "ts-otel-logging-sinks"
# After some work the thread rests so long: one wake-up then serves many records. It is what SIGKILL may cost.
_REST_SECONDS: Final = 0.02
_TURN_RECORDS: Final = 256
_LONGEST_WAIT_SECONDS: Final = 60.0
_SHORTEST_RETRY_SECONDS: Final = 0.05
_LEAVE_SECONDS: Final = 5.0
_TELL_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.002


class SinkThread:
    """An output of the pipeline: queues each event for every sink, and one daemon thread hands them on.

    Each sink has a queue of its own, so that one that fails or is slow costs the others no record; what does not fit
    makes the oldest go, which is counted and told. A failure is told at once, then at most once a minute, and so is
    that the sink works again. The record is lost, unless the failure is an OSError and the sink has ``retry_seconds``:
    then it is tried again after that time, before all later ones. A sink that does not return from a record is left
    to the thread that is in it, and a new thread serves the others. The thread starts with the first record, and anew
    in a forked child.

    Args:
        max_queue_bytes: What may wait for one sink, about.
        max_queue_records: How many records may wait for one sink.
        hang_seconds: How long a sink may take for one record until the others go on without it.
    """

    def __init__(
        self, *, max_queue_bytes: int = 2_097_152, max_queue_records: int = 8_192, hang_seconds: float = 5.0
    ) -> None:
        self._max_queue_bytes = max_queue_bytes
        self._max_queue_records = max_queue_records
        self._hang_seconds = hang_seconds
        self._hooks: tuple[_Hook, ...] = ()
        self._lanes: tuple[_Lane, ...] = ()
        self._leaving: tuple[_Lane, ...] = ()
        self._is_stopping = False
        self._reset()
        _threads.add(self)

    def _reset(self) -> None:
        self._wake = threading.Event()
        # Re-entrant: a signal handler or a finalizer may log while this very thread holds it, for a few moves at most.
        self._lock = threading.RLock()
        self._is_awake = False
        self._turn: Optional[_Turn] = None

    def set_sinks(self, sinks: Mapping[str, logging.Handler], leave_seconds: float = _LEAVE_SECONDS) -> None:
        """Hand later events to these alone; handlers that are not among them get what waits, and are closed.

        Args:
            sinks: By the name that the operator knows them by. One that is there already keeps its queue.
            leave_seconds: How long those that go may try again what fails.
        """
        with self._lock:
            known = {id(lane.sink): lane for lane in self._lanes}
            lanes = []
            for name, sink in sinks.items():
                lane = known.pop(id(sink), None) or _Lane(sink, self._max_queue_bytes, self._max_queue_records)
                lane.name = name
                lanes.append(lane)
            for lane in known.values():
                lane.leaves_at = time.monotonic() + leave_seconds
            self._lanes = tuple(lanes)
            self._leaving = (*self._leaving, *known.values())
        if known:
            self._wake_up()

    def every(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call something on the thread again and again; what it raises is swallowed and told.

        Args:
            seconds: From now to the first call, and from the end of one to the next.
            call: The sinks wait while it runs.

        Returns:
            What ends it.
        """
        hook = _Hook(seconds, call)
        with self._lock:
            self._hooks = (*self._hooks, hook)
        self._wake_up()

        def cancel() -> None:
            with self._lock:
                self._hooks = tuple(other for other in self._hooks if other is not hook)

        return cancel

    def __call__(self, event: Event) -> None:
        """Queue an event; this never waits for a sink."""
        level = event.record.levelno
        lanes = [lane for lane in self._lanes if level >= lane.sink.level]
        if not lanes:
            return
        turn = self._turn
        if turn is not None and turn.lane is not None:
            if turn.thread_id == threading.get_ident():
                # What a sink logs while it handles a record would be handled, and logged, for ever.
                return
            self._look_for_hang(turn)
        record = sink_record(event)
        size_bytes = _weight(record, len(event.extra))
        with self._lock:
            for lane in lanes:
                lane.put(record, size_bytes)
        if not self._is_awake:
            self._wake_up()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until every sink has had what waits now.

        Args:
            timeout_seconds: The most that it may take.

        Returns:
            Whether all of it was handed on or given up in time; never for a sink that hangs.
        """
        turn = self._turn
        if turn is not None and turn.thread_id == threading.get_ident():
            return False
        deadline = time.monotonic() + timeout_seconds
        with self._lock:
            goals = [(lane, lane.finished + lane.in_hand + len(lane.entries)) for lane in self._all_lanes()]
            for lane, _ in goals:
                lane.tries_at = 0.0
        if any(lane.finished < goal for lane, goal in goals) and not self._wake_up():
            return False
        while True:
            open_goals = [lane for lane, goal in goals if lane.finished < goal]
            if all(lane.is_hung for lane in open_goals) or time.monotonic() >= deadline:
                return not open_goals
            turn = self._turn
            if turn is not None and turn.lane is not None:
                self._look_for_hang(turn)
            time.sleep(_POLL_SECONDS)

    def shutdown(self, timeout_seconds: float) -> bool:
        """Hand on what waits, close the sinks, and end the thread.

        Args:
            timeout_seconds: The most that it may take. A sink that hangs is left as it is.

        Returns:
            Whether everything was handed on in time; the rest is lost and told.
        """
        deadline = time.monotonic() + timeout_seconds
        self.set_sinks({}, timeout_seconds)
        self._hooks = ()
        self._is_stopping = True
        turn = self._turn
        if turn is None:
            # Never started, or the interpreter is past the point where threads may start.
            self._run(_Turn())
        elif turn.thread_id != threading.get_ident():
            self._wake.set()
            while any(not lane.is_hung for lane in self._leaving) and time.monotonic() < deadline:
                if turn.lane is not None:
                    self._look_for_hang(turn)
                turn = self._turn or turn
                time.sleep(_POLL_SECONDS)
        _threads.discard(self)
        left = self._leaving
        for lane in left:
            lane.lose_all()
            lane.tell(time.monotonic(), is_last=True)
        return not left

    def _all_lanes(self) -> tuple[_Lane, ...]:
        return (*self._lanes, *self._leaving)

    def _wake_up(self) -> bool:
        """Let the thread look around; start it if there is none. Returns whether there is one."""
        with self._lock:
            if self._turn is None:
                turn = _Turn()
                thread = threading.Thread(target=self._run, args=(turn,), name=THREAD_NAME, daemon=True)
                self._turn = turn
                try:
                    thread.start()
                except RuntimeError:
                    # The interpreter is shutting down, or the process has no thread left to give.
                    self._turn = None
                    return False
            self._is_awake = True
            self._wake.set()
            return True

    def _look_for_hang(self, turn: _Turn) -> None:
        # By whoever wants something of the thread: a thread that watches it would be one more.
        if time.monotonic() - turn.since < self._hang_seconds:
            return
        with self._lock:
            lane = turn.lane
            if turn.is_over or lane is None or time.monotonic() - turn.since < self._hang_seconds:
                return
            turn.is_over = lane.is_hung = True
            self._turn = None
        self._wake_up()

    def _run(self, turn: _Turn) -> None:
        turn.thread_id = threading.get_ident()
        # A sink's own requests must not become spans: instrumented clients look at this.
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003 - the key's own value
        try:
            self._loop(turn)
        finally:
            detach(token)

    def _loop(self, turn: _Turn) -> None:
        while not turn.is_over:
            has_worked = self._serve(turn)
            if turn.is_over or (self._is_stopping and not self._has_leaving()):
                return
            if has_worked:
                self._wake.wait(_REST_SECONDS)
                self._wake.clear()
                continue
            # In this order: a record that comes after the look finds the thread asleep, and wakes it.
            self._is_awake = False
            wait_seconds = self._seconds_until_due()
            if wait_seconds > 0:
                self._wake.wait(wait_seconds)
            self._is_awake = True
            self._wake.clear()

    def _has_leaving(self) -> bool:
        return any(not lane.is_hung for lane in self._leaving)

    def _seconds_until_due(self) -> float:
        now = time.monotonic()
        waits = [hook.due_at - now for hook in self._hooks]
        waits.extend(lane.tries_at - now for lane in self._all_lanes() if lane.entries and not lane.is_hung)
        waits.extend(0.0 for lane in self._leaving if not lane.entries and not lane.is_hung)
        return min((_LONGEST_WAIT_SECONDS, *waits))

    def _serve(self, turn: _Turn) -> bool:
        """Do what is due. Returns whether there was anything."""
        has_worked = False
        for hook in self._hooks:
            if time.monotonic() >= hook.due_at:
                has_worked = True
                self._call(hook)
        for lane in self._all_lanes():
            if lane.entries and not lane.is_hung and time.monotonic() >= lane.tries_at:
                has_worked = True
                self._serve_lane(turn, lane)
            if turn.is_over:
                return True
            lane.tell(time.monotonic())
        for lane in self._leaving:
            if not lane.entries and not lane.is_hung:
                has_worked = True
                self._close(turn, lane)
                if turn.is_over:
                    return True
        return has_worked

    @staticmethod
    def _call(hook: _Hook) -> None:
        try:
            hook.call()
        except Exception as error:  # noqa: BLE001 - the shield
            _diagnostics.swallowed("call on the sink thread", error)
        finally:
            hook.due_at = time.monotonic() + hook.seconds

    def _serve_lane(self, turn: _Turn, lane: _Lane) -> None:
        for _ in range(_TURN_RECORDS):
            with self._lock:
                entry = lane.take()
            if entry is None:
                return
            turn.since = time.monotonic()
            turn.lane = lane
            error = lane.handle(entry[1])
            with self._lock:
                turn.lane = None
                lane.finish(entry, error)
                if turn.is_over:
                    # It came back after all: the thread that took over serves this sink too from now on.
                    lane.is_hung = False
                    lane.has_come_back = True
                    self._wake.set()
                    return
            if error is not None and lane.tries_at > turn.since:
                return

    def _close(self, turn: _Turn, lane: _Lane) -> None:
        turn.since = time.monotonic()
        turn.lane = lane
        error = lane.close()
        with self._lock:
            turn.lane = None
            lane.is_hung = False
            self._leaving = tuple(other for other in self._leaving if other is not lane)
        if error is not None:
            lane.fail(error)
        lane.tell(time.monotonic(), is_last=True)

    def _after_fork(self) -> None:
        # Only the forking thread lives on; the lock may be held by one that does not. What waits is the parent's.
        was_running = self._turn is not None
        self._reset()
        self._leaving = ()
        for lane in self._lanes:
            lane.forget()
        if was_running and self._hooks and not self._is_stopping:
            self._wake_up()


class _Turn:
    """One thread's time as the one that serves the sinks.

    Attributes:
        thread_id: Which thread.
        lane: The sink that it is in, or None.
        since: Since when, as `time.monotonic` has it.
        is_over: Whether another thread has taken over.
    """

    def __init__(self) -> None:
        self.thread_id = 0
        self.lane: Optional[_Lane] = None
        self.since = 0.0
        self.is_over = False


class _Hook:
    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds = seconds
        self.call = call
        self.due_at = time.monotonic() + seconds


_Entry = tuple[int, logging.LogRecord]


class _Lane:
    """What waits for one sink, oldest first, and how it goes with that sink."""

    def __init__(self, sink: logging.Handler, max_bytes: int, max_records: int) -> None:
        self.sink = sink
        self.name = ""
        self.entries: deque[_Entry] = deque()
        self.in_hand = 0
        self.finished = 0
        self.tries_at = 0.0
        self.leaves_at: Optional[float] = None
        self.is_hung = False
        self.has_come_back = False
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._used_bytes = 0
        self._lost = 0
        self._error: Optional[BaseException] = None
        self._caught: Optional[BaseException] = None
        self._hang_was_told = False
        self._failure_was_told = False
        self._told_at = -_TELL_SECONDS
        # A handler's `emit` hands its errors to this method, which by default prints them to stderr.
        sink.handleError = self._catch  # type: ignore[method-assign]

    def _catch(self, record: logging.LogRecord) -> None:
        del record
        self._caught = sys.exc_info()[1]

    def put(self, record: logging.LogRecord, size_bytes: int) -> None:
        self.entries.append((size_bytes, record))
        self._used_bytes += size_bytes
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        while self.entries and (len(self.entries) > self._max_records or self._used_bytes > self._max_bytes):
            self._used_bytes -= self.entries.popleft()[0]
            self._lose(1)

    def _lose(self, count: int) -> None:
        self.finished += count
        self._lost += count
        place = f"sink {self.name}"
        _diagnostics.counts[place] = _diagnostics.counts.get(place, 0) + count

    def lose_all(self) -> None:
        self._lose(len(self.entries))
        self.entries.clear()
        self._used_bytes = 0

    def take(self) -> Optional[_Entry]:
        if self.is_hung or not self.entries:
            return None
        entry = self.entries.popleft()
        self._used_bytes -= entry[0]
        self.in_hand = 1
        return entry

    def handle(self, record: logging.LogRecord) -> Optional[BaseException]:
        return self._outcome(lambda: self.sink.handle(record))

    def close(self) -> Optional[BaseException]:
        try:
            return self._outcome(self.sink.close)
        finally:
            del self.sink.handleError

    def _outcome(self, call: Callable[[], Any]) -> Optional[BaseException]:
        self._caught = None
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - a sink may raise anything; the thread serves others too
            return error
        return self._caught

    def finish(self, entry: _Entry, error: Optional[BaseException]) -> None:
        self.in_hand = 0
        if error is None:
            self.finished += 1
            self._error = None
            return
        self.fail(error)
        retry_seconds = getattr(self.sink, "retry_seconds", None) if isinstance(error, OSError) else None
        now = time.monotonic()
        if retry_seconds is None:
            self._lose(1)
            return
        self.tries_at = now + max(retry_seconds, _SHORTEST_RETRY_SECONDS)
        self.entries.appendleft(entry)
        self._used_bytes += entry[0]
        self._drop_oldest()
        if self.leaves_at is not None and self.tries_at > self.leaves_at:
            self.lose_all()

    def fail(self, error: BaseException) -> None:
        self._error = error.with_traceback(None)

    def tell(self, now: float, *, is_last: bool = False) -> None:
        """Tell the operator what is new, at most once a minute but for the end of what was told."""
        if self.is_hung and not self._hang_was_told:
            self._hang_was_told = True
            self._tell("sink hangs: the others go on without it")
        if self.has_come_back:
            self.has_come_back = self._hang_was_told = False
            self._tell("sink works again", level=logging.INFO)
        may_tell = is_last or now - self._told_at >= _TELL_SECONDS
        if self._error is not None and may_tell and (not is_last or self._lost or not self._failure_was_told):
            self._told_at = now
            self._failure_was_told = True
            self._tell("sink failed", error=f"{type(self._error).__name__}: {self._error}")
        elif self._error is None and self._failure_was_told:
            self._failure_was_told = False
            self._tell("sink works again", level=logging.INFO)
        elif self._error is None and self._lost and may_tell:
            self._told_at = now
            self._tell("sink records dropped: it is slower than what is logged")

    def _tell(self, event: str, **fields: Any) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            fields["lost_records"] = lost
        _diagnostics.report(event, sink=self.name, **fields)

    def forget(self) -> None:
        self.entries.clear()
        self._used_bytes = self.in_hand = self._lost = 0
        self.tries_at = 0.0
        self.is_hung = self.has_come_back = self._hang_was_told = False


# The weight of a record besides its texts, measured with tracemalloc: to within a factor of two.
_RECORD_BYTES: Final = 2_000


def _weight(record: logging.LogRecord, extra_count: int) -> int:
    fields = vars(record)
    # The caller's own fields are its last; the others are short, but for these two.
    extra = islice(reversed(fields.values()), extra_count)
    return _RECORD_BYTES + len(record.msg) + len(record.exc_text or "") + sum(map(_value_bytes, extra))


def _value_bytes(value: Any) -> int:
    kind = type(value)
    if kind is str:
        return len(value)
    if kind is dict:
        return 64 + sum(64 + _value_bytes(key) + _value_bytes(item) for key, item in value.items())
    if kind is list:
        return 64 + sum(64 + _value_bytes(item) for item in value)
    return 0


_threads: weakref.WeakSet[SinkThread] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for thread in list(_threads):
        thread._after_fork()  # noqa: SLF001 - same module


def _shutdown_at_exit() -> None:
    for thread in list(_threads):
        thread.shutdown(_LEAVE_SECONDS)


os.register_at_fork(after_in_child=_after_fork_in_child)
# Before logging's own, which closes all handlers: the last registered runs first.
atexit.register(_shutdown_at_exit)
