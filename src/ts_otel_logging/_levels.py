"""Levels of loggers that are set for a while, and the ones they had before."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class LoggerLevels:
    """Sets levels of loggers and can put back what they were.

    Args:
        is_worker: Whether this is a worker of TorchServe, whose control lines are INFO records: neither the root nor
            TorchServe's own loggers may be above that, or it would never start.
    """

    def __init__(self, *, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._before: dict[str, int] = {}

    def set(self, levels: Mapping[str, int]) -> None:
        """Set these levels; loggers that were set before and are not named get back the level that they had.

        Args:
            levels: By name; the root logger's is ``root``.
        """
        for name in [name for name in self._before if name not in levels]:
            logging.getLogger(name).setLevel(self._before.pop(name))
        for name, level in levels.items():
            logger = logging.getLogger(name)
            self._before.setdefault(name, logger.level)
            protected = self._is_worker and (name in ("", "root", "ts") or name.startswith("ts."))
            logger.setLevel(min(level, logging.INFO) if protected else level)
