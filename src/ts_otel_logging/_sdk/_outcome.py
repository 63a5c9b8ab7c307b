"""What became of one export."""

from __future__ import annotations

import enum
from typing import NamedTuple, Optional


class Verdict(enum.Enum):
    """What to do with a batch after an export."""

    DELIVERED = enum.auto()
    RETRY = enum.auto()
    """It may work later, and nothing speaks against trying for ever."""
    RETRY_A_FEW_TIMES = enum.auto()
    """It failed, and nobody knows whether trying again can help."""
    SPLIT = enum.auto()
    """It is too large, or one of its items cannot be encoded."""
    DROP = enum.auto()


class ExportOutcome(NamedTuple):
    """The outcome of one export.

    Attributes:
        verdict: What to do with the batch.
        reason: Why, in a few words; empty for a delivery without remarks.
        error_type: The ``error.type`` of a failure: a status code or an exception's name.
        retry_after_seconds: How long the receiver asked to wait.
        rejected: How many items the receiver refused of a batch that it took.
    """

    verdict: Verdict
    reason: str = ""
    error_type: str = "export_failed"
    retry_after_seconds: Optional[float] = None
    rejected: int = 0


DELIVERED = ExportOutcome(Verdict.DELIVERED)
