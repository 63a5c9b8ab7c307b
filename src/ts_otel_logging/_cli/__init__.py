"""The command line: `ts-otel-logging doctor | show | version`, also `python -m ts_otel_logging._cli`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final, Optional

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERSIONS_SHOWN: Final = ("opentelemetry-sdk", "structlog", "torchserve")
_TRACE_ID_DIGITS: Final = 32


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The arguments after the program's name; the process's own by default.

    Returns:
        0 for success; what 1 and 2 mean is in the help of each command.

    Raises:
        SystemExit: With 2, when the arguments are wrong.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    # Each command imports what it needs itself: `version` stays instant, and nothing imports the SDK unasked.
    if arguments.command == "show":
        return _run_show(arguments)
    if arguments.command == "doctor":
        from ts_otel_logging._cli._doctor import run as run_doctor

        return run_doctor()
    if arguments.command == "version":
        return _run_version()
    parser.print_help(sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ts-otel-logging", description="Structured JSON logs, OTLP traces and latency histograms for TorchServe."
    )
    parser.add_argument("--version", action="store_const", const="version", dest="command", help="the same as version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "doctor", help="what is switched on, which settings hold, where data goes and whether it arrives"
    )
    show = commands.add_parser(
        "show",
        help="the last traces of a folder as waterfalls, with their log lines",
        description="Print the last traces of a folder of OTLP JSON lines files as waterfalls, with their log lines.",
        epilog="Exit code: 0 a trace was shown, 1 nothing matched, 2 no such folder or no such file in it.",
    )
    show.add_argument(
        "folder", metavar="FOLDER", help="where otlp_json_file wrote traces-*.jsonl and logs-*.jsonl, rotated ones too"
    )
    show.add_argument("--last", type=_positive, default=5, metavar="N", help="how many traces, the newest (default 5)")
    show.add_argument(
        "--trace-id", type=_trace_id_prefix, metavar="HEX", help="only this trace; its first digits suffice"
    )
    show.add_argument(
        "--errors", action="store_true", help="only traces with a failed span, an exception or a line of level ERROR"
    )
    show.add_argument("--stacks", action="store_true", help="show the stack traces of exceptions")
    commands.add_parser("version", help="the versions of this package and of what it works with")
    return parser


def _run_show(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from ts_otel_logging._cli import _show
    from ts_otel_logging._cli._otlp_files import Selection

    _show.write_anything()
    selection = Selection(arguments.last, trace_id_prefix=arguments.trace_id or "", errors_only=arguments.errors)
    return _show.run(Path(arguments.folder), selection, with_stacks=arguments.stacks)


def _run_version() -> int:
    import platform

    from ts_otel_logging._version import __version__

    versions = {"ts-otel-logging": __version__, "python": platform.python_version()}
    versions.update((name, _installed_version(name)) for name in _VERSIONS_SHOWN)
    width = max(map(len, versions))
    sys.stdout.writelines(f"{name:<{width}}  {version}\n" for name, version in versions.items())
    return 0


def _installed_version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return value


def _trace_id_prefix(text: str) -> str:
    prefix = text.strip().lower()
    if not 1 <= len(prefix) <= _TRACE_ID_DIGITS or set(prefix) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to {_TRACE_ID_DIGITS} hex digits")
    return prefix
