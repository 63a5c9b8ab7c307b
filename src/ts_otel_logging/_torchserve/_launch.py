"""The launcher's one seam: the command that starts the JVM (ts/model_server.py, `start`)."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Callable, Final, NamedTuple, Optional, Protocol

from ts_otel_logging._diagnostics import shielded, swallowed

_MAIN_CLASS: Final = "org.pytorch.serve.ModelServer"
# Calls that answer the person who asked, and start nothing (ts/arg_parser.py).
_QUESTIONS: Final = frozenset(("--stop", "--version", "-v", "--help", "-h"))


class Relay(Protocol):
    """Stands between the JVM and the console."""

    stdout: int
    stderr: int

    def close(self) -> None:
        """Close the descriptors here."""

    def wait(self) -> None:
        """Wait for the last lines."""


class JavaStart(NamedTuple):
    """How the JVM is to be started.

    Attributes:
        command: The program and its arguments.
        relay: What its standard streams go through, or None when it inherits the launcher's.
    """

    command: list[str]
    relay: Optional[Relay] = None


def watch_java(before_java: Callable[[list[str]], JavaStart], tell: Callable[[str], bool]) -> None:
    """Let a function see the JVM's command line just before it runs, and change it.

    The other calls of the launcher (``--stop``, ``--version``, ``--help``) never get there.

    Args:
        before_java: Gets the command and says what to run. If it raises, the given one runs.
        tell: Takes what the launcher prints while it starts TorchServe; returns False to have it printed as it is.
    """
    # Not `import ts.model_server`: it is just being imported, and is no attribute of its package yet.
    from ts import model_server

    def popen(command: Any, *args: Any, **kwargs: Any) -> Any:
        if not (isinstance(command, list) and _MAIN_CLASS in command):
            return subprocess.Popen(command, *args, **kwargs)  # noqa: S603 - TorchServe's own call
        start = JavaStart(command)
        try:
            start = before_java(list(command))
        except Exception as error:  # noqa: BLE001 - TorchServe must start
            swallowed("launcher", error)
        if start.relay is None:
            return subprocess.Popen(start.command, *args, **kwargs)  # noqa: S603 - TorchServe's own call
        return _RelayedProcess(start.command, *args, relay=start.relay, **kwargs)

    model_server.subprocess = _Subprocess(popen)

    def say(*values: Any) -> None:
        text = " ".join(map(str, values))
        if not shielded("launcher")(tell)(text):
            print(text)  # noqa: T201 - as it would have been

    if not _QUESTIONS.intersection(sys.argv):
        model_server.print = say


class _RelayedProcess(subprocess.Popen[bytes]):
    """A process whose console goes through a relay; it has ended when its last lines are out."""

    def __init__(self, *args: Any, relay: Relay, **kwargs: Any) -> None:
        self._relay = relay
        try:
            super().__init__(*args, **{**kwargs, "stdout": relay.stdout, "stderr": relay.stderr})
        finally:
            relay.close()

    def wait(self, timeout: Optional[float] = None) -> int:
        code = super().wait(timeout)
        # A container ends with its first process: this one.
        self._relay.wait()
        return code


class _Subprocess:
    """The `subprocess` module with another `Popen`, for one importer: nobody else's processes are touched."""

    def __init__(self, popen: Callable[..., Any]) -> None:
        self.Popen = popen

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)
