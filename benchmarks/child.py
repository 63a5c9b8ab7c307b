"""Call one function of this package in this fresh process, and print what it returns: see `Bench.in_child`."""

from __future__ import annotations

import importlib
import json
import sys

if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    result = json.dumps(function(**json.loads(sys.argv[2])))
    # Our own capture may be on: the answer leaves past it.
    assert sys.__stdout__ is not None
    print(result, file=sys.__stdout__, flush=True)
