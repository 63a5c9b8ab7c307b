"""`ts-otel-logging show FOLDER`: the last traces as waterfalls, with their log lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ts_otel_logging._cli._otlp_files import LOG_FILES, SPAN_FILES, Problems, Selection, find_files, read_traces
from ts_otel_logging._cli._waterfall import ASCII_DRAWING, draw, visible

if TYPE_CHECKING:
    from pathlib import Path

SHOWN, NOTHING_FOUND, NO_FILES = 0, 1, 2


def run(folder: Path, selection: Selection, *, with_stacks: bool) -> int:
    """Print the selected traces of a folder, the oldest first, and return the exit code.

    Args:
        folder: Where `otlp_json_file` wrote its files.
        selection: Which traces are wanted.
        with_stacks: Whether the stack traces of exceptions follow their messages.

    Returns:
        0 when a trace was shown, 1 when nothing matched, 2 when there is no folder or no file to read.
    """
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        _say(errors, f"{folder} {what}. {_ACCEPTED}")
        return NO_FILES
    if not find_files(folder, SPAN_FILES) and not find_files(folder, LOG_FILES):
        _say(errors, f"{folder} has no {SPAN_FILES} and no {LOG_FILES}. {_ACCEPTED}")
        return NO_FILES

    traces, problems = read_traces(folder, selection)
    console = Console(highlight=False, markup=False)
    draws_unicode = console.encoding.startswith("utf")
    for trace in traces:
        for row in draw(trace, console, with_stacks=with_stacks):
            if not draws_unicode:
                row.plain = row.plain.translate(ASCII_DRAWING)
            console.print(row, no_wrap=True, crop=row.overflow != "ignore", overflow="ignore")
        console.print()
    if not traces:
        _say(errors, f"{folder} holds {_wanted(selection)}.")
    _say_problems(errors, problems)
    return SHOWN if traces else NOTHING_FOUND


_ACCEPTED = (
    "Accepted: a folder of OTLP JSON lines files, which a worker writes where OTEL_TRACES_EXPORTER and "
    "OTEL_LOGS_EXPORTER are otlp_json_file (TS_OTEL_LOGGING_FILE_DIR, else $LOG_LOCATION/otlp, else logs/otlp)."
)


def _wanted(selection: Selection) -> str:
    conditions = [f"whose id begins with {selection.trace_id_prefix}"] if selection.trace_id_prefix else []
    if selection.errors_only:
        conditions.append("with an error")
    return " ".join(["no trace", *(conditions or ["yet"])])


def _say_problems(errors: Console, problems: Problems) -> None:
    for name, (count, first) in sorted(problems.lines.items()):
        lines = f"line {first} was" if count == 1 else f"{count:,} lines, the first is line {first}, were"
        _say(errors, f"{name}: {lines} left out: cut short, or not OTLP JSON.")
    for name, reason in sorted(problems.files.items()):
        _say(errors, f"{name} could not be read: {reason}.")


def _say(errors: Console, message: str) -> None:
    errors.print(Text(visible(message), "yellow"))


def write_anything() -> None:
    """Let the standard streams escape what their encoding lacks instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
