"""How everything here is measured: contenders take turns in every round, and only ratios within a round are compared.

A room (a module of `ROOMS` in ``__main__``) has

- ``WORKLOADS``: what it measures, with the project's goals, as data;
- ``measure(bench)``: yields ``{workload: {contender: [a value for each round]}}``, as `Bench.interleave` returns.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Union

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console

OURS = "ts-otel-logging"
RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent

Rounds = dict[str, list[float]]
"""A contender's values, one a round."""
Turn = Callable[[], Union[float, dict[str, float]]]
"""What a contender does in a round: it returns its value, or one for each of several workloads."""

# Every package that a contender consists of; the results name their versions.
PACKAGES = (
    "ts-otel-logging",
    "structlog",
    "python-json-logger",
    "orjson",
    "ecs-logging",
    "logfire",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-exporter-otlp-proto-grpc",
    "protobuf",
    "grpcio",
    "requests",
    "torchserve",
    "torch",
)


class Goal(NamedTuple):
    """What the project wants to reach; a run tells, and never fails on it.

    Attributes:
        limit: The bound.
        contender: Whose value is looked at.
        peer: Whose value it is compared with in the same round; None for the value itself.
        how: ``ratio`` to the peer, ``difference`` from it, or the ``value`` itself.
        at_least: Whether the bound is a lower one.
        stretch: A bound that would be better still.
    """

    limit: float
    contender: str = OURS
    peer: Optional[str] = None
    how: str = "ratio"
    at_least: bool = False
    stretch: Optional[float] = None

    def values(self, rounds: Mapping[str, Sequence[float]]) -> list[float]:
        """Return what is compared with the limit, one value a round."""
        mine = rounds[self.contender]
        if self.peer is None:
            return list(mine)
        pairs = list(zip(mine, rounds[self.peer]))
        return [a / b for a, b in pairs] if self.how == "ratio" else [a - b for a, b in pairs]

    def is_met(self, value: float, limit: Optional[float] = None) -> bool:
        """Say whether a value keeps to the limit, or to another one."""
        bound = self.limit if limit is None else limit
        return value >= bound if self.at_least else value <= bound


@dataclass(frozen=True)
class Workload:
    """One thing that all contenders do.

    Attributes:
        name: Its name in the results: ``<room>.<what>``.
        title: What it is, for people.
        unit: Of its values.
        goals: What the project wants to reach.
        digits: Decimal places of its values in tables.
        axis: The name of what grows, for a curve; its contenders are then ``<name> @ <number>``.
        note: What a reader of the table should know.
    """

    name: str
    title: str
    unit: str
    goals: tuple[Goal, ...] = ()
    digits: int = 1
    axis: str = ""
    note: str = ""


class Bench:
    """One run: how many rounds, how much of each, and the servers that are shared.

    Args:
        rounds: How many times each contender has its turn.
        scale: Which part of a workload's full size is done: 1 for a run whose numbers count.
        is_smoke: Whether it is only to be seen that everything runs: no round to warm up, and not all contenders.
    """

    def __init__(self, rounds: int, scale: float = 1.0, *, is_smoke: bool = False) -> None:
        self.rounds = rounds
        self.scale = scale
        self.is_smoke = is_smoke
        self._servers: dict[str, Any] = {}
        self.stack = ExitStack()

    def count(self, full: int, least: int = 1) -> int:
        """Return how many to do of what a full run does `full` of."""
        return max(int(full * self.scale), least)

    def some(self, contenders: Iterable[str]) -> list[str]:
        """Return the contenders: all, or in a smoke test the first, ours, and the stock parts."""
        everybody = list(contenders)
        return [name for name in everybody if not self.is_smoke or name in {everybody[0], OURS, "stock parts"}]

    def ends(self, points: Sequence[int]) -> Sequence[int]:
        """Return the points of a curve: all, or in a smoke test the first two."""
        return points[:2] if self.is_smoke else points

    def server(self, kind: Callable[[], Any]) -> Any:
        """Return the one context manager of a kind that this run has, entered at its first use."""
        if kind.__name__ not in self._servers:
            self._servers[kind.__name__] = self.stack.enter_context(kind())
        return self._servers[kind.__name__]

    def interleave(
        self, workload: str, turns: Mapping[str, Turn], *, warm_up: bool = True, slices: int = 1
    ) -> dict[str, Rounds]:
        """Let contenders take turns, each round beginning with another one.

        Args:
            workload: The name of the workload, for turns that return one number; a turn that returns several names
                their workloads itself.
            turns: Each contender's turn.
            warm_up: Whether there is a first round that does not count; of no use to fresh processes.
            slices: How many turns each contender has in a round, whose median counts: many short ones see more of the
                same machine than a few long ones.

        Returns:
            The values of each round by workload and contender.
        """
        found: dict[str, Rounds] = {}
        names = list(turns)
        for number in range(0 if warm_up and not self.is_smoke else 1, self.rounds + 1):
            taken: dict[str, Rounds] = {}
            gc.collect()
            for at in range(number, number + slices):
                start = at % len(names)
                for name in names[start:] + names[:start]:
                    value = turns[name]()
                    for key, item in (value if isinstance(value, dict) else {workload: value}).items():
                        taken.setdefault(key, {}).setdefault(name, []).append(item)
            if number:
                for key, values in taken.items():
                    for name, each in values.items():
                        found.setdefault(key, {}).setdefault(name, []).append(statistics.median(each))
        # In the order in which they were given, whoever began.
        return {key: {name: rounds[name] for name in names if name in rounds} for key, rounds in found.items()}

    @staticmethod
    def in_child(function: str, environ: Optional[Mapping[str, str]] = None, **arguments: Any) -> Any:
        """Call a function in a fresh process of this Python.

        Args:
            function: ``module:name`` of this package's modules.
            environ: What its environment has besides ours.
            **arguments: For the function; JSON.

        Returns:
            What it returned; JSON.

        Raises:
            RuntimeError: It failed; with the end of what it printed.
        """
        command = [sys.executable, "-m", "benchmarks.child", function, json.dumps(arguments)]
        done = subprocess.run(
            command, cwd=ROOT, env=child_environ(environ), check=False, capture_output=True, text=True, timeout=600
        )
        if done.returncode != 0:
            raise RuntimeError(f"{function} {arguments}: exit status {done.returncode}\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def child_environ(more: Optional[Mapping[str, str]] = None) -> dict[str, str]:
    """Return the environment of a child: ours, without settings of OpenTelemetry or of ours.

    It may keep its bytecode: what pip installs has been compiled, and imports are a part of what is measured.
    """
    settings = ("OTEL_", "TS_OTEL_", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(settings)}
    return {**kept, "NO_PROXY": "127.0.0.1", **(more or {})}


@dataclass
class Results:
    """What a room has measured, as it is written to ``benchmarks/results``."""

    what: str
    rounds: int
    values: dict[str, Rounds] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return everything that a reader needs to judge the numbers."""
        return {
            "what": self.what,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "python": platform.python_version(),
            "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "kernel": platform.release()},
            "packages": versions(),
            "rounds": self.rounds,
            "workloads": {
                name: {contender: [round(value, 4) for value in values] for contender, values in rounds.items()}
                for name, rounds in self.values.items()
            },
        }

    def write(self, folder: Path) -> Path:
        """Write it to ``<what>.json`` in a folder; return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.what}.json"
        # A list of rounds on one line: as JSON indents it, a number has its own.
        document = self.as_json()
        workloads = document.pop("workloads")
        lines = [
            f"  {json.dumps(name)}: {{\n"
            + ",\n".join(f"   {json.dumps(contender)}: {json.dumps(values)}" for contender, values in rounds.items())
            + "\n  }"
            for name, rounds in workloads.items()
        ]
        head = json.dumps(document, indent=1)[:-2]
        path.write_text(f'{head},\n "workloads": {{\n' + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8")
        return path


def cpu_name() -> str:
    """Return the processor's name."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")


def versions() -> dict[str, str]:
    """Return the version of every package of `PACKAGES` that is installed."""
    installed = {package.metadata["Name"]: package.version for package in importlib.metadata.distributions()}
    return {package: installed[package] for package in PACKAGES if package in installed}


class Standing(NamedTuple):
    """A goal and what a run says about it: the median, the least and the most of the rounds."""

    goal: Goal
    median: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the goal is met: in every round, or only in the median."""
        worst, best = (self.low, self.high) if self.goal.at_least else (self.high, self.low)
        if not self.goal.is_met(self.median):
            return "missed in the median" if self.goal.is_met(best) else "not met"
        met = "met" if self.goal.is_met(worst) else "met in the median"
        if self.goal.stretch is not None:
            return "stretch met" if self.goal.is_met(self.median, self.goal.stretch) else f"{met}, stretch not"
        return met


def standings(workload: Workload, rounds: Mapping[str, Sequence[float]]) -> list[Standing]:
    """Return how a workload's goals stand; of those whose contenders are there."""
    found = []
    for goal in workload.goals:
        if goal.contender in rounds and (goal.peer is None or goal.peer in rounds):
            values = goal.values(rounds)
            found.append(Standing(goal, statistics.median(values), min(values), max(values)))
    return found


def limit_text(goal: Goal, unit: str) -> str:
    """Return a goal's limit for people."""
    sign = "≥" if goal.at_least else "≤"
    stretch = "" if goal.stretch is None else f" (stretch {goal.stretch:g})"
    return f"{sign} {goal.limit:g}{'' if goal.how == 'ratio' else ' ' + unit}{stretch}"


def compared_text(goal: Goal) -> str:
    """Return what a goal compares, for people."""
    sign = {"ratio": " / ", "difference": " - "}.get(goal.how)
    return goal.contender if goal.peer is None or sign is None else f"{goal.contender}{sign}{goal.peer}"


def spread(values: Sequence[float], digits: int) -> str:
    """Return the least and the most of some values."""
    return f"{min(values):.{digits}f}–{max(values):.{digits}f}"  # noqa: RUF001 - a range


def ratios(rounds: Mapping[str, Sequence[float]], name: str) -> list[float]:
    """Return what ours is of a contender's, round by round; nothing where that says nothing."""
    if name == OURS or OURS not in rounds or min(rounds[name]) * 100 < max(rounds[OURS]):
        return []
    return [mine / theirs for mine, theirs in zip(rounds[OURS], rounds[name]) if theirs]


def table_of(workload: Workload, rounds: Mapping[str, Sequence[float]]) -> Table:
    """Return a workload's table: each contender's value, and what our own is of it."""
    table = Table(title=f"{workload.title} ({workload.unit})", title_justify="left", caption=workload.note or None)
    table.add_column("contender")
    for column in ("median", "min-max", "ours / this", "min-max"):
        table.add_column(column, justify="right")
    for name, values in rounds.items():
        row = [name, f"{statistics.median(values):.{workload.digits}f}", spread(values, workload.digits)]
        found = ratios(rounds, name)
        if found:
            row += [f"{statistics.median(found):.2f}", spread(found, 2)]
        table.add_row(*row)
    return table


def goals_of(workload: Workload, rounds: Mapping[str, Sequence[float]]) -> Optional[Table]:
    """Return the table of a workload's goals, if it has some."""
    found = standings(workload, rounds)
    if not found:
        return None
    table = Table(title="its goals", title_justify="left")
    table.add_column("what")
    for column in ("median", "min-max", "goal", ""):
        table.add_column(column, justify="right")
    for standing in found:
        table.add_row(
            compared_text(standing.goal),
            f"{standing.median:.2f}",
            spread((standing.low, standing.high), 2),
            limit_text(standing.goal, workload.unit),
            standing.verdict,
            style="" if standing.goal.is_met(standing.median) else "bold",
        )
    return table


def run_room(room: Any, bench: Bench, console: Console) -> Results:
    """Measure a room, printing each workload's table as soon as it is there."""
    what = room.__name__.rpartition(".")[2]
    results = Results(what, bench.rounds)
    workloads = {workload.name: workload for workload in room.WORKLOADS}
    with bench.stack:
        for part in room.measure(bench):
            for name, rounds in part.items():
                results.values[name] = rounds
                if workloads[name].axis:
                    from benchmarks.growth import table_of_curve

                    console.print(table_of_curve(workloads[name], rounds))
                    continue
                console.print(table_of(workloads[name], rounds))
                goals = goals_of(workloads[name], rounds)
                if goals is not None:
                    console.print(goals)
    return results
