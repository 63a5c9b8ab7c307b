"""Reading back the lines that were written."""

from __future__ import annotations

import io
import json
from typing import Any


class Lines(io.StringIO):
    """A stream whose content reads back as the objects that its lines hold."""

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Every line; a key that stands twice in one fails."""
        return [json.loads(line, object_pairs_hook=_no_duplicates) for line in self.getvalue().splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        """The last line."""
        return self.objects[-1]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs), f"a key stands twice: {pairs}"
    return dict(pairs)
