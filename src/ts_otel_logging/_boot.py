"""What the start-up file calls: which process is this, and if it is TorchServe's, wait for the right moment.

``ts_otel_logging.pth`` runs in every Python process of the container. It imports this module only when
``TS_OTEL_LOGGING`` is on and the program's name ends like that of a worker (``model_service_worker.py``, also under
torchrun) or of the launcher (``torchserve``); `role_of` then knows. All other processes are left alone, the JVM's
``metric_collector.py`` above all, whose stdout the JVM parses.
"""

from __future__ import annotations

import os
import sys

# As in the package's own module: `typing` would take nearly all of the time that this one does.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

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
            from ts_otel_logging._import_hook import after_import

            after_import(_MOMENT[role], lambda: _activate(role))
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
    import gc

    # What is imported stays: collections would only look at it, and at all that torch has, again and again.
    collects = gc.isenabled()
    gc.disable()
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
    finally:
        if collects:
            gc.enable()


def _complain(error: BaseException) -> None:
    try:  # noqa: SIM105 - contextlib would be one more import
        sys.stderr.write(f"ts_otel_logging: off, because of {type(error).__name__}: {error}\n")
    except BaseException:  # noqa: BLE001, S110 - no stderr either
        pass
