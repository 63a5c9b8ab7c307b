"""What Python code prints becomes events: whole, of the thread that printed it, and nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import textwrap
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from ts_otel_logging import BridgeHandler, _scope
from ts_otel_logging._stdio import Capture

if TYPE_CHECKING:
    from lines import Lines


class Streams:
    """The process's streams, captured inside a ``with``: pytest puts its own in place before each phase of a test."""

    def __init__(self, lines: Lines, *processors: Any) -> None:
        self.stdout, self.stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        self._handler = BridgeHandler(processors=processors, stream=lines)

    def __enter__(self) -> Capture:
        self._before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = self.stdout, self.stderr
        self._capture = Capture(self._handler.handle)
        return self._capture

    def __exit__(self, *_: object) -> None:
        self._capture.undo()
        sys.stdout, sys.stderr = self._before


def raw(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()


def texts(lines: Lines) -> list[str]:
    return [event["event"] for event in lines.objects]


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        (lambda: print("one"), ["one"]),
        (lambda: print("a", 1, sep="-"), ["a-1"]),
        (lambda: print("by", end=" ") or print("pieces"), ["by pieces"]),
        (lambda: print("a\nb"), ["a\nb"]),
        (lambda: sys.stdout.write("a\nb\n"), ["a\nb"]),
        (lambda: sys.stdout.writelines(["x\n", "y\n"]), ["x", "y"]),
        (print, []),
        (lambda: print("  indented"), ["  indented"]),
        (lambda: sys.stdout.buffer.write(b"bytes \xff\n"), ["bytes \\xff"]),
        (lambda: print("half \ud83d"), ["half \\ud83d"]),
        (lambda: print("100 %d"), ["100 %d"]),
        (lambda: print("dos", end="\r\n"), ["dos"]),
        (lambda: [print(f"\r{n} %", end="", flush=True) for n in range(100)] and print(), ["99 %"]),
        (lambda: [print(f"{n} %", end="\r", flush=True) for n in range(100)] and print(), ["99 %"]),
    ],
)
def test_what_is_printed_is_one_event_a_write(lines, do, expected):
    with Streams(lines):
        do()
        assert texts(lines) == expected


def test_the_streams_differ_in_logger_and_level(lines):
    with Streams(lines):
        print("out")
        print("err", file=sys.stderr)
        assert [(e["logger"], e["level"], e["event"]) for e in lines.objects] == [
            ("stdout", "info", "out"),
            ("stderr", "warning", "err"),
        ]


def test_text_without_an_end_waits_and_is_an_event_when_its_request_ends(lines):
    with Streams(lines) as capture:
        print("no end", end="", flush=True)
        assert texts(lines) == []
        capture.end_lines()
        assert texts(lines) == ["no end"]


def test_text_without_an_end_is_an_event_when_everything_is_put_back(lines):
    with Streams(lines) as capture:
        print("no end", end="")
        capture.undo()
        assert texts(lines) == ["no end"]


def test_endless_text_without_an_end_of_line_does_not_wait_for_ever(lines):
    with Streams(lines):
        for _ in range(200):
            print("x" * 1_000, end="")
        assert 2 <= len(texts(lines)) <= 4


def test_threads_that_print_by_pieces_are_not_mixed(lines):
    with Streams(lines):
        barrier = threading.Barrier(4)

        def work(number: int) -> None:
            for _ in range(100):
                barrier.wait()
                print(f"{number}", end="")
                print(f"{number}", end="")
                print(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(texts(lines)) == sorted(f"{n}{n}{n}" for n in range(4) for _ in range(100))


class TestTextWithoutAnEndOfSeveralRequests:
    def run(self, request_id: str, text: str, *, end: str = "") -> None:
        """Print in a request from a thread that is over before anybody else prints: the next may get its ident."""

        def work() -> None:
            _scope.enter(_scope.of_request(request_id, None))
            print(text, end=end)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def test_is_never_in_the_line_of_another(self, lines):
        with Streams(lines) as capture:
            self.run("1", "secret of 1")
            self.run("2", " line of 2", end="\n")
            capture.undo()
        events = {event["event"].strip(): event["request_id"] for event in lines.objects}
        assert events == {"secret of 1": "1", "line of 2": "2"}

    def test_of_one_thread_is_an_event_of_each(self, lines):
        with Streams(lines):
            for request_id, end in (("1", ""), ("2", "\n")):
                token = _scope.enter(_scope.of_request(request_id, None))
                print("text", end=end)
                _scope.leave(token)
        assert [(event["event"], event["request_id"]) for event in lines.objects] == [("text", "1"), ("text", "2")]

    def test_of_threads_that_are_no_more_does_not_gather(self, lines):
        with Streams(lines):
            for number in range(10):
                self.run(str(number), f"text {number}")
            assert len(lines.objects) >= 9

    def test_of_a_living_thread_is_an_event_when_its_request_ends(self, lines):
        printed, ended = threading.Event(), threading.Event()

        def work(scope: _scope.Scope) -> None:
            _scope.enter(scope)
            print("waits", end="")
            printed.set()
            ended.wait()

        scope = _scope.of_request("1", None)
        thread = threading.Thread(target=work, args=(scope,), daemon=True)
        with Streams(lines) as capture:
            thread.start()
            printed.wait()
            capture.end_lines()
            assert texts(lines) == []
            token = _scope.enter(scope)
            capture.end_lines()
            _scope.leave(token)
            assert [(event["event"], event["request_id"]) for event in lines.objects] == [("waits", "1")]
            ended.set()
            thread.join()


@pytest.mark.parametrize(
    "do",
    [
        traceback.print_exc,
        lambda: traceback.print_exception(*sys.exc_info()),
        lambda: traceback.print_exc(file=sys.stdout),
        lambda: sys.stderr.write(traceback.format_exc()),
    ],
)
def test_a_traceback_is_one_event(lines, do):
    with Streams(lines):
        try:
            try:
                raise KeyError("inner")  # noqa: TRY301 - an exception with a context
            except KeyError:
                raise ValueError("first\nsecond") from None
        except ValueError:
            # Read when it is called: the fixture has replaced it.
            (traceback.print_exc if do is traceback.print_exc else do)()
        [text] = texts(lines)
        assert text.startswith("Traceback (most recent call last):")
        assert text.endswith("ValueError: first\nsecond")


def test_a_stack_is_one_event(lines):
    with Streams(lines):
        traceback.print_stack()
        [text] = texts(lines)
        assert "test_a_stack_is_one_event" in text


def test_a_traceback_for_a_file_goes_there(lines):
    with Streams(lines):
        file = io.StringIO()
        try:
            raise ValueError("mine")  # noqa: TRY301 - to have a traceback
        except ValueError:
            traceback.print_exc(file=file)
        assert "ValueError: mine" in file.getvalue()
        assert texts(lines) == []


def test_a_processor_that_prints_does_not_call_itself(lines):
    def chatty(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
        print("seen", event["event"])
        return event

    streams = Streams(lines, chatty)
    with streams:
        print("once")
    assert texts(lines) == ["once"]
    assert raw(streams.stdout) == "seen once\n"


def test_programs_that_ask_a_stream_get_answers(lines):
    with Streams(lines):
        assert sys.stdout.writable()
        assert sys.stdout.encoding == "utf-8"
        assert sys.stdout.mode == "w"
        assert sys.stdout.name == "<stdout>"
        assert not sys.stdout.closed
        with contextlib.redirect_stdout(io.StringIO()) as text:
            print("redirected")
    assert text.getvalue() == "redirected\n"
    assert texts(lines) == []


def test_a_stream_that_somebody_kept_prints_as_it_is_after_undo(lines):
    streams = Streams(lines)
    with streams:
        kept = sys.stdout
    print("kept", file=kept)
    assert texts(lines) == []
    assert raw(streams.stdout) == "kept\n"


def test_undo_puts_back_what_is_still_ours(lines):
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook, traceback.print_exception
    streams = Streams(lines)
    with streams as capture:
        sys.stderr = somebody_elses = io.StringIO()
        capture.undo()
        assert sys.stdout is streams.stdout
        assert sys.stderr is somebody_elses
    assert (sys.excepthook, threading.excepthook, sys.unraisablehook, traceback.print_exception) == hooks


def test_an_exception_of_a_thread_is_an_event_and_its_hook_is_called(lines, monkeypatch):
    called = []
    monkeypatch.setattr(threading, "excepthook", called.append)

    def fail() -> None:
        raise ValueError("in a thread")

    with Streams(lines):
        thread = threading.Thread(target=fail, name="worker-1")
        thread.start()
        thread.join()
    [event] = lines.objects
    assert (event["event"], event["level"]) == ("uncaught exception in thread worker-1", "error")
    assert event["exception"]["type"] == "ValueError"
    assert len(called) == 1


class TestAProgram:
    def run(self, code: str) -> tuple[list[str], subprocess.CompletedProcess[str]]:
        head = """
            import logging, os, subprocess, sys, threading, faulthandler
            import ts_otel_logging
            for signal in ("TRACES", "LOGS", "METRICS"):
                os.environ[f"OTEL_{signal}_EXPORTER"] = "none"
            ts_otel_logging.configure()
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout.split("\n")[:-1], done

    def events(self, code: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(code)[0]]

    def test_an_uncaught_exception_is_its_last_event(self):
        out, done = self.run("print('begun', end='')\nraise ValueError('the end')")
        begun, event = map(json.loads, out)
        assert begun["event"] == "begun"
        assert (event["event"], event["level"]) == ("uncaught exception", "critical")
        assert event["exception"]["message"] == "the end"
        assert done.returncode == 1
        assert done.stderr == ""

    def test_what_an_interpreter_cannot_raise_is_an_event(self):
        [event] = self.events(
            """
            class Bad:
                def __del__(self):
                    raise ValueError("in __del__")
            Bad()
            """
        )
        assert event["level"] == "error"
        assert "Bad" in event["event"]
        assert event["exception"]["message"] == "in __del__"

    def test_a_line_without_an_end_is_there_when_the_program_ends(self):
        [event] = self.events("print('no end', end='')")
        assert event["event"] == "no end"

    def test_a_subprocess_and_native_code_write_as_they_did(self):
        out, _ = self.run(
            """
            subprocess.run([sys.executable, "-c", "print('child')"], stdout=sys.stdout, check=True)
            os.write(1, b"native\\n")
            sys.__stdout__.write("raw\\n")
            sys.__stdout__.flush()
            faulthandler.enable()
            """
        )
        assert out == ["child", "native", "raw"]

    def test_a_forked_child_does_not_repeat_what_its_parent_had_begun(self):
        events = self.events(
            """
            print("parent", end="")
            if os.fork() == 0:
                print("child")
                os._exit(0)
            os.wait()
            print()
            """
        )
        assert sorted(event["event"] for event in events) == ["child", "parent"]

    def test_a_users_stream_handler_does_not_double_records(self):
        events = self.events(
            """
            ts_otel_logging.shutdown()
            logging.getLogger("acme").addHandler(logging.StreamHandler(sys.stdout))
            ts_otel_logging.configure()
            logging.getLogger("acme").warning("once")
            """
        )
        assert [event["event"] for event in events if event["logger"] == "acme"] == ["once"]
        assert [event for event in events if event["logger"] == "stdout"] == []

    def test_off_leaves_everything_alone(self):
        out, _ = self.run("ts_otel_logging.configure(capture=False)\nprint('as ever')\nlogging.info('x')")
        assert out[0] == "as ever"
