"""What a function returns in a forked child of this process."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any, Callable


def in_forked_child(function: Callable[[], Any]) -> Any:
    """Call a function in a forked child and return what it returned there, which JSON must hold."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of threads, which others in this process may have.
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    os.waitpid(pid, 0)
    return json.loads(text)
