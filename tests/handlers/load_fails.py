"""A model whose weights are missing."""

from __future__ import annotations


def handle(data, context):
    if data is None:
        raise FileNotFoundError("no weights")
