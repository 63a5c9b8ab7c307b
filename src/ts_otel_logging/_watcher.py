"""Whether a file has changed: polled, because that works through links, mounts and every file system."""

from __future__ import annotations

import os
from typing import Callable, Optional


class Watcher:
    """Looks whether a file has changed, also behind a symbolic link.

    Kubernetes changes a ConfigMap by replacing the link ``..data`` in the path; editors write a new file or the same.
    A change is told when it has stood still from one look to the next, so that no half-written file is read.

    Args:
        path: The file.
        changed: Called once for each change; the file may also be gone.
    """

    def __init__(self, path: str, changed: Callable[[], None]) -> None:
        self._path = path
        self._changed = changed
        self._seen = self._pending = self._signature()

    def look(self) -> None:
        """Look at the file once: one system call."""
        signature = self._signature()
        if signature == self._seen or signature != self._pending:
            self._pending = signature
        else:
            self._seen = signature
            self._changed()

    def _signature(self) -> Optional[tuple[int, ...]]:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        # The change time moves also where a tool puts the modification time back.
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
