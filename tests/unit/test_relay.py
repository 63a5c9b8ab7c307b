"""What stands between the JVM and the console: whole lines, in order, and nobody waits for the reader."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ts_otel_logging
from ts_otel_logging import _relay

if TYPE_CHECKING:
    from collections.abc import Iterator

RELAY = Path(ts_otel_logging.__file__).with_name("_relay.py")
ENDS_WITHIN_SECONDS = 20


def line(number: int, level: str = "info", size: int = 0) -> bytes:
    event = {"timestamp": "2026-11-21T09:00:00.000000Z", "level": level, "event": f"{number}", "padding": "x" * size}
    return json.dumps(event).encode() + b"\n"


class Relayed:
    """A relay with the JVM's ends of both streams, and the console's."""

    def __init__(self, *redact: str, max_bytes: int = 1_000_000) -> None:
        sources, self.jvm = zip(os.pipe(), os.pipe())
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(RELAY), *map(str, sources), str(max_bytes), *redact],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=sources,
        )
        for source in sources:
            os.close(source)

    def write(self, data: bytes, stream: int = 0) -> None:
        """Print as the JVM does; blocks when the relay does not read."""
        while data:
            data = data[os.write(self.jvm[stream], data) :]

    def end(self) -> tuple[bytes, bytes]:
        """End the JVM and give all that the console got."""
        for descriptor in self.jvm:
            os.close(descriptor)
        self.jvm = ()
        out, err = self.process.communicate(timeout=ENDS_WITHIN_SECONDS)
        assert self.process.returncode == 0
        return out, err


@pytest.fixture
def relayed(request) -> Iterator[Relayed]:
    """Its parameter is what is masked besides the built-in lists, or the longest line."""
    parameter = getattr(request, "param", ())
    relayed = Relayed(max_bytes=parameter) if isinstance(parameter, int) else Relayed(*parameter)
    yield relayed
    for descriptor in relayed.jvm:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    relayed.process.kill()
    relayed.process.communicate()


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(text) for text in data.splitlines()]


def test_events_leave_as_they_came_on_the_stream_they_came_on(relayed):
    out, err = (b"".join(line(number) for number in numbers) for numbers in (range(500), range(500, 600)))
    relayed.write(out)
    relayed.write(err, stream=1)
    assert relayed.end() == (out, err)


def test_line_separators_that_json_allows_are_escaped_and_nothing_else_is(relayed):
    text = "“quoted” a\u2028b\u2029c\u2013"
    relayed.write(json.dumps({"event": text}, ensure_ascii=False).encode() + b"\n" + f"raw {text}\n".encode())
    out = relayed.end()[0]
    assert not {"\u2028", "\u2029"} & set(out.decode())
    assert "“quoted” a" in out.decode()
    assert [json.loads(line)["event"] for line in out.decode().split("\n")[:-1]] == [text, f"raw {text}"]


def test_a_line_that_comes_in_pieces_is_handed_on_whole(relayed):
    whole = line(1, size=200_000)
    for start in range(0, len(whole), 30_000):
        relayed.write(whole[start : start + 30_000])
    assert relayed.end()[0] == whole


@pytest.mark.parametrize(
    ("text", "stream", "level"),
    [
        ("Model server started.", 0, "info"),
        ("WARNING: sun.reflect.Reflection.getCallerClass is not supported.", 0, "warning"),
        ("OpenJDK 64-Bit Server VM warning: something", 1, "warning"),
        (
            'Exception in thread "main" java.lang.Error: no\n\tat a.B.c(B.java:1)\nCaused by: d\n\t... 2 more',
            1,
            "error",
        ),
        ("#\n# A fatal error has been detected by the Java Runtime Environment:\n#", 0, "error"),
        ("not UTF-8: \\xff", 0, "info"),
    ],
)
def test_what_is_no_event_becomes_one_with_the_level_that_it_says_or_its_streams(relayed, text, stream, level):
    raw = text.encode().replace(b"\\xff", b"\xff")
    relayed.write(line(1) + raw + b"\n\n" + line(2), stream)
    first, event, second = events(relayed.end()[stream])
    assert (first["event"], second["event"]) == ("1", "2")
    assert (event["event"], event["level"]) == (text, level)
    assert event["logger"] == ("jvm.stdout", "jvm.stderr")[stream]
    assert list(event)[:4] == ["timestamp", "level", "logger", "event"]


def test_text_is_an_event_although_nothing_comes_after_it(relayed):
    relayed.write(b"Model server started.\n")
    assert json.loads(relayed.process.stdout.readline())["event"] == "Model server started."


def test_a_last_line_without_an_end_is_not_lost(relayed):
    relayed.write(line(1) + b"the end")
    assert [event["event"] for event in events(relayed.end()[0])] == ["1", "the end"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_the_jvm_does_not_end_it(relayed, number):
    relayed.write(line(1))
    assert relayed.process.stdout.readline() == line(1)
    relayed.process.send_signal(number)
    relayed.write(line(2))
    assert relayed.end()[0] == line(2)


class TestAConsoleThatNobodyReads:
    NUMBERS = range(40_000)

    @pytest.fixture
    def written(self, relayed) -> list[bytes]:
        """Far more than may wait, every hundredth line a warning; written although nobody reads."""
        lines = [line(number, "info" if number % 100 else "warning", 150) for number in self.NUMBERS]
        assert sum(map(len, lines)) > 2 * _relay.MAX_WAITING_BYTES
        writer = threading.Thread(target=relayed.write, args=(b"".join(lines),), daemon=True)
        writer.start()
        writer.join(ENDS_WITHIN_SECONDS)
        assert not writer.is_alive(), "the JVM waited for the console"
        return lines

    def test_keeps_every_warning_and_says_once_how_much_is_missing(self, relayed, written):
        read = events(relayed.end()[0])
        reports = [event for event in read if event["event"].startswith("console lines dropped")]
        assert len(reports) == 1
        kept = [event for event in read if event not in reports]
        assert len([event for event in kept if event["level"] == "warning"]) == len(self.NUMBERS) // 100
        assert len(kept) + sum(reports[0]["dropped"].values()) == len(written)
        assert set(reports[0]["dropped"]) == {"info"}
        assert (reports[0]["level"], reports[0]["stream"]) == ("warning", "stdout")

    def test_lines_below_warning_go_before_any_other(self, relayed):
        # As many bytes of each as may wait.
        size = 150
        count = _relay.MAX_WAITING_BYTES // len(line(10_000, "info", size))
        lines = [line(number, "info" if number < count else "error", size) for number in range(2 * count)]
        writer = threading.Thread(target=relayed.write, args=(b"".join(lines),), daemon=True)
        writer.start()
        writer.join(ENDS_WITHIN_SECONDS)
        read = events(relayed.end()[0])
        [report] = [event for event in read if event["event"].startswith("console lines dropped")]
        assert set(report["dropped"]) == {"info"}
        numbers = [int(event["event"]) for event in read if event is not report]
        assert numbers == sorted(numbers)
        assert numbers[-count:] == list(range(count, 2 * count))
        assert len(numbers) + report["dropped"]["info"] == len(lines)

    def test_keeps_the_order(self, relayed, written):
        numbers = [int(event["event"]) for event in events(relayed.end()[0]) if event["event"].isdigit()]
        assert numbers == sorted(numbers)

    def test_hands_on_again_once_somebody_reads(self, relayed, written):
        later = line(len(written))
        for read in relayed.process.stdout:
            if read.startswith(b'{"timestamp"') and b"console lines dropped" in read:
                relayed.write(later)
            if read == later:
                break
        else:
            pytest.fail("the line after the gap never came")


JVM = {"timestamp": "2026-11-21T09:00:00.000000Z", "level": "info", "logger": "ACME-1", "event": "started"}
THREAD = {"thread": "W-9000-m_1.0-stdout"}


@pytest.mark.parametrize("relayed", [1_000], indirect=True)
class TestLongLines:
    def cut(self, relayed: Relayed, data: bytes) -> dict[str, Any]:
        relayed.write(line(1) + data + b"\n" + line(2))
        before, cut, after = relayed.end()[0].splitlines(keepends=True)
        assert (before, after) == (line(1), line(2))
        assert len(cut) <= 1_000 + 1
        return json.loads(cut)

    @pytest.mark.parametrize("text", ["x" * 5_000, "“" * 900, '\\"' * 2_000, "a\u2028" * 900])
    def test_an_event_loses_the_end_of_its_text(self, relayed, text):
        event = self.cut(relayed, json.dumps({**JVM, "event": text, **THREAD}, ensure_ascii=False).encode())
        assert event.pop("truncated") is True
        shown = event.pop("event")
        assert shown.endswith("…")
        assert text.startswith(shown[:-1])
        assert len(shown) > 100
        assert {**event, "event": JVM["event"]} == {**JVM, **THREAD}

    def test_of_two_long_texts_both_do(self, relayed):
        exception = {"stacktrace": "java.lang.Error: x" + "\n\tat a.B.c(B.java:1)" * 200}
        event = self.cut(relayed, json.dumps({**JVM, "event": "y" * 5_000, "exception": exception}).encode())
        assert event["truncated"] is True
        assert event["event"].startswith("y")
        assert event["exception"]["stacktrace"].startswith("java.lang.Error: x")

    def test_text_that_is_no_event_becomes_one_that_fits(self, relayed):
        event = self.cut(relayed, b"native " + b"z" * 5_000)
        assert event["truncated"] is True
        assert event["event"].startswith("native zzz")

    @pytest.mark.parametrize("looks", [b'{"a":[' + b"1," * 2_000 + b"1]}", b'{"no end":"' + b"x" * 2_000])
    def test_what_has_no_text_to_cut_passes(self, relayed, looks):
        relayed.write(looks + b"\n")
        assert relayed.end()[0].startswith(looks[:-2])


class TestSecrets:
    def test_what_bypasses_log4j_is_looked_through(self, relayed):
        relayed.write(b"-Dkeystore.password=hunter2 is set\n")
        assert events(relayed.end()[0])[0]["event"] == "-Dkeystore.password=[REDACTED] is set"

    @pytest.mark.parametrize("relayed", [("customer_id", "/ACME-[0-9]+/")], indirect=True)
    @pytest.mark.parametrize(
        ("fields", "masked"),
        [
            ({"event": "for ACME-7 and customer_id=8"}, {"event": "for [REDACTED] and customer_id=[REDACTED]"}),
            ({"url.path": "/models/ACME-7"}, {"url.path": "/models/[REDACTED]"}),
            ({"exception": {"stacktrace": "“ACME-7”\n at"}}, {"exception": {"stacktrace": "“[REDACTED]”\n at"}}),
            ({"metric_dimensions": {"customer_id": "8"}}, {"metric_dimensions": {"customer_id": "[REDACTED]"}}),
        ],
    )
    def test_what_the_settings_add_is_masked_in_the_jvms_events(self, relayed, fields, masked):
        clean = json.dumps({**JVM, "event": "“clean”", **THREAD}, separators=(",", ":"), ensure_ascii=False)
        other = line(1) + clean.encode() + b"\n"
        relayed.write(other + json.dumps({**JVM, **fields, **THREAD}, separators=(",", ":")).encode() + b"\n")
        out = relayed.end()[0]
        assert out.startswith(other)
        [event] = events(out[len(other) :])
        assert event == {**JVM, **masked, **THREAD}

    @pytest.mark.parametrize("relayed", [("/ACME-[0-9]+/",)], indirect=True)
    def test_text_and_events_that_come_together_are_both_masked(self, relayed):
        event = json.dumps({**JVM, "event": "ACME-7", **THREAD}, separators=(",", ":"))
        relayed.write(f"text of ACME-7\n{event}\n".encode())
        assert [each["event"] for each in events(relayed.end()[0])] == ["text of [REDACTED]", "[REDACTED]"]

    @pytest.mark.parametrize("relayed", [("/ACME-[0-9]+/",)], indirect=True)
    @pytest.mark.parametrize(
        "looks",
        [b'{"event":"no end,"thread":"ACME-7"', b'{"a":' + b"[" * 100_000 + b',"thread":"ACME-7"}'],
        ids=["broken", "deep"],
    )
    def test_what_only_looks_like_an_event_passes(self, relayed, looks):
        relayed.write(looks + b"\n")
        assert relayed.end()[0] == looks + b"\n"


def test_a_console_that_is_gone_does_not_stop_the_jvm(relayed):
    relayed.process.stdout.close()
    # More than the pipe holds: only a relay that goes on reading lets this end.
    size = fcntl.fcntl(relayed.jvm[0], 1032)  # F_GETPIPE_SZ
    writer = threading.Thread(target=relayed.write, args=(line(1, size=1_000) * (size // 250),), daemon=True)
    writer.start()
    writer.join(ENDS_WITHIN_SECONDS)
    assert not writer.is_alive()
    for descriptor in relayed.jvm:
        os.close(descriptor)
    relayed.jvm = ()
    assert relayed.process.wait(ENDS_WITHIN_SECONDS) == 0
