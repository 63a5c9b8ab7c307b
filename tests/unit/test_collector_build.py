"""What collector/build.py says when it cannot build, and where it puts what it builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COLLECTOR = Path(__file__).parent.parent.parent / "collector"


class Build:
    """The program in a copy of its folder, with a cache and a PATH of its own."""

    def __init__(self, folder: Path) -> None:
        self.collector = folder / "collector"
        shutil.copytree(COLLECTOR, self.collector, ignore=shutil.ignore_patterns("__pycache__"))
        self.cache = folder / "cache"
        self.programs = folder / "programs"
        self.programs.mkdir()

    def go(self, script: str) -> None:
        """Put a `go` on PATH."""
        path = self.programs / "go"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        base = {"PATH": f"{self.programs}", "HOME": str(self.cache), "XDG_CACHE_HOME": str(self.cache)}
        return subprocess.run(
            [sys.executable, str(self.collector / "build.py"), *arguments],
            check=False,
            env={**base, **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def leftovers(self) -> list[str]:
        folder = self.cache / "ts-otel-logging"
        return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


# What every command of a build asks, in sh alone.
WORKING_GO = r"""
case "$1" in
version) echo go version go1.26.1 linux/amd64 ;;
env) echo /tmp; echo /tmp ;;
list) echo one; echo two ;;
mod) ;;
build) while [ "$1" != -o ]; do shift; done; echo '#!/bin/sh' > "$2"; /bin/chmod +x "$2" ;;
esac
"""


def test_a_build_prints_the_binarys_path_and_the_second_time_does_nothing(build):
    build.go(WORKING_GO)
    first = build.run("jaeger")
    assert first.returncode == 0, first.stderr
    assert os.access(first.stdout.strip(), os.X_OK)
    assert "compiling jaeger" in first.stderr
    build.go("exit 1")
    assert build.run("jaeger").stdout == first.stdout
    assert build.run("--print", "jaeger").stdout == first.stdout
    assert build.leftovers() == [Path(first.stdout.strip()).name]


def test_another_pin_is_another_binary(build):
    build.go(WORKING_GO)
    first = build.run("jaeger").stdout
    with (build.collector / "jaeger" / "go.mod").open("a", encoding="utf-8") as pins:
        pins.write("\n// another\n")
    assert build.run("--print", "jaeger").returncode == 1
    assert build.run("jaeger").stdout != first


def test_what_is_not_built_is_not_printed(build):
    printed = build.run("--print", "otelcol")
    assert (printed.returncode, printed.stdout) == (1, "")
    assert printed.stderr == "otelcol is not built yet: make collector\n"


def test_without_go_it_says_which_and_where_to_get_it(build):
    answer = build.run("otelcol")
    assert answer.returncode == 1
    assert "Go 1.21 or newer is needed to build, and there is no go on PATH" in answer.stderr
    assert "https://go.dev/dl" in answer.stderr


def test_a_go_that_is_too_old_is_named_with_its_version(build):
    build.go("echo go version go1.19.8 linux/amd64")
    assert f"{build.programs}/go is 1.19" in build.run("otelcol").stderr


def test_a_full_disk_is_called_by_its_name_and_nothing_is_left(build):
    build.go(WORKING_GO.replace("build) ", 'build) echo "write /x: no space left on device"; exit 1; '))
    answer = build.run("jaeger")
    assert answer.returncode == 1
    assert "compiling jaeger: the disk is full." in answer.stderr
    assert "GOMODCACHE" in answer.stderr
    assert build.leftovers() == []


def test_a_failing_build_shows_the_end_of_its_output_and_leaves_nothing(build):
    build.go(WORKING_GO.replace("build) ", "build) echo the reason why; exit 2; "))
    answer = build.run("jaeger")
    assert answer.returncode == 1
    assert "compiling jaeger: exit status 2\nthe reason why" in answer.stderr
    assert build.leftovers() == []


def test_a_binary_of_ones_own_is_taken_as_it_is(build):
    assert build.run("jaeger", JAEGER=sys.executable).stdout.strip() == sys.executable
    answer = build.run("jaeger", JAEGER="/nowhere/jaeger")
    assert (answer.returncode, "JAEGER=/nowhere/jaeger: that is no program" in answer.stderr) == (1, True)


def test_a_cache_that_cannot_be_written_is_named(build):
    build.cache.write_text("a file")
    answer = build.run("jaeger")
    assert answer.returncode == 1
    assert "XDG_CACHE_HOME names another folder" in answer.stderr
