"""The launcher's one seam: the command that starts the JVM (ts/model_server.py, `start`)."""

from __future__ import annotations

import subprocess
from typing import Any, Callable, Final

from ts_otel_logging._diagnostics import swallowed

_MAIN_CLASS: Final = "org.pytorch.serve.ModelServer"


def watch_java(before_java: Callable[[list[str]], list[str]]) -> None:
    """Let a function see the JVM's command line just before it runs, and change it.

    The other calls of the launcher (``--stop``, ``--version``, ``--help``) never get there.

    Args:
        before_java: Gets the command and returns the one to run. If it raises, the given one runs.
    """
    # Not `import ts.model_server`: it is just being imported, and is no attribute of its package yet.
    from ts import model_server

    def popen(command: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(command, list) and _MAIN_CLASS in command:
            try:
                command = before_java(list(command))
            except Exception as error:  # noqa: BLE001 - TorchServe must start
                swallowed("launcher", error)
        return subprocess.Popen(command, *args, **kwargs)  # noqa: S603 - TorchServe's own call

    model_server.subprocess = _Subprocess(popen)


class _Subprocess:
    """The `subprocess` module with another `Popen`, for one importer: nobody else's processes are touched."""

    def __init__(self, popen: Callable[..., Any]) -> None:
        self.Popen = popen

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)
