"""Runs between the JVM and the console, as a process of its own, so that a console nobody reads stalls nobody.

TorchServe's frontend writes its console with blocking writes. When the reader of that pipe stops (a log driver that
waits for a full disk or a slow network), the JVM stops at the next line, with every worker and ``/ping``. This process
always reads what the JVM prints; what the console does not take waits here, within a bound. It has six duties:

- hand on whole lines, in order, as they came;
- escape the line separators U+2028 and U+2029 in them, which JSON allows and log4j leaves as they are;
- make an event of a line that is none: what bypasses log4j (``Model server started.``, the JVM's own warnings);
- mask secrets where log4j does not: in what bypasses it, and what the user's settings add in the JVM's own events;
- cut an event that is longer than a line may be: native code's and the JVM's own, for a worker cuts its own;
- when the bound is reached drop lines, those below WARNING first, and say how many in one event.

The launcher starts it with the interpreter alone (``-I -S``: no start-up files, no packages), so it imports nothing but
the standard library, and `_redaction`, which does the same. It ends when the JVM does: a signal that is meant for the
JVM must not end it first.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Optional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ts_otel_logging._redaction import Redaction

# Ten seconds of a busy server's lines. Those from WARNING up may use as much again as a quarter of it.
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
MAX_SEVERE_BYTES: Final = MAX_WAITING_BYTES + MAX_WAITING_BYTES // 4
# With the JVM gone, this long may the console take for the rest.
LAST_WRITE_SECONDS: Final = 5.0
# A thrown exception's lines come at once; the event is whole when none has come for this long.
_CONTINUATION_SECONDS: Final = 0.05
# The JVM writes line by line. To read many at once costs a tenth of the processor's time, and nobody sees the delay.
_GATHER_SECONDS: Final = 0.01
_CHUNK_BYTES: Final = 1024 * 1024
_RETRY_SECONDS: Final = 0.2

# The field's name in each shape of a line (docs/fields.md), and the levels that go first.
_LEVEL: Final = re.compile(rb'"(?:level|log\.level|severity|severityText|status)":\s?"(\w+)"')
_LEVEL_WITHIN_BYTES: Final = 400
_GO_FIRST: Final = frozenset((b"trace", b"debug", b"info", b"notice", b"default"))
# Stack frames, causes, and the box of text in which HotSpot tells of a crash.
_CONTINUES: Final = re.compile(rb"\s|Caused by: |Suppressed: |\.\.\. \d+ |#")
_MAX_TEXT_BYTES: Final = 64 * 1024
# What log4j's events have (_log4j2.xml), and hardly one of a worker's, which are masked already.
_OF_THE_JVM: Final = b',"thread":"'
_NEVER_SECRET: Final = frozenset(("timestamp", "level", "logger"))
_MASK: Final = "[REDACTED]"
_TRUNCATED: Final = "truncated"
# How the JVM, java.util.logging and log4j's own status logger begin a line that is more than its stream says.
_SAYS_LEVEL: Final = re.compile(r"(?:.* )?(WARN(?:ING)?|ERROR|SEVERE|FATAL)\b[: ]|Exception in thread|(#)")


class Console:
    """One stream of the console and the lines that wait for it.

    Args:
        descriptor: Where lines go; writing may block.
        name: ``stdout`` or ``stderr``, for reports.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._blocks: list[bytes] = []
        self._waiting_bytes = 0
        # Of how many blocks, from the oldest, the lines that go first are gone.
        self._thinned = 0
        self._dropped: Counter[str] = Counter()
        self._dropping_since = ""
        self._closed = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._write, name=f"console {name}", daemon=True)
        self._writer.start()

    def put(self, lines: bytes) -> None:
        """Take whole lines; never waits for the console."""
        with self._changed:
            if not self._dropping_since and self._waiting_bytes + len(lines) <= MAX_WAITING_BYTES:
                self._append(lines)
            else:
                for line in lines.splitlines(keepends=True):
                    self._put_or_drop(line)
            self._changed.notify()

    def close(self) -> None:
        """Give the console a last while to take what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join(LAST_WRITE_SECONDS)

    def _append(self, lines: bytes) -> None:
        self._blocks.append(lines)
        self._waiting_bytes += len(lines)

    def _put_or_drop(self, line: bytes) -> None:
        level = _level(line)
        if level in _GO_FIRST:
            # Once lines are missing, more would only hide where: they are taken again when there is room for many.
            fits = not self._dropping_since and self._waiting_bytes + len(line) <= MAX_WAITING_BYTES
        else:
            self._thin(self._waiting_bytes + len(line) - MAX_SEVERE_BYTES)
            fits = self._waiting_bytes + len(line) <= MAX_SEVERE_BYTES
        if fits:
            self._append(line)
        else:
            self._drop(level)

    def _thin(self, excess_bytes: int) -> None:
        """Drop waiting lines that go first, the oldest ones, until there is room or none is left."""
        while excess_bytes > 0 and self._thinned < len(self._blocks):
            kept = []
            for line in self._blocks[self._thinned].splitlines(keepends=True):
                level = _level(line)
                if level in _GO_FIRST:
                    self._drop(level)
                    self._waiting_bytes -= len(line)
                    excess_bytes -= len(line)
                else:
                    kept.append(line)
            self._blocks[self._thinned] = b"".join(kept)
            self._thinned += 1

    def _drop(self, level: bytes) -> None:
        self._dropping_since = self._dropping_since or _now()
        self._dropped[level.decode()] += 1

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._blocks:
                    if self._closed:
                        return
                    self._changed.wait()
                blocks = b"".join(self._blocks)
                self._blocks.clear()
                self._thinned = 0
            written = self._write_out(blocks)
            with self._changed:
                self._waiting_bytes -= len(blocks)
                if self._dropping_since and self._waiting_bytes <= MAX_WAITING_BYTES // 2:
                    self._append(self._report())
            if not written:
                return

    def _report(self) -> bytes:
        fields = {"dropped": dict(self._dropped), "since": self._dropping_since, "stream": self._name}
        self._dropped.clear()
        self._dropping_since = ""
        return _event("warning", "ts_otel_logging", "console lines dropped, nobody read them in time", **fields) + b"\n"

    def _write_out(self, lines: bytes) -> bool:
        rest = memoryview(lines)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # noqa: PERF203 - each write may fail by itself
                # Somebody else made the console non-blocking: it is theirs as well as ours.
                select.select((), (self._descriptor,), ())
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EBADF):
                    return False
                # A full disk, for one, may have room again.
                time.sleep(_RETRY_SECONDS)
        return True


def _level(line: bytes) -> bytes:
    found = _LEVEL.search(line, 0, _LEVEL_WITHIN_BYTES)
    return found[1].lower() if found else b"unknown"


class Rules:
    """What no line may have: secrets, and more than so many bytes.

    Args:
        max_bytes: The longest line, without its end.
        items: What is masked besides the built-in lists, as for `Redaction`.
    """

    def __init__(self, max_bytes: int, items: Sequence[str] = ()) -> None:
        self._max_bytes = max_bytes
        self._items = items
        self._loaded: Optional[Redaction] = None

    @property
    def _redaction(self) -> Redaction:
        # Not before there is something to mask: the JVM shall not wait for it.
        if self._loaded is None:
            package = os.path.dirname(os.path.abspath(__file__))
            sys.path.append(os.path.dirname(package))
            from ts_otel_logging._redaction import Redaction

            self._loaded = Redaction(self._items)
        return self._loaded

    def event(self, level: str, logger: str, text: str) -> bytes:
        """Return the line of a text without its secrets; with a mask, if it cannot be looked through."""
        try:
            text = self._redaction.text(text)
        except Exception:  # noqa: BLE001 - the console goes on
            text = _MASK
        return self._cut(_event(level, logger, text)) + b"\n"

    def lines(self, lines: bytes) -> bytes:
        """Return events without what the items say is secret, for log4j has looked for everything else; and cut."""
        if not self._items and len(lines) <= self._max_bytes:
            return lines
        return b"\n".join([self._line(line) for line in lines.split(b"\n")])

    def _line(self, line: bytes) -> bytes:
        if self._items and _OF_THE_JVM in line:
            line = self._masked(line)
        return self._cut(line)

    def _cut(self, line: bytes) -> bytes:
        if len(line) <= self._max_bytes:
            return line
        try:
            event = json.loads(line)
            event[_TRUNCATED] = True
            cut = _encoded(event)
            while len(cut) > self._max_bytes and _shorten(event, len(cut) - self._max_bytes):
                cut = _encoded(event)
        except (ValueError, TypeError, AttributeError, RecursionError):
            # Native code may print what only looks like an event: it passes as it is.
            return line
        return cut

    def _masked(self, line: bytes) -> bytes:
        try:
            event = json.loads(line)
            fields = {name: value for name, value in event.items() if name not in _NEVER_SECRET}
        except (ValueError, AttributeError, RecursionError):
            # Native code may print what only looks like an event: it passes as it is.
            return line
        try:
            masked = self._redaction.mapping(fields)
        except Exception:  # noqa: BLE001 - the console goes on
            masked = dict.fromkeys(fields, _MASK)
        return line if masked is fields else _encoded({**event, **masked})


def _shorten(event: dict[str, Any], excess_bytes: int) -> bool:
    """Cut the end of an event's longest text off; return whether there was one."""
    owners = [owner for owner in (event, event.get("exception")) if isinstance(owner, dict)]
    texts = [(len(text), owner, name) for owner in owners for name, text in owner.items() if isinstance(text, str)]
    size, owner, name = max(texts, key=itemgetter(0))
    encoded_bytes = len(json.dumps(owner[name]))
    # At most half of it, because another may be as long.
    kept = max(size * (encoded_bytes - excess_bytes) // encoded_bytes - 1, (size - 1) // 2)
    owner[name] = owner[name][:kept] + "…"
    return size > 1


class Text:
    """Lines that are no events, gathered until they are one: a stack trace comes in many.

    Args:
        console: Where the event goes.
        rules: What its line may not have.
        level: Its level, if it does not begin with one.
        logger: Its logger's name.
    """

    def __init__(self, console: Console, rules: Rules, level: str, logger: str) -> None:
        self._console = console
        self._rules = rules
        self._level = level
        self._logger = logger
        self._lines = b""

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, line: bytes) -> None:
        """Take one line; an empty one says nothing."""
        if self._lines and len(self._lines) < _MAX_TEXT_BYTES and _CONTINUES.match(line):
            self._lines += b"\n" + line
        else:
            self.flush()
            self._lines = line

    def flush(self) -> None:
        """Put what was gathered."""
        if self._lines:
            text = self._lines.decode("utf-8", "backslashreplace")
            self._lines = b""
            said = _SAYS_LEVEL.match(text)
            level = self._level if said is None else "warning" if (said[1] or "").startswith("WARN") else "error"
            self._console.put(self._rules.event(level, self._logger, text))


def relay(source: int, console: Console, rules: Rules, level: str, logger: str) -> None:
    """Hand on what a descriptor gives, until it ends.

    Args:
        source: A pipe's reading end.
        console: Where lines go.
        rules: What they may not have.
        level: The level of a line that is no event and does not say its own.
        logger: The logger's name of such a line.
    """
    text = Text(console, rules, level, logger)
    begun: list[bytes] = []
    while True:
        if text and not select.select((source,), (), (), _CONTINUATION_SECONDS)[0]:
            text.flush()
        chunk = os.read(source, _CHUNK_BYTES)
        whole, newline, rest = chunk.rpartition(b"\n")
        # Nobody's line is as long as all that may wait: what goes on without an end is cut.
        if newline or not chunk or sum(map(len, begun)) > MAX_WAITING_BYTES:
            lines = b"".join((*begun, whole, newline))
            begun = []
            # Nearly always every line is an event: one look finds that out.
            if not text and newline and lines.startswith(b"{") and lines.count(b"\n{") == lines.count(b"\n") - 1:
                console.put(rules.lines(_escaped(lines)))
            else:
                _put_mixed(lines, text, console, rules)
        if not chunk:
            text.flush()
            return
        begun.append(rest)
        time.sleep(_GATHER_SECONDS)


def _put_mixed(lines: bytes, text: Text, console: Console, rules: Rules) -> None:
    for line in lines.split(b"\n"):
        if line.startswith(b"{"):
            text.flush()
            console.put(rules.lines(_escaped(line)) + b"\n")
        elif line.strip():
            text.add(line)


def _escaped(lines: bytes) -> bytes:
    # The two begin alike in UTF-8; few lines have even that.
    if b"\xe2\x80" not in lines:
        return lines
    return lines.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


def _event(level: str, logger: str, text: str, **fields: object) -> bytes:
    return _encoded({"timestamp": _now(), "level": level, "logger": logger, "event": text, **fields})


def _encoded(event: dict[str, object]) -> bytes:
    # ASCII: no character in it ends a line anywhere.
    return json.dumps(event, separators=(",", ":")).encode("ascii")


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def main(stdout_source: int, stderr_source: int, max_bytes: int, *redact: str) -> None:
    """Relay both streams of the JVM until both have ended.

    Args:
        stdout_source: The descriptor that the JVM's standard output comes from.
        stderr_source: The descriptor that its standard error comes from.
        max_bytes: The longest line.
        redact: What is masked besides the built-in lists, as for `Redaction`.
    """
    rules = Rules(max_bytes, redact)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    consoles = Console(1, "stdout"), Console(2, "stderr")
    streams = (
        (stdout_source, consoles[0], rules, "info", "jvm.stdout"),
        (stderr_source, consoles[1], rules, "warning", "jvm.stderr"),
    )
    threads = [threading.Thread(target=relay, args=stream) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for console in consoles:
        console.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
