"""Sinks behind the queue: the caller never waits, each sink is on its own, and what is lost is counted and told."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any, Callable

import pytest
from opentelemetry.sdk.trace import TracerProvider

from ts_otel_logging import BridgeHandler, _diagnostics, _scope
from ts_otel_logging._sink_thread import THREAD_NAME, SinkThread
from ts_otel_logging.sinks import SyslogHandler, TimestampedFileHandler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lines import Lines

TRACER = TracerProvider().get_tracer("test")


class Kept(logging.Handler):
    """Keeps what it gets."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.messages: list[str] = []
        self.records: list[logging.LogRecord] = []
        self.is_closed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))
        self.records.append(record)

    def close(self) -> None:
        self.is_closed = True
        super().close()


class Held(Kept):
    """Hangs in its first record until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_in = threading.Event()
        self.goes = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.is_in.set()
        self.goes.wait()
        super().emit(record)


class Failing(Kept):
    """Raises while it is told to."""

    error: Exception | None = RuntimeError("out of order")

    def emit(self, record: logging.LogRecord) -> None:
        if self.error is not None:
            try:
                raise self.error  # noqa: TRY301 - as handlers of logging's do
            except Exception:  # noqa: BLE001 - as above
                self.handleError(record)
            return
        super().emit(record)


Start = Callable[..., SinkThread]


@pytest.fixture
def bridge(lines: Lines) -> BridgeHandler:
    bridge = BridgeHandler(stream=lines)
    root = logging.getLogger()
    root.addHandler(bridge)
    root.setLevel(logging.DEBUG)
    return bridge


@pytest.fixture
def log(bridge: BridgeHandler) -> logging.Logger:
    return logging.getLogger("acme.model")


@pytest.fixture
def start(bridge: BridgeHandler) -> Iterator[Start]:
    threads: list[SinkThread] = []

    def start(
        *,
        max_queue_bytes: int = 2_097_152,
        max_queue_records: int = 1_000,
        hang_seconds: float = 30.0,
        **sinks: logging.Handler,
    ) -> SinkThread:
        thread = SinkThread(
            max_queue_bytes=max_queue_bytes, max_queue_records=max_queue_records, hang_seconds=hang_seconds
        )
        thread.set_sinks(sinks)
        bridge.add_output(thread)
        threads.append(thread)
        return thread

    yield start
    for thread in threads:
        thread.shutdown(5)
    wait_until(lambda: not running())


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def told(lines: Lines) -> list[tuple[str, str]]:
    return [(line["event"], line["sink"]) for line in lines.objects if line["logger"] == "ts_otel_logging"]


class TestRecords:
    def test_a_traceback_ends_with_its_last_line(self, log: logging.Logger, start: Start) -> None:
        sink = Kept()
        thread = start(kept=sink)
        try:
            raise ValueError("broken")  # noqa: TRY301 - what is logged
        except ValueError:
            log.exception("failed")
        assert thread.flush(10.0)
        assert sink.messages[0].endswith("\nValueError: broken")

    def test_they_carry_message_extras_and_ids_for_any_formatter(self, log: logging.Logger, start: Start) -> None:
        sink = Kept()
        sink.setFormatter(
            logging.Formatter("%(name)s|%(message)s|%(answer)s|%(trace_id)s|%(span_id)s|%(request_id)s|%(model_name)s")
        )
        thread = start(kept=sink)
        log.info("outside %s", 1, extra={"answer": None})
        token = _scope.enter(_scope.of_request("request-1", None))
        with TRACER.start_as_current_span("predict") as span:
            log.info("inside", extra={"answer": [1]})
        _scope.leave(token)
        assert thread.flush(10)
        context = span.get_span_context()
        assert sink.messages == [
            "acme.model|outside 1|None||||",
            f"acme.model|inside|[1]|{context.trace_id:032x}|{context.span_id:016x}|request-1|",
        ]

    def test_what_the_caller_does_with_an_object_later_does_not_show(self, log: logging.Logger, start: Start) -> None:
        held = Held()
        thread = start(held=held)
        answer = {"digits": [1]}
        log.info("x", extra={"answer": answer})
        answer["digits"].append(2)
        held.goes.set()
        assert thread.flush(10)
        assert held.records[0].answer == {"digits": [1]}

    def test_nobodys_key_takes_the_place_of_another(self, log: logging.Logger, start: Start) -> None:
        import structlog

        sink = Kept()
        thread = start(kept=sink)
        with structlog.contextvars.bound_contextvars(name="theirs", levelno="theirs"):
            log.info("x", extra={"trace_id": "theirs"})
        assert thread.flush(10)
        [record] = sink.records
        assert (record.name, record.levelno, record.trace_id) == ("acme.model", logging.INFO, "")
        names = ("extra.name", "extra.levelno", "extra.trace_id")
        assert [vars(record)[name] for name in names] == ["theirs"] * 3

    def test_secrets_are_masked_before_they_are_queued(self, log: logging.Logger, start: Start) -> None:
        sink = Kept()
        thread = start(kept=sink)
        log.error("password=hunter2", extra={"api_key": "hunter2"}, exc_info=ValueError("token=hunter2abc"))
        assert thread.flush(10)
        assert "hunter2" not in f"{sink.messages} {vars(sink.records[0])}"

    def test_each_sinks_level_holds(self, log: logging.Logger, start: Start) -> None:
        everything, errors = Kept(), Kept(logging.ERROR)
        thread = start(everything=everything, errors=errors)
        log.debug("small")
        log.error("large")
        assert thread.flush(10)
        assert everything.messages == ["small", "large"]
        assert errors.messages == ["large"]


class TestThread:
    def test_one_serves_all_sinks_from_the_first_record_on(self, log: logging.Logger, start: Start) -> None:
        names: set[str] = set()

        class Named(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                names.add(threading.current_thread().name)

        thread = start(first=Named(), second=Named())
        assert running() == []
        log.info("x")
        assert thread.flush(10)
        assert names == {THREAD_NAME}
        assert len(running()) == 1

    def test_it_also_calls_what_is_due_every_now_and_then(self, start: Start) -> None:
        thread = start()
        calls: list[str] = []
        cancel = thread.every(0.01, lambda: calls.append(threading.current_thread().name))
        wait_until(lambda: len(calls) >= 3)
        cancel()
        assert set(calls) == {THREAD_NAME}
        seen = len(calls)
        done = threading.Event()
        thread.every(0.05, done.set)
        done.wait(10)
        assert len(calls) <= seen + 1, "one may have been under way"

    def test_a_forked_child_goes_on_with_a_thread_and_queues_of_its_own(
        self, log: logging.Logger, start: Start, tmp_path: Path
    ) -> None:
        held = Held()
        thread = start(held=held, file=TimestampedFileHandler(tmp_path / "custom.log"))
        log.info("of the parent")
        held.is_in.wait(10)
        child = os.fork()
        if not child:
            held.goes.set()
            log.info("of the child")
            is_flushed = thread.flush(10)
            os._exit(0 if is_flushed and held.messages == ["of the child"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        held.goes.set()
        assert thread.flush(10)
        assert held.messages == ["of the parent"]
        written = sorted(line.rpartition(" ")[2] for line in (tmp_path / "custom.log").read_text().splitlines())
        assert written == ["child", "parent"]

    def test_at_exit_what_waits_is_handed_on_and_the_sinks_are_closed(self, tmp_path: Path) -> None:
        program = textwrap.dedent(f"""
            import logging
            from ts_otel_logging import BridgeHandler
            from ts_otel_logging._sink_thread import SinkThread
            from ts_otel_logging.sinks import LatencyHandler
            thread = SinkThread()
            thread.set_sinks({{"latency": LatencyHandler({str(tmp_path / "latency.csv")!r})}})
            bridge = BridgeHandler()
            bridge.add_output(thread)
            logging.basicConfig(handlers=[bridge], level=logging.INFO)
            for number in range(500):
                logging.info("x", extra={{"inference_latency": 0.5}})
        """)
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, timeout=60)
        assert (tmp_path / "latency.csv").read_text().count(",0.5\n") == 500
        assert ",inference_latency,500,0.5,0.5," in (tmp_path / "latency.summary.csv").read_text()

    def test_what_a_sink_logs_while_it_handles_a_record_does_not_come_back_to_it(
        self, log: logging.Logger, start: Start, lines: Lines
    ) -> None:
        class Talking(Kept):
            def emit(self, record: logging.LogRecord) -> None:
                super().emit(record)
                log.info("connecting")

        sink = Talking()
        thread = start(talking=sink)
        log.info("x")
        assert thread.flush(10)
        assert sink.messages == ["x"]
        assert [line["event"] for line in lines.objects] == ["x", "connecting"]


class TestTrouble:
    def test_a_sink_that_raises_is_told_once_and_costs_the_others_nothing(
        self, log: logging.Logger, start: Start, lines: Lines, capfd: pytest.CaptureFixture[str]
    ) -> None:
        failing, kept = Failing(), Kept()
        thread = start(failing=failing, kept=kept)
        before = _diagnostics.counts.get("sink failing", 0)
        for number in range(50):
            log.info("%d", number)
        assert thread.flush(10)
        assert [message for message in kept.messages if message.isdigit()] == [str(number) for number in range(50)]
        wait_until(lambda: told(lines))
        assert told(lines) == [("sink failed", "failing")]
        [line] = [line for line in lines.objects if line["event"] == "sink failed"]
        assert line["error"] == "RuntimeError: out of order"
        assert _diagnostics.counts["sink failing"] - before >= 50
        assert capfd.readouterr().err == ""
        failing.error = None
        log.info("again")
        assert thread.flush(10)
        wait_until(lambda: len(told(lines)) == 2)
        assert told(lines)[1] == ("sink works again", "failing")
        assert failing.messages[0] == "again"

    def test_a_sink_that_hangs_for_ever_is_left_behind_and_the_caller_never_waits(
        self, log: logging.Logger, start: Start, lines: Lines
    ) -> None:
        held, kept = Held(), Kept()
        thread = start(hang_seconds=0.05, max_queue_records=10, held=held, kept=kept)
        log.info("first")
        held.is_in.wait(10)
        threading.Event().wait(0.06)
        log.info("second")
        wait_until(lambda: "second" in kept.messages)
        assert len(running()) == 2
        assert not thread.flush(10), "the one that hangs has not had it"
        for number in range(100):
            log.info("%d", number)
        wait_until(lambda: "99" in kept.messages)
        assert len(running()) == 2, "it is left behind once"
        assert told(lines)[0] == ("sink hangs: the others go on without it", "held")
        held.goes.set()
        wait_until(lambda: len(running()) == 1)
        log.info("last")
        assert thread.flush(10)
        assert held.messages[0] == "first"
        assert held.messages[-1] == "last"
        assert len(held.messages) < 20, "the oldest were dropped"
        assert ("sink works again", "held") in told(lines)

    def test_what_does_not_fit_drops_the_oldest_counted_and_told(
        self, log: logging.Logger, start: Start, lines: Lines
    ) -> None:
        held = Held()
        thread = start(max_queue_records=10, held=held)
        log.info("in hand")
        held.is_in.wait(10)
        for number in range(100):
            log.info("%d", number)
        held.goes.set()
        assert thread.flush(10)
        assert held.messages[:11] == ["in hand", *(str(number) for number in range(90, 100))]
        wait_until(lambda: told(lines))
        [line] = [line for line in lines.objects if line["logger"] == "ts_otel_logging"]
        assert line["event"].startswith("sink records dropped")
        assert (line["sink"], line["lost_records"]) == ("held", 90)

    def test_a_few_huge_records_fill_the_queue_too(self, log: logging.Logger, start: Start) -> None:
        held = Held()
        thread = start(max_queue_bytes=200_000, held=held)
        log.info("in hand")
        held.is_in.wait(10)
        for number in range(10):
            log.info("%d", number, extra={"body": "x" * 60_000})
        held.goes.set()
        assert thread.flush(10)
        assert held.messages[:4] == ["in hand", "7", "8", "9"]

    def test_a_full_disk_is_tried_again_until_there_is_room(
        self, log: logging.Logger, start: Start, lines: Lines, tmp_path: Path
    ) -> None:
        path = tmp_path / "custom.log"
        path.symlink_to("/dev/full")
        thread = start(file=TimestampedFileHandler(path))
        for number in range(20):
            log.info("%d", number)
        wait_until(lambda: told(lines))
        assert told(lines) == [("sink failed", "file")]
        path.unlink()
        wait_until(lambda: path.exists() and path.read_text().count("acme.model") == 20)
        written = [line for line in path.read_text().splitlines() if "acme.model" in line]
        assert [line.rpartition(" ")[2] for line in written] == [str(number) for number in range(20)]
        assert thread.flush(10)

    def test_a_file_and_a_host_that_cannot_be_had_are_told_while_the_others_work(
        self, log: logging.Logger, start: Start, lines: Lines, tmp_path: Path
    ) -> None:
        kept = Kept()
        thread = start(
            file=TimestampedFileHandler(tmp_path / "no" / "custom.log"),
            to_syslog=SyslogHandler(("no-such-host.invalid", 514)),
            kept=kept,
        )
        log.info("x")
        wait_until(lambda: {("sink failed", "file"), ("sink failed", "to_syslog")} <= set(told(lines)))
        assert kept.messages[0] == "x"
        thread.set_sinks({}, leave_seconds=0)

    def test_an_interrupt_in_a_sink_does_not_end_the_thread(self, log: logging.Logger, start: Start) -> None:
        class Leaving(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise SystemExit

        kept = Kept()
        thread = start(leaving=Leaving(), kept=kept)
        log.info("x")
        assert thread.flush(10)
        log.info("y")
        assert thread.flush(10)
        assert [message for message in kept.messages if len(message) == 1] == ["x", "y"]


class TestChangeOfSinks:
    def test_one_that_goes_gets_what_waits_and_is_closed_and_one_that_stays_goes_on(
        self, log: logging.Logger, start: Start
    ) -> None:
        stays, goes, comes = Kept(), Kept(), Kept()
        thread = start(stays=stays, goes=goes)
        log.info("before")
        thread.set_sinks({"stays": stays, "comes": comes})
        log.info("after")
        wait_until(lambda: goes.is_closed)
        assert thread.flush(10)
        assert (stays.messages, goes.messages, comes.messages) == (["before", "after"], ["before"], ["after"])
        assert not stays.is_closed

    def test_shutdown_keeps_its_deadline_when_a_sink_hangs(
        self, log: logging.Logger, start: Start, lines: Lines
    ) -> None:
        held, kept = Held(), Kept()
        thread = start(held=held, kept=kept)
        log.info("x")
        held.is_in.wait(10)
        log.info("y")
        assert not thread.shutdown(0.2)
        held.goes.set()
        wait_until(lambda: not running())
