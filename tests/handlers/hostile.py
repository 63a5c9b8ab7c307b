"""Prints in every way that a handler, and what it calls, can print. A request's body is the number on its lines."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from typing import Any

logger = logging.getLogger("acme.hostile")
BURST = 10_000


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str] | None:
    """Print whatever each request of the batch is told."""
    if data is None:
        return None
    told = [json.loads(item.get("body") or item.get("data")) for item in data]
    answers = [answer(one) for one in told]
    print("partial", *told, end="")
    return answers


def answer(told: Any) -> str:
    """Do what one request says: a number, ``burst`` or ``die``."""
    if told == "burst":
        for number in range(BURST):
            print(f"burst {number} " + "x" * 60)
    elif told == "die":
        print("printed last words")
        logger.error("logged last words")
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        print_everywhere(told)
    return "answered"


def print_everywhere(number: int) -> None:
    """One line of each kind."""
    print(f"print {number}")
    print(f"stderr {number}", file=sys.stderr)
    sys.stdout.write(f"write {number}\n")
    sys.stdout.buffer.write(f"bytes {number} ".encode() + b"\xff\n")
    for percent in range(0, 101, 10):
        print(f"\rprogress {number} {percent}", end="", flush=True)
    print()
    warnings.warn(f"warning {number}", stacklevel=1)
    try:
        {}[f"traceback {number}"]
    except KeyError:
        traceback.print_exc()
        logger.exception("logged %d", number)
    thread = threading.Thread(target=fail, args=(number,))
    thread.start()
    thread.join()
    os.write(1, f"native {number}\n".encode())
    if number == 0:
        os.write(1, b"a long native line " + b"x" * 100_000 + b"\n")
    # As faulthandler has them between its stacks.
    os.write(2, b"\n \n")
    subprocess.run(["/bin/echo", f"subprocess {number}"], check=True)
    print(f"[PID]{number}")
    print("Torch worker started.")


def fail(number: int) -> None:
    """End a thread by an exception."""
    raise ValueError(f"thread {number}")
