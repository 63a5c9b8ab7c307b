"""A real logrotate moves files away under several writing processes: no line is lost, none torn."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from debian_programs import environ, program

if TYPE_CHECKING:
    from pathlib import Path

WRITERS, ROTATIONS, RECORDS = 3, 3, 200
WRITER = textwrap.dedent("""
    import logging, sys
    from ts_otel_logging.sinks import LatencyHandler, TimestampedFileHandler
    folder, name, records = sys.argv[1], sys.argv[2], int(sys.argv[3])
    handlers = [TimestampedFileHandler(f"{folder}/custom.log"), LatencyHandler(f"{folder}/latency.csv")]
    logging.basicConfig(handlers=handlers, level=logging.INFO, format="%(message)s")
    for turn in sys.stdin:
        for number in range(records):
            logging.info("%s-%s-%d", name, turn.strip(), number, extra={"inference_latency": 0.5})
        print("written", flush=True)
""")


class Writers:
    def __init__(self, folder: Path) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(folder), str(name), str(RECORDS)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for name in range(WRITERS)
        ]  # fmt: skip

    def begin(self, turn: int) -> None:
        for process in self.processes:
            process.stdin.write(f"{turn}\n")
            process.stdin.flush()

    def finish(self) -> None:
        assert [process.stdout.readline() for process in self.processes] == ["written\n"] * WRITERS

    def end(self) -> None:
        for process in self.processes:
            process.stdin.close()
            assert process.wait(30) == 0
            process.stdout.close()


def rotate(folder: Path, how: str) -> None:
    # logrotate trusts a configuration only if no one else may write to it, and nor to the folder.
    os.chmod(folder, 0o700)
    configuration = folder / "logrotate.conf"
    files = f"{folder}/custom.log {folder}/latency.csv"
    configuration.write_text(f"{files} {{\n rotate 9\n missingok\n {how}\n}}\n")
    os.chmod(configuration, 0o600)
    command = [program("logrotate"), "--force", "--state", str(folder / "state"), str(configuration)]
    subprocess.run(command, check=True, env=environ(), timeout=60)


def wait_for_lines(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("how", "meanwhile"),
    [
        ("nocreate", True),
        ("create 0600", True),
        # Between its copying and its truncating logrotate loses what is written (its manual says so).
        ("copytruncate", False),
    ],
)
def test_every_line_is_in_one_of_the_files(tmp_path: Path, how: str, meanwhile: bool) -> None:
    writers = Writers(tmp_path)
    for turn in range(ROTATIONS):
        writers.begin(turn)
        if meanwhile:
            wait_for_lines(tmp_path / "custom.log")
        else:
            writers.finish()
        rotate(tmp_path, how)
        if meanwhile:
            writers.finish()
    writers.begin(ROTATIONS)
    writers.finish()
    writers.end()
    lines = [line for path in tmp_path.glob("custom.log*") for line in path.read_text().splitlines()]
    assert sorted(line.split(" ", 1)[1] for line in lines) == sorted(
        f"{name}-{turn}-{number}"
        for name in range(WRITERS)
        for turn in range(ROTATIONS + 1)
        for number in range(RECORDS)
    )
    tables = [path.read_text().splitlines() for path in tmp_path.glob("latency.csv*")]
    tables = [table for table in tables if table]
    assert [table[0] for table in tables] == ["time,latency"] * len(tables)
    rows = [row for table in tables for row in table[1:]]
    assert len(rows) == WRITERS * RECORDS * (ROTATIONS + 1)
    assert {row.split(",")[1] for row in rows} == {"0.5"}
    assert len(list(tmp_path.glob("custom.log*"))) == ROTATIONS + 1
    assert (tmp_path / "custom.log").read_text().count(f"-{ROTATIONS}-") == WRITERS * RECORDS
