"""Programs in a process of their own: OpenTelemetry's API takes a provider only once, and some programs end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from otlp_receiver import OtlpReceiver


def exported_spans(folder: Path, program: str, **environ: str) -> list[str]:
    """Run a program that exports, and return its spans' names once it has ended.

    Args:
        folder: Where the program is put.
        program: Its text; it may import the tests' own modules.
        environ: Variables besides the endpoint; those of this process that would count are left out.
    """
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program), encoding="utf-8")
    with OtlpReceiver() as receiver:
        own = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TS_"))},
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            **environ,
        }
        subprocess.run([sys.executable, "-W", "ignore", str(path)], env=own, check=True, timeout=100)
        return [received.span.name for received in receiver.spans]
