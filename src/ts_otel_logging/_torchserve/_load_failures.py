"""A load that fails again and again: told at first, then at most once a minute, with how often it did.

TorchServe starts a new worker process after each failure, and every worker of a model fails alike, so what was told
stands in a file that they share.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from typing import Final

_INTERVAL_SECONDS: Final = 60.0


class LoadFailures:
    """The failures of one model's loads, in all its workers.

    Args:
        model_name: The name that TorchServe gives the model.
        model_dir: Its folder, which TorchServe makes anew each time it registers a model.
    """

    def __init__(self, model_name: str, model_dir: str) -> None:
        self._identity = f"{model_name}\0{os.path.abspath(model_dir)}"

    def count_to_tell(self) -> int:
        """Count one more; return how many to tell now: those since the last that was told, or 0 to tell nothing yet."""
        now = time.time()
        told_at, untold = self._read()
        untold += 1
        if 0.0 <= now - told_at < _INTERVAL_SECONDS:
            self._write(told_at, untold)
            return 0
        self._write(now, 0)
        return untold

    def forget(self) -> None:
        """Begin anew, after a load that did not fail."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    @property
    def _path(self) -> str:
        name = hashlib.sha256(self._identity.encode("utf-8", "replace")).hexdigest()[:16]
        return os.path.join(tempfile.gettempdir(), f"ts-otel-logging-load-failures-{name}")

    def _read(self) -> tuple[float, int]:
        try:
            with open(self._path, encoding="ascii") as file:
                told_at, untold = file.read(100).split()
            return float(told_at), int(untold)
        except (OSError, ValueError):
            return 0.0, 0

    def _write(self, told_at: float, untold: int) -> None:
        # Where it cannot be written, every failure is told. Not through a link: the folder may be everybody's.
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(self._path, flags, 0o600), "w", encoding="ascii") as file:
                file.write(f"{told_at} {untold}")
