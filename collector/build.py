"""Build the real OpenTelemetry Collector or Jaeger from their Go modules, once: ``python3 collector/build.py otelcol``.

The binary goes to ``$XDG_CACHE_HOME/ts-otel-logging/<name>-<hash of its pins>`` (``~/.cache`` without that variable)
and stays there until a pin changes. Its path is the only thing on stdout; progress is on stderr. ``--print`` builds
nothing. ``OTELCOL=/path`` and ``JAEGER=/path`` in the environment name a binary of your own, taken as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).resolve().parent
PINS = {
    "otelcol": [HERE / "builder.yaml"],
    "jaeger": [HERE / "jaeger" / name for name in ("go.mod", "go.sum", "jaeger.go")],
}
BUILDER = "go.opentelemetry.io/collector/cmd/builder"
JAEGER = "github.com/jaegertracing/jaeger/cmd/jaeger"
BUILD_OPTIONS = ["-trimpath", "-ldflags=-s -w"]
# From 1.21 on, Go fetches the newer Go that a module asks for: https://go.dev/doc/toolchain
OLDEST_GO = (1, 21)
# From nothing, both builds' modules and Go's build cache take 6 GiB; with warm caches a build takes next to nothing.
NEEDED_BYTES = 2**30
HEARTBEAT_SECONDS = 10

DISK_ADVICE = (
    "A build takes up to 6 GiB the first time. Make room, or move Go's caches (GOMODCACHE, GOCACHE) and ours "
    "(XDG_CACHE_HOME)."
)

_started = time.monotonic()


class BuildError(Exception):
    """Something that the build cannot go on without; its text says what to do."""


def say(text: str) -> None:
    """Print a line of progress with the time that has passed."""
    print(f"[{time.monotonic() - _started:5.0f} s] {text}", file=sys.stderr, flush=True)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The folder with the binaries, outside of the tree."""
    base = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "ts-otel-logging"


def binary_path(name: str, environ: Mapping[str, str]) -> Path:
    """Where a binary is or will be: another path whenever a pin, the way of building or the machine is another."""
    own = environ.get(name.upper())
    if own:
        return Path(own)
    digest = hashlib.sha256(" ".join([platform.system(), platform.machine(), *BUILD_OPTIONS]).encode())
    for pin in PINS[name]:
        digest.update(pin.read_bytes())
    return cache_folder(environ) / f"{name}-{digest.hexdigest()[:16]}"


def is_built(binary: Path) -> bool:
    """Whether there is a program at that path."""
    return binary.is_file() and os.access(binary, os.X_OK)


def find_go() -> str:
    """The path of a Go that is new enough.

    Raises:
        BuildError: If there is none.
    """
    advice = (
        "Install it from https://go.dev/dl, or with your system's packages (Debian: golang-go of bookworm-backports or "
        "newer), and put its bin folder on PATH."
    )
    go = shutil.which("go")
    if go is None:
        raise BuildError(f"Go 1.21 or newer is needed to build, and there is no go on PATH. {advice}")
    answer = subprocess.run([go, "version"], check=False, capture_output=True, text=True)
    version = re.search(r"\bgo(\d+)\.(\d+)", answer.stdout)
    if version is None:
        raise BuildError(f"{go} does not work: {(answer.stderr or answer.stdout).strip()}")
    if (int(version[1]), int(version[2])) < OLDEST_GO:
        raise BuildError(f"Go 1.21 or newer is needed to build, {go} is {version[0][2:]}. {advice}")
    return go


def check_disk(folders: list[Path]) -> None:
    """Refuse to start what cannot end.

    Raises:
        BuildError: If a folder's disk has no room for a build.
    """
    for folder in folders:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < NEEDED_BYTES:
            raise BuildError(f"The disk is full: {free / 2**20:.0f} MiB are free where {folder} is. {DISK_ADVICE}")


class Go:
    """A Go that works in one folder.

    Args:
        path: The program.
        folder: Where its commands run.
        environ: Their environment.
    """

    def __init__(self, path: str, folder: Path, environ: Mapping[str, str]) -> None:
        self.path = path
        self.folder = folder
        self.environ = dict(environ)

    def run(self, what: str, counted: str, *command: str, expected: int = 0) -> None:
        """Run a command to its end, with a line of progress every few seconds.

        Args:
            what: What it does, for people.
            counted: What a line of its output stands for: ``modules``, ``packages``; empty if for nothing.
            command: The command.
            expected: How many lines it prints at most; 0 if nobody knows.

        Raises:
            BuildError: If it fails, with the last lines of its output.
        """
        say(f"{what} ...")
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        lines: queue.Queue[str | None] = queue.Queue()

        def read() -> None:
            for line in process.stdout or ():
                lines.put(line.rstrip())
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        seen: list[str] = []
        heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    line = lines.get(timeout=1)
                    if line is None:
                        break
                    seen.append(line)
                if time.monotonic() > heartbeat:
                    heartbeat += HEARTBEAT_SECONDS
                    count = f"{len(seen)}{f' of {expected}' if expected else ''} {counted}"
                    say(f"{what}: {count if counted else 'still at it'}")
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        if process.returncode != 0:
            text = "\n".join(seen[-30:])
            if "no space left on device" in text:
                raise BuildError(f"{what}: the disk is full. {DISK_ADVICE}\n{text}")
            raise BuildError(f"{what}: exit status {process.returncode}\n{text}")

    def caches(self) -> list[Path]:
        """Go's own folders that a build fills."""
        command = [self.path, "env", "GOMODCACHE", "GOCACHE"]
        answer = subprocess.run(command, env=self.environ, check=True, capture_output=True, text=True)
        return [Path(line) for line in answer.stdout.splitlines()]

    def count_packages(self, package: str) -> int:
        """How many packages a program consists of."""
        command = [self.path, "list", "-deps", package]
        listed = subprocess.run(command, cwd=self.folder, env=self.environ, check=False, capture_output=True, text=True)
        return len(listed.stdout.splitlines())


def prepare_otelcol(go: Go) -> str:
    """Let the builder write the collector's main program from the manifest.

    Returns:
        The package to compile; ``go`` is in its module afterwards.
    """
    manifest = (HERE / "builder.yaml").read_text(encoding="utf-8")
    version = re.search(r"^  version: (\S+)$", manifest, re.MULTILINE)
    if version is None:
        raise BuildError(f"{HERE / 'builder.yaml'}: dist.version is missing; it is the builder's version too")
    go.environ["GOBIN"] = str(go.folder)
    go.run("building the collector's builder", "packages", go.path, "install", "-v", f"{BUILDER}@v{version[1]}")
    sources = go.folder / "sources"
    # The only thing of the manifest that is the machine's matter.
    manifest = manifest.replace("dist:\n", f"dist:\n  output_path: {sources}\n", 1)
    (go.folder / "manifest.yaml").write_text(manifest, encoding="utf-8")
    builder = str(go.folder / "builder")
    go.run("fetching the collector's modules", "", builder, "--config=manifest.yaml", "--skip-compilation")
    go.folder = sources
    return "."


def prepare_jaeger(go: Go) -> str:
    """Fetch Jaeger's modules.

    Returns:
        The package to compile.
    """
    for pin in PINS["jaeger"]:
        shutil.copy(pin, go.folder)
    go.run("fetching Jaeger's modules", "modules", go.path, "mod", "download", "-x")
    return JAEGER


PREPARE = {"otelcol": prepare_otelcol, "jaeger": prepare_jaeger}


def build(name: str, binary: Path) -> None:
    """Make the binary in its place, whole or not at all.

    Raises:
        BuildError: If that is impossible.
    """
    path = find_go()
    # Whatever the shell asks for elsewhere: for this machine, without a C compiler, from these pins alone.
    environ = {key: value for key, value in os.environ.items() if key not in {"GOOS", "GOARCH", "GOBIN"}}
    environ.update(CGO_ENABLED="0", GOWORK="off")
    # Beside its place: a rename within one file system is atomic.
    with tempfile.TemporaryDirectory(prefix=f"{name}-build-", dir=binary.parent) as temporary:
        folder = Path(temporary)
        go = Go(path, folder, environ)
        check_disk([binary.parent, *go.caches()])
        package = PREPARE[name](go)
        program = folder / name
        command = [go.path, "build", "-v", *BUILD_OPTIONS, "-o", str(program), package]
        go.run(f"compiling {name}", "packages", *command, expected=go.count_packages(package))
        program.replace(binary)
    say(f"{name}: {binary.stat().st_size / 2**20:.0f} MiB, {binary}")


@contextlib.contextmanager
def only_one(name: str, folder: Path) -> Iterator[None]:
    """Wait for whoever is building the same thing."""
    with (folder / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"another build of {name} is running: waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure(name: str) -> Path:
    """The path of a binary that is there, built now if need be.

    Raises:
        BuildError: If it cannot be built.
    """
    binary = binary_path(name, os.environ)
    if is_built(binary):
        return binary
    if os.environ.get(name.upper()):
        raise BuildError(f"{name.upper()}={binary}: that is no program. Unset the variable to build one.")
    try:
        binary.parent.mkdir(parents=True, exist_ok=True)
        with only_one(name, binary.parent):
            if not is_built(binary):
                build(name, binary)
    except OSError as error:  # a full disk, a cache that is not ours
        raise BuildError(f"{binary.parent}: {error.strerror}. XDG_CACHE_HOME names another folder.") from error
    return binary


def find_built(name: str) -> Path:
    """The path of a binary that is there.

    Raises:
        BuildError: If it is not.
    """
    binary = binary_path(name, os.environ)
    if not is_built(binary):
        raise BuildError(f"{name} is not built yet: make {'collector' if name == 'otelcol' else name}")
    return binary


def main() -> int:
    """Build or print.

    Returns:
        The exit status: 0, or 1 after a message.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(PINS))
    parser.add_argument("--print", action="store_true", help="only say where the binary is; 1 if it is not built")
    arguments = parser.parse_args()
    try:
        binary = find_built(arguments.name) if arguments.print else ensure(arguments.name)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(binary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
