"""The smallest handler there is: what a request costs beside it is TorchServe's, and ours."""

from __future__ import annotations


def handle(data, context):
    return None if data is None else [{"ok": True} for _ in data]
