"""Threads, processes, signals, finalizers and tasks: every line counted, none torn, no deadlock."""

from __future__ import annotations

import asyncio
import collections
import io
import logging
import os
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from lines import Lines
from time_limit import time_limit_within
from ts_otel_logging import BridgeHandler, _scope
from ts_otel_logging._line_writer import LineWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

PROLOGUE = """
import logging, os, sys, threading
from ts_otel_logging import BridgeHandler
logging.basicConfig(handlers=[BridgeHandler()], level="INFO")
"""


def run(tmp_path: Path, program: str) -> list[dict[str, Any]]:
    """Run a program in a process of its own and return the events on its stdout, a pipe; a torn line fails."""
    script = tmp_path / "program.py"
    script.write_text(PROLOGUE + textwrap.dedent(program), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return Lines(result.stdout).objects


def counts(events: list[dict[str, Any]], key: str = "who") -> dict[Any, int]:
    return dict(collections.Counter(event.get(key) for event in events))


def interrupted_write(writer: LineWriter, at: set[int]) -> list[str]:
    """Write one line, and others at these steps of it, as a signal's handler may between any two; return the others."""
    steps = 0
    written: list[str] = []

    def interrupt(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != LineWriter.write.__code__.co_filename:
            return None
        if event == "line":
            steps += 1
            if steps in at:
                written.append(f"interrupt {len(written)}\n")
                writer.write(written[-1])
        return interrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        writer.write("main\n")
    finally:
        sys.settrace(before)
    return written


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("acme.concurrent")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers.clear()
    logger.propagate = True


class TestThreads:
    def test_sixteen_with_ten_thousand_records_each_lose_and_tear_nothing(self, tmp_path: Path) -> None:
        # Lines on both sides of PIPE_BUF, below which a write is whole by itself.
        events = run(
            tmp_path,
            """
            def work(who):
                for number in range(10_000):
                    logging.info("x" * (5_000 if number % 100 == 0 else 10), extra={"who": who, "number": number})
            threads = [threading.Thread(target=work, args=(who,)) for who in range(16)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            """,
        )
        numbers = collections.defaultdict(list)
        for event in events:
            numbers[event["who"]].append(event["number"])
        assert len(numbers) == 16
        assert all(got == list(range(10_000)) for got in numbers.values()), "each thread's own in its order"


MANY = """
    SIZES = (10, 3_000, 9_000, 14_000)
    def work(who):
        for number in range(120):
            logging.info("x" * SIZES[number % 4], extra={"who": who})
"""


class TestProcesses:
    def test_forked_ones_share_a_pipe(self, tmp_path: Path) -> None:
        events = run(
            tmp_path,
            MANY
            + """
    children = []
    for who in range(1, 5):
        pid = os.fork()
        if pid == 0:
            work(who)
            os._exit(0)
        children.append(pid)
    work(0)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
            """,
        )
        assert counts(events) == dict.fromkeys(range(5), 120)

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_those_of_multiprocessing_share_a_pipe(self, tmp_path: Path, method: str) -> None:
        events = run(
            tmp_path,
            MANY
            + f"""
    if __name__ == "__main__":
        import multiprocessing
        context = multiprocessing.get_context("{method}")
        processes = [context.Process(target=work, args=(who,)) for who in range(1, 4)]
        for process in processes: process.start()
        work(0)
        for process in processes: process.join()
        assert not any(process.exitcode for process in processes)
            """,
        )
        assert counts(events) == dict.fromkeys(range(4), 120)

    def test_four_append_to_one_file(self, tmp_path: Path) -> None:
        run(
            tmp_path,
            f"""
            handler = BridgeHandler(stream=open({str(tmp_path / "log")!r}, "a"))
            logging.getLogger().handlers = [handler]
            def work(who):
                # A stream of its own, as a worker has.
                handler = BridgeHandler(stream=open({str(tmp_path / "log")!r}, "a"))
                logging.getLogger().handlers = [handler]
                for number in range(120):
                    logging.info("x" * (10, 14_000)[number % 2], extra={{"who": who}})
            children = []
            for who in range(4):
                pid = os.fork()
                if pid == 0:
                    work(who)
                    os._exit(0)
                children.append(pid)
            for pid in children:
                assert os.waitpid(pid, 0)[1] == 0
            """,
        )
        events = Lines((tmp_path / "log").read_text(encoding="utf-8")).objects
        assert counts(events) == dict.fromkeys(range(4), 120)

    def test_a_fork_while_other_threads_write_leaves_a_child_that_can(self, tmp_path: Path) -> None:
        events = run(
            tmp_path,
            """
            stop = threading.Event()
            def chatter():
                while not stop.is_set():
                    logging.info("x" * 8_000, extra={"who": "thread"})
            threads = [threading.Thread(target=chatter) for _ in range(4)]
            for thread in threads: thread.start()
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    logging.info("child", extra={"who": "child"})
                    os._exit(0)
                os.waitpid(pid, 0)
            stop.set()
            for thread in threads: thread.join()
            """,
        )
        assert counts(events)["child"] == 20


class TestSignals:
    @pytest.mark.parametrize("first", range(1, 25))
    def test_what_interrupts_at_any_two_steps_of_a_write_is_written_once(self, first: int) -> None:
        for second in range(first + 1, 26):
            stream = io.StringIO()
            written = interrupted_write(LineWriter(stream), {first, second})
            assert sorted(stream.getvalue().splitlines(keepends=True)) == sorted([*written, "main\n"]), second

    def test_a_handler_may_log_in_the_middle_of_a_log_call(self, tmp_path: Path) -> None:
        # 14,000 bytes do not fit into the rest of a pipe now and then, and the signal interrupts the wait.
        events = run(
            tmp_path,
            """
            import signal
            calls = []
            def handler(*_):
                # In one step: the next signal may interrupt this one.
                calls.append(None)
                logging.info("y" * 6_000, extra={"who": "signal"})
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            for number in range(400):
                logging.info("x" * 14_000, extra={"who": "main"})
            signal.setitimer(signal.ITIMER_REAL, 0)
            # Runs what is pending first: the last one is counted before its count is told.
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            logging.info("end", extra={"count": len(calls)})
            """,
        )
        end = events[-1]
        assert end["event"] == "end"
        assert counts(events[:-1]) == {"main": 400, "signal": end["count"]}
        assert end["count"] > 0

    def test_one_that_interrupts_a_half_written_line_comes_after_it(self, tmp_path: Path) -> None:
        # A pipe that is full: the write is interrupted for sure after a part of the line.
        program = tmp_path / "program.py"
        program.write_text(
            PROLOGUE
            + textwrap.dedent("""
            import signal
            signal.signal(signal.SIGUSR1, lambda *_: logging.info("from the signal"))
            sys.stderr.write("ready")
            sys.stderr.flush()
            logging.getLogger().handlers = [BridgeHandler(max_record_bytes=400_000)]
            logging.info("start", extra={str(number): "x" * 60_000 for number in range(5)})
            logging.info("end")
            """),
            encoding="utf-8",
        )
        with subprocess.Popen(
            [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stderr.read(5) == b"ready"
            first = os.read(process.stdout.fileno(), 1)  # the line has begun, and cannot end
            process.send_signal(10)
            output = (first + process.stdout.read()).decode()
        assert [event["event"] for event in Lines(output).objects] == ["start", "from the signal", "end"]

    def test_one_that_ends_the_process_there_loses_no_line(self, tmp_path: Path) -> None:
        events = run(
            tmp_path,
            """
            import signal
            class Stream:
                def write(self, text):
                    sys.stdout.write(text)
                    if "first" in text:
                        os.kill(os.getpid(), signal.SIGTERM)
                def flush(self):
                    sys.stdout.flush()
            def terminate(*_):
                logging.info("terminating")
                sys.exit(0)
            signal.signal(signal.SIGTERM, terminate)
            logging.getLogger().handlers = [BridgeHandler(stream=Stream())]
            logging.info("first")
            logging.info("never")
            """,
        )
        assert [event["event"] for event in events] == ["first", "terminating"]

    def test_one_that_raises_leaves_no_lock_behind(self, logger: logging.Logger) -> None:
        written = io.StringIO()
        logger.addHandler(BridgeHandler(stream=written))
        with time_limit_within(LineWriter.write):
            logger.info("of this thread")
        thread = threading.Thread(target=logger.info, args=("of another",), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert '"event":"of another"' in written.getvalue()


class TestFinalizers:
    def test_they_may_log_at_the_interpreters_exit(self, tmp_path: Path) -> None:
        (tmp_path / "other.py").write_text(
            "import logging\nclass Other:\n    def __del__(self): logging.info('other', extra={'who': 'module'})\n"
            "other = Other()\n",
            encoding="utf-8",
        )
        events = run(
            tmp_path,
            """
            import atexit
            import other
            class Late:
                def __init__(self, who): self.who = who
                def __del__(self): logging.info("late", extra={"who": self.who})
            late = Late("global")
            cycle = Late("cycle"); cycle.self = cycle
            atexit.register(logging.info, "atexit", extra={"who": "atexit"})
            """,
        )
        assert counts(events) == dict.fromkeys(("global", "cycle", "module", "atexit"), 1)

    def test_they_may_log_in_the_middle_of_a_log_call(self, logger: logging.Logger) -> None:
        lines = Lines()

        class Stream(Lines):
            def write(self, text: str) -> int:
                half = len(text) // 2
                lines.write(text[:half])
                if "outer" in text:
                    logger.info("inner")
                return lines.write(text[half:])

        logger.addHandler(BridgeHandler(stream=Stream()))
        logger.info("outer")
        assert [line["event"] for line in lines.objects] == ["outer", "inner"]


class TestInside:
    def test_a_processor_that_logs_does_not_see_its_own_events_but_others_do(
        self, logger: logging.Logger, lines: Lines
    ) -> None:
        def chatty(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
            logger.info("said by the processor")
            return {**event_dict, "chatty": True}

        def other(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
            return {**event_dict, "other": True}

        logger.addHandler(BridgeHandler(processors=[chatty, other], stream=lines))
        logger.info("x")
        logger.info("y")
        seen = [(line["event"], line.get("chatty"), line.get("other")) for line in lines.objects]
        assert seen == [
            ("said by the processor", None, True), ("x", True, True),
            ("said by the processor", None, True), ("y", True, True),
        ]  # fmt: skip

    def test_two_that_log_end_too(self, logger: logging.Logger, lines: Lines) -> None:
        def first(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
            logger.info("by the first")
            return event_dict

        def second(_logger: Any, _method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
            logger.info("by the second")
            return event_dict

        logger.addHandler(BridgeHandler(processors=[first, second], stream=lines))
        logger.info("x")
        assert counts(lines.objects, "event") == {"by the first": 2, "by the second": 2, "x": 1}

    def test_a_value_that_logs_while_it_is_printed_costs_nothing(self, logger: logging.Logger, lines: Lines) -> None:
        class Chatty:
            def __repr__(self) -> str:
                logger.info("printing")
                return "chatty"

        logger.addHandler(BridgeHandler(stream=lines))
        logger.info("x", extra={"value": Chatty()})
        assert set(counts(lines.objects, "event")) == {"printing", "x"}
        assert lines.last["value"] == "chatty"


class TestTasks:
    def test_each_has_its_own_request_and_context(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(BridgeHandler(stream=lines))

        async def serve(request: str) -> None:
            _scope.enter(_scope.of_request(request, None))
            structlog.contextvars.bind_contextvars(tenant=request)
            for _ in range(20):
                logger.info("x")
                await asyncio.sleep(0)

        async def main() -> None:
            await asyncio.gather(*(serve(f"r{number}") for number in range(10)))

        asyncio.run(main())
        assert all(line["request_id"] == line["tenant"] for line in lines.objects)
        assert counts(lines.objects, "request_id") == {f"r{number}": 20 for number in range(10)}
