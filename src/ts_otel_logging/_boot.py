"""What the start-up file calls: which process is this, and if it is TorchServe's, wait for the right moment.

``ts_otel_logging.pth`` imports this module only when ``TS_OTEL_LOGGING`` is set to anything. It runs in every Python
process of the container, so it needs nothing but ``os`` and ``sys``, and returns at once unless the process is a worker
(``model_service_worker.py``, also under torchrun) or the launcher (``torchserve``). All others are left alone, the
JVM's ``metric_collector.py`` above all, whose stdout the JVM parses.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

WORKER = "worker"
LAUNCHER = "launcher"

# The module after whose import we act. In the worker it is the last of TorchServe's own imports but one: the service
# and the loader are there, while `logging.basicConfig` and the user's handler are still to come
# (ts/model_service_worker.py).
_MOMENT = {WORKER: "ts.model_loader", LAUNCHER: "ts.model_server"}

_started = False


def start() -> None:
    """Arrange for the activation, if this is a process of TorchServe. Never raises."""
    # A virtual environment runs its start-up files twice.
    global _started  # noqa: PLW0603 - once a process
    if _started:
        return
    _started = True
    try:
        role = role_of(sys.argv)
        if role is not None:
            sys.meta_path.insert(0, _ImportHook(_MOMENT[role], lambda: _activate(role)))
    except BaseException as error:  # noqa: BLE001 - an exception here prints a traceback, SystemExit ends the interpreter
        _complain(error)


def role_of(argv: list[str]) -> Optional[str]:
    """Return which process of TorchServe a command line starts: `WORKER`, `LAUNCHER`, or None for any other.

    Args:
        argv: ``sys.argv`` as it is while start-up files run.
    """
    program = os.path.basename(argv[0]) if argv else ""
    if program == "model_service_worker.py":
        return WORKER
    if program in ("torchserve", "torchserve.exe", "torchserve-script.py"):
        return LAUNCHER
    return None


def _activate(role: str) -> None:
    try:
        from ts_otel_logging import _activate as activation

        if role == LAUNCHER:
            activation.start_launcher()
        else:
            activation.start_worker()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        _complain(error)


def _complain(error: BaseException) -> None:
    try:  # noqa: SIM105 - contextlib would be one more import
        sys.stderr.write(f"ts_otel_logging: off, because of {type(error).__name__}: {error}\n")
    except BaseException:  # noqa: BLE001, S110 - no stderr either
        pass


class _ImportHook:
    """Calls back right after one module was imported, then is gone."""

    def __init__(self, module: str, callback: Callable[[], None]) -> None:
        self._module = module
        self._callback = callback

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Optional[ModuleSpec]:
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._callback)  # type: ignore[assignment]
        return spec


class _Loader:
    """A module's own loader, with something to do afterwards."""

    def __init__(self, loader: Any, callback: Callable[[], None]) -> None:
        self._loader = loader
        self._callback = callback

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        # The module keeps its own loader, as if we had never been there.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._callback()
