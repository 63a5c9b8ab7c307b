"""`ts-otel-logging doctor`: what is switched on here, which settings hold, where data goes and whether it arrives."""

from __future__ import annotations

import logging
import os
import re
import sys
import sysconfig
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ts_otel_logging import _config, _settings_file
from ts_otel_logging._redaction import Redaction
from ts_otel_logging._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

START_UP_FILE: Final = "ts_otel_logging.pth"
_TESTED_TORCHSERVE: Final = "0.12.0"
# Values that may hold credentials are not for a terminal or a ticket.
_SECRET: Final = re.compile(r"HEADERS|PASSWORD|TOKEN|KEY$", re.IGNORECASE)
# These are lists of names, whatever theirs says.
_NEVER_SECRET: Final = frozenset(setting.variable for setting in _config.OUR_SETTINGS)
_CREDENTIALS_IN_URL: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")


class Finding(NamedTuple):
    """Something that keeps a part from working: what, and what to do about it."""

    what: str
    remedy: str


def run() -> int:
    """Print the report and return 0 if everything would work, 1 if something would not."""
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    settings = _config.load(os.environ)
    findings = list(_installation_findings(settings))
    console.print(_versions())
    console.print(_processes(settings))
    console.print(_settings_table(settings))
    redaction = Redaction()
    findings += [
        Finding(
            # Somebody may have written a header's value beside its name.
            f"{problem.variable}={redaction.text(_masked(problem.variable, problem.value))} is ignored",
            f"accepted: {problem.accepted}",
        )
        for problem in _config.all_problems(settings)
    ]
    if settings["CONFIG"]:
        findings += _print_settings_file(console, settings["CONFIG"])
    table, unreachable = _destinations(settings)
    console.print(table)
    findings += unreachable
    for finding in findings:
        console.print(f"[bold red]problem[/]  {escape(finding.what)}\n         {escape(finding.remedy)}")
    if not findings:
        console.print("[bold green]no problems found[/]")
    return 1 if findings else 0


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _versions() -> str:
    python = ".".join(map(str, sys.version_info[:3]))
    return f"[bold]ts-otel-logging {__version__}[/], Python {python}, TorchServe {_version_of('torchserve')}"


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _installation_findings(settings: _config.Settings) -> Iterator[Finding]:
    torchserve = _version_of("torchserve")
    if torchserve == "not installed":
        yield Finding("TorchServe is not installed in this Python", "run the doctor with the Python that serves")
    elif torchserve != _TESTED_TORCHSERVE:
        yield Finding(f"TorchServe {torchserve} was never tried", f"tested is {_TESTED_TORCHSERVE}, its last release")
    if not _start_up_file_runs():
        yield Finding(
            f"{START_UP_FILE} is not in this Python's site-packages, so workers are not touched",
            "install the package with pip into the environment of TorchServe itself (pip install -t, and models with "
            "useVenv, are not reached)",
        )
    if settings.values[_config.SWITCH] is False and _config.SWITCH not in {p.variable for p in settings.problems}:
        yield Finding(f"{_config.SWITCH} is not set here: TorchServe runs as without this package", "set it to 1")


def _start_up_file_runs() -> bool:
    return any(os.path.exists(os.path.join(sysconfig.get_path(kind), START_UP_FILE)) for kind in ("purelib", "platlib"))


def _processes(settings: _config.Settings) -> Table:
    from ts_otel_logging._torchserve._seams import SEAMS

    on = settings.values[_config.SWITCH]
    table = _table("Processes", "process", "what happens")
    table.add_row("model_service_worker.py", "its log records, loads and requests are seen" if on else "nothing: off")
    for seam, purpose in SEAMS.items() if on else ():
        table.add_row("", f"{seam}: {purpose}")
    table.add_row("torchserve", _launcher_decision(settings) if on else "nothing: off")
    table.add_row("any other Python process", "nothing, unless it calls ts_otel_logging.configure()")
    return table


def _launcher_decision(settings: _config.Settings) -> str:
    from ts_otel_logging._launcher import java_command

    decision = java_command(
        ["java", "org.pytorch.serve.ModelServer"], os.environ, os.getcwd(), frontend=settings["FRONTEND"]
    ).decision
    return f"the JVM's console lines: {decision}, when started from this folder"


def _settings_table(settings: _config.Settings) -> Table:
    table = _table("Settings", "variable", "value", "origin")
    for setting in _config.OUR_SETTINGS:
        value = settings.values[setting.variable]
        is_file_dir = setting.variable.endswith("_FILE_DIR")
        shown = _shown(setting.variable, settings.file_dir if is_file_dir else value)
        table.add_row(setting.variable, shown, settings.origins.get(setting.variable, "default"))
    for variable in sorted(settings.environ):
        if variable.startswith("OTEL_") and settings.environ[variable].strip():
            table.add_row(variable, _shown(variable, settings.environ[variable]), "environment")
    return table


def _print_settings_file(console: Console, path: str) -> list[Finding]:
    file = _settings_file.read_settings_file(os.path.abspath(path), os.getcwd())
    table = _table(f"Settings file {escape(path)}", "key", "value")
    switches = file.switches
    for name in ("enabled", "traces", "otlp_logs"):
        value = getattr(switches, name)
        if value is not None:
            table.add_row(name, _shown(name, value))
    if switches.level is not None:
        table.add_row("level", str(logging.getLevelName(switches.level)))
    if switches.levels:
        table.add_row("levels", _shown("levels", dict(switches.levels)))
    if switches.redact:
        table.add_row("redact", _shown("redact", switches.redact))
    for sink in file.sinks:
        kind = str(sink.config.get("class") or sink.config.get("()")).rpartition(".")[2]
        place = sink.config.get("filename") or sink.config.get("address") or ""
        level = f" from {logging.getLevelName(sink.level)}" if sink.level else ""
        table.add_row(sink.key, escape(" ".join(f"{kind} {place}".split()) + level))
    console.print(table)
    return [
        Finding(
            f"{', '.join(filter(None, (path, problem.key)))}: {_masked(problem.key, problem.value)}",
            f"accepted: {problem.accepted}",
        )
        for problem in (*file.problems, *_settings_file.unreachable_sinks(file))
    ]


def _shown(variable: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if variable.endswith("_LEVEL"):
        return str(logging.getLevelName(value))
    if isinstance(value, dict):
        value = ",".join(f"{key}={logging.getLevelName(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        value = ",".join(value)
    return escape(_masked(variable, str(value))) or "-"


def _masked(variable: str, value: str) -> str:
    if variable not in _NEVER_SECRET and _SECRET.search(variable) and value and not os.path.exists(value):
        return "***"
    return _CREDENTIALS_IN_URL.sub("***", value)


def _destinations(settings: _config.Settings) -> tuple[Table, list[Finding]]:
    from ts_otel_logging._sdk._probe import probe

    table = _table("Where data goes", "signal", "destination", "answers")
    table.add_row("lines", f"stdout of the worker, shape {settings['FORMAT']}", "-")
    findings: list[Finding] = []
    for destination in probe(settings.environ, os.path.abspath(settings.file_dir)):
        answers = {True: "[green]yes[/]", False: "[bold red]no[/]", None: "-"}[destination.answers]
        table.add_row(destination.signal, escape(destination.place), answers)
        if destination.answers is False:
            findings.append(Finding(f"{destination.signal}: {destination.place} does not answer", destination.reason))
    return table, findings
