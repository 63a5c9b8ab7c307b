"""Measure, or show what was measured: ``python -m benchmarks``; see README.md of this folder."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.harness import RESULTS, Bench, child_environ, run_room

# A room that is added here is part of `make bench`. The second says whether the smoke test runs it, too.
ROOMS = {"lines": True, "exports": True, "bursts": True, "footprint": True, "growth": True, "torchserve": False}

ROUNDS, QUICK_ROUNDS = 7, 3
QUICK_SCALE, SMOKE_SCALE = 0.2, 0.002


def main() -> int:
    """Measure what the command line names.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="*", help=f"any of {', '.join(ROOMS)}; all without it; or guard")
    parser.add_argument("--rounds", type=int, help=f"how many rounds count; {ROUNDS} without it")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a fifth of everything, three rounds; keeps no results")
    size.add_argument("--smoke", action="store_true", help="whether it runs: one short round; keeps no results")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help=f"write there; {os.path.relpath(RESULTS)}")
    parser.add_argument("--record", action="store_true", help="guard: what is counted now is right")
    arguments = parser.parse_args()
    if arguments.what == ["guard"]:
        from benchmarks.guard import guard

        return guard(record=arguments.record)
    unknown = set(arguments.what) - set(ROOMS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(ROOMS)}")
    # What this process measures must not depend on the shell's settings.
    environ = child_environ()
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)

    short = arguments.quick or arguments.smoke
    rounds = arguments.rounds or (1 if arguments.smoke else QUICK_ROUNDS if arguments.quick else ROUNDS)
    scale = SMOKE_SCALE if arguments.smoke else QUICK_SCALE if arguments.quick else 1.0
    console = Console(width=None if sys.stdout.isatty() else 150)
    with TemporaryDirectory() as temporary:
        folder = arguments.results or (Path(temporary) if short else RESULTS)
        for what in arguments.what or (name for name, in_smoke in ROOMS.items() if in_smoke or not arguments.smoke):
            room = importlib.import_module(f"benchmarks.{what}")
            bench = Bench(rounds, scale, is_smoke=arguments.smoke)
            path = run_room(room, bench, console).write(folder)
            if arguments.results or not short:
                console.print(f"{path}\n", style="dim", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
