"""Call one function of this package in this fresh process, and print what it returns: see `Bench.in_child`."""

from __future__ import annotations

import importlib
import json
import os
import sys

if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    result = json.dumps(function(**json.loads(sys.argv[2])))
    # Past Python's streams, which may be captured; and out, though exporters may still wait for a collector that hangs.
    os.write(1, f"\n{result}\n".encode())
    os._exit(0)
