"""A handler that is a module-level function; TorchServe also calls it once, with ``None``, to initialize."""

from __future__ import annotations

import instructions


def handle(data, context):
    if data is None:
        return None
    request = instructions.read(data)
    instructions.follow(request.get("inference"))
    return [request.get("answer", {"ok": True})]
