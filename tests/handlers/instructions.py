"""What a request tells a test handler to do. It goes into every test archive beside the handler.

A body is JSON, ``{"preprocess": {...}, "inference": {...}, "postprocess": {...}, "answer": ...}``; a phase has any of

- ``sleep_seconds``: how long the phase takes;
- ``log``: a list of ``{"level", "message", "extra"}``;
- ``print``: text for ``print``;
- ``native``: a line that goes to descriptor 1 past Python, as native code's does;
- ``raise``: ``[name of the exception, message, error code]``, after the rest.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

from ts.utils.util import PredictionException

logger = logging.getLogger("acme.model")

EXCEPTIONS = {"ValueError": ValueError, "KeyError": KeyError, "MemoryError": MemoryError, "TypeError": TypeError}


def read(data: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the instructions of a batch of one."""
    body = data[0].get("body") or data[0].get("data") or {}
    if isinstance(body, (bytes, bytearray)):
        body = json.loads(body)
    return dict(body)


def follow(steps: dict[str, Any] | None) -> None:
    """Do what one phase is told."""
    steps = steps or {}
    time.sleep(steps.get("sleep_seconds", 0))
    for line in steps.get("log", ()):
        logger.log(getattr(logging, line.get("level", "INFO")), line["message"], extra=line.get("extra"))
    if "print" in steps:
        print(steps["print"])
    if "native" in steps:
        os.write(1, steps["native"].encode() + b"\n")
    if "raise" in steps:
        name, message, *code = steps["raise"]
        if name == "PredictionException":
            raise PredictionException(message, *code)
        raise_with_cause(EXCEPTIONS[name](message))


def raise_with_cause(error: Exception) -> None:
    """Raise ``error`` from another one, as real handlers do."""
    try:
        {}["no such key"]
    except KeyError as cause:
        raise error from cause
