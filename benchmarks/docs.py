"""docs/performance.md from ``benchmarks/results``: its tables, between marks in the page, and its plots.

``make bench-docs`` writes them; a test asks by ``--check`` whether page and results agree.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.growth import LINEAR, curves, verdict
from benchmarks.harness import OURS, RESULTS, ROOT, compared_text, limit_text, ratios, spread, standings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.harness import Rounds, Workload

PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
_BLOCK = re.compile(r"(<!-- (goals|results: (\w+)) -->\n).*?(<!-- end -->)", re.DOTALL)


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what was measured, by room."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def measured(result: Mapping[str, Any]) -> Iterator[tuple[Workload, Rounds]]:
    """Return a room's workloads with what was measured."""
    room = importlib.import_module(f"benchmarks.{result['what']}")
    for workload in room.WORKLOADS:
        if workload.name in result["workloads"]:
            yield workload, result["workloads"][workload.name]


def table(*rows: tuple[str, ...]) -> str:
    """Return a table of the page: its head, then its rows."""
    head, *body = rows
    rule = ("---", *("---:" for _ in head[1:]))
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *body))


def values_table(workload: Workload, rounds: Rounds) -> str:
    """Return a workload's table."""
    rows = [(f"{workload.title}, {workload.unit}", "median", "min-max", "ours / this")]
    for name, values in rounds.items():
        found = ratios(rounds, name)
        ratio = f"{statistics.median(found):.2f}" if found else ""
        rows.append((name, f"{statistics.median(values):.{workload.digits}f}", spread(values, workload.digits), ratio))
    return table(*rows) + (f"\n({workload.note})\n" if workload.note else "")


def curves_table(found: list[tuple[Workload, Rounds]]) -> str:
    """Return the table of a room's curves."""
    rows = [("what", "with", "from", "to", "exponent", "")]
    for workload, rounds in found:
        for curve in curves(rounds):
            (first, low), (last, high) = curve.points[0], curve.points[-1]
            ends = (f"{first}: {low:.{workload.digits}f} {workload.unit}", f"{last}: {high:.{workload.digits}f}")
            name = workload.title if curve.contender == OURS else f"the same, {curve.contender}"
            rows.append((name, workload.axis, *ends, f"{curve.exponent:.2f}", verdict(curve)))
    return table(*rows) + f"\n(an exponent up to {LINEAR:g} counts as linear)\n"


def origin(result: Mapping[str, Any]) -> str:
    """Return where a room's numbers are from."""
    machine = result["machine"]
    return (
        f"Python {result['python']}, {machine['cores']} cores of {machine['cpu']}, {result['date']}, "
        f"{result['rounds']} rounds; versions and every round: `benchmarks/results/{result['what']}.json`.\n"
    )


def room_block(result: Mapping[str, Any]) -> str:
    """Return everything that the page says about a room."""
    found = list(measured(result))
    plain = [(workload, rounds) for workload, rounds in found if not workload.axis]
    grown = [(workload, rounds) for workload, rounds in found if workload.axis]
    parts = [origin(result), *(values_table(workload, rounds) for workload, rounds in plain)]
    if grown:
        parts.append(curves_table(grown))
    parts += [f"![{title}](performance/{name}.svg)\n" for name, title in plots_of(found)]
    return "\n".join(parts)


# What is drawn of the rooms without curves: the tables say the rest.
_DRAWN = {
    "lines": ("lines.two", "lines.ten"),
    "exports": ("exports.line", "exports.spans", "exports.request"),
    "bursts": ("bursts.steady",),
    "footprint": ("footprint.memory",),
    "torchserve": ("torchserve.throughput", "torchserve.p99"),
}


def drawn(found: list[tuple[Workload, Rounds]]) -> list[tuple[Workload, Rounds]]:
    """Return the workloads that a room's one plot of bars has."""
    names = {name for names in _DRAWN.values() for name in names}
    return [(workload, rounds) for workload, rounds in found if workload.name in names]


def plots_of(found: list[tuple[Workload, Rounds]]) -> list[tuple[str, str]]:
    """Return the names and titles of a room's plots: one a curve, else one for what is compared with us."""
    grown = [(workload.name.replace(".", "-"), workload.title) for workload, _ in found if workload.axis]
    if grown:
        return grown
    room = found[0][0].name.split(".", 1)[0]
    return [(room, f"{OURS} and its peers")] if drawn(found) else []


def goals_block(everything: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of all goals."""
    rows = [("what", "median", "min-max", "goal", "")]
    for result in everything.values():
        for workload, rounds in measured(result):
            for standing in standings(workload, rounds):
                what = f"{workload.title}: {compared_text(standing.goal)}"
                bounds = spread((standing.low, standing.high), 2)
                limit = limit_text(standing.goal, workload.unit)
                rows.append((what, f"{standing.median:.2f}", bounds, limit, standing.verdict))
    return table(*rows)


def render(page: str, everything: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with everything between its marks made anew; a room without results has none."""

    def block(match: re.Match[str]) -> str:
        room = match[3]
        if room is None:
            return f"{match[1]}{goals_block(everything)}{match[4]}"
        text = room_block(everything[room]) if room in everything else "Not measured yet.\n"
        return f"{match[1]}{text}{match[4]}"

    return _BLOCK.sub(block, page)


def main() -> int:
    """Write page and plots, or say whether they are as they would be written.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page and the results agree")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="of another folder")
    arguments = parser.parse_args()
    everything = results(arguments.results)
    before = PAGE.read_text(encoding="utf-8")
    after = render(before, everything)
    if arguments.check:
        missing = [name for name in re.findall(r"\(performance/([^)]+)\)", after) if not (PLOTS / name).exists()]
        if before != after or missing:
            print("docs/performance.md and benchmarks/results do not agree: make bench-docs", *missing)
        return int(before != after or bool(missing))
    PAGE.write_text(after, encoding="utf-8")
    from benchmarks.plots import draw

    PLOTS.mkdir(exist_ok=True)
    for result in everything.values():
        draw(PLOTS, list(measured(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
