"""`TimestampedFileHandler` and `LatencyHandler`: whole records in files that others share, rename and truncate."""

from __future__ import annotations

import csv
import fcntl
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from ts_otel_logging.sinks import LatencyHandler, TimestampedFileHandler

TRACER = TracerProvider().get_tracer("test")
WRITERS, RECORDS = 4, 300


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


class TestTimestampedFile:
    def test_a_record_is_in_the_file_with_its_time_when_the_call_returns(
        self, logger: logging.Logger, tmp_path: Path
    ) -> None:
        path = tmp_path / "custom.log"
        handler = TimestampedFileHandler(path)
        logger.addHandler(handler)
        assert not path.exists(), "made with the first record"
        record = logger.makeRecord("acme.model", logging.INFO, "", 0, "Größe %d", (3,), None)
        record.created = 1_700_000_000.123456
        logger.handle(record)
        assert path.read_text("utf-8") == "2023-11-14T22:13:20.123456Z INFO acme.model Größe 3\n"

    def test_in_a_span_a_line_has_its_ids(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "custom.log"
        logger.addHandler(TimestampedFileHandler(path))
        with TRACER.start_as_current_span("predict") as span:
            logger.info("x")
        context = span.get_span_context()
        assert path.read_text().endswith(
            f" INFO acme.model x trace_id={context.trace_id:032x} span_id={context.span_id:016x}\n"
        )

    def test_whatever_begins_with_a_time_is_a_record(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "custom.log"
        logger.addHandler(TimestampedFileHandler(path))
        logger.info("real\n2023-11-14T22:13:20.123456Z INFO acme.model forged", exc_info=ValueError("bad"))
        first, *others = path.read_text().splitlines()
        assert first.endswith("INFO acme.model real")
        assert all(line.startswith("\t") for line in others)
        assert others[-1] == "\tValueError: bad"

    def test_a_formatter_takes_the_place_of_all_but_the_time(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "custom.log"
        handler = TimestampedFileHandler(path)
        handler.setFormatter(logging.Formatter("%(levelno)d|%(message)s|%(answer)s"))
        logger.addHandler(handler)
        logger.info("x", extra={"answer": 42})
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z 20\|x\|42\n", path.read_text())

    def test_a_lone_surrogate_is_shown(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "custom.log"
        logger.addHandler(TimestampedFileHandler(path))
        logger.info("a\udcffb")
        assert path.read_text("utf-8").endswith("a\\udcffb\n")

    def test_a_relative_name_is_of_the_folder_at_construction(
        self, logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        logger.addHandler(TimestampedFileHandler("custom.log"))
        monkeypatch.chdir("/")
        logger.info("x")
        assert (tmp_path / "custom.log").exists()

    @pytest.mark.parametrize("leaves", ["renamed", "replaced", "removed"])
    def test_a_file_that_left_is_made_anew(self, logger: logging.Logger, tmp_path: Path, leaves: str) -> None:
        path = tmp_path / "custom.log"
        logger.addHandler(TimestampedFileHandler(path))
        logger.info("before")
        if leaves == "removed":
            path.unlink()
        else:
            path.rename(tmp_path / "custom.log.1")
        if leaves == "replaced":
            path.touch()
        logger.info("after")
        assert path.read_text().endswith("after\n")
        assert "before" not in path.read_text()
        assert leaves == "removed" or (tmp_path / "custom.log.1").read_text().endswith("before\n")

    def test_a_truncated_file_goes_on_at_its_new_end(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "custom.log"
        logger.addHandler(TimestampedFileHandler(path))
        logger.info("before")
        os.truncate(path, 0)
        logger.info("after")
        assert b"\0" not in path.read_bytes()
        assert path.read_text().count("\n") == 1

    def test_several_processes_tear_no_line(self, tmp_path: Path) -> None:
        path = tmp_path / "custom.log"
        program = textwrap.dedent(f"""
            import logging, sys
            from ts_otel_logging.sinks import TimestampedFileHandler
            logging.basicConfig(handlers=[TimestampedFileHandler({str(path)!r})], level=logging.INFO)
            sys.stdin.readline()
            for number in range({RECORDS}):
                logging.info("%s", sys.argv[1] * (40_000 if number % 50 == 0 else 300))
        """)
        writers = [
            subprocess.Popen([sys.executable, "-c", program, str(number)], stdin=subprocess.PIPE)
            for number in range(WRITERS)
        ]
        for writer in writers:
            writer.stdin.write(b"\n")
            writer.stdin.close()
        assert [writer.wait(60) for writer in writers] == [0] * WRITERS
        written = path.read_text().splitlines()
        assert len(written) == WRITERS * RECORDS
        whole = re.compile(r"\S{27} INFO:root:(0+|1+|2+|3+)")
        assert [line[:99] for line in written if not (whole.fullmatch(line) and len(line) in (338, 40_038))] == []

    def test_a_full_disk_glues_nothing_to_the_part_that_fitted(
        self, logger: logging.Logger, tmp_path: Path, failures: list[BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "custom.log"
        logger.addHandler(TimestampedFileHandler(path))
        real_write, room = os.write, [20]

        def write(descriptor: int, data: bytes) -> int:
            if not room[0]:
                raise OSError(28, "No space left on device")
            written = real_write(descriptor, data[: room[0]])
            room[0] -= written
            return written

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            logger.info("lost")
        logger.info("kept")
        assert [type(error) for error in failures] == [OSError]
        torn, kept = path.read_text().splitlines()
        assert len(torn) == 20
        assert kept.endswith("INFO acme.model kept")

    def test_a_full_device_costs_the_record_and_nothing_else(
        self, logger: logging.Logger, failures: list[OSError]
    ) -> None:
        handler = TimestampedFileHandler("/dev/full")
        logger.addHandler(handler)
        logger.info("x")
        assert [error.strerror for error in failures] == ["No space left on device"]
        assert handler.retry_seconds > 0

    def test_what_cannot_be_written_to_is_said_in_words(self, tmp_path: Path) -> None:
        assert TimestampedFileHandler(tmp_path / "custom.log").check() is None
        assert os.listdir(tmp_path) == []
        problem = TimestampedFileHandler(tmp_path / "no" / "custom.log").check()
        assert problem == f"{tmp_path}/no/custom.log cannot be written to: No such file or directory"
        assert TimestampedFileHandler(tmp_path).check() == f"{tmp_path} cannot be written to: Is a directory"


class TestLatency:
    def test_a_latency_is_a_row_as_it_happens(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "latency.csv"
        logger.addHandler(LatencyHandler(path))
        logger.info("no latency")
        logger.info("Inference complete", extra={"inference_latency": 0.012})
        head, row = rows(path)
        assert head == ["time", "latency"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", row[0])
        assert float(row[1]) == 0.012

    def test_more_fields_and_columns_by_option(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "latency.csv"
        logger.addHandler(
            LatencyHandler(path, fields=["a", "b"], columns=["model_name", "request_id", "trace_id", "name"])
        )
        with TRACER.start_as_current_span("predict") as span:
            logger.info("x", extra={"b": 2, "a": 1.5, "model_name": "digits, new"})
        trace_id = f"{span.get_span_context().trace_id:032x}"
        head, *data = rows(path)
        assert head == ["time", "field", "latency", "model_name", "request_id", "trace_id", "name"]
        assert [row[1:] for row in data] == [
            ["a", "1.5", "digits, new", "", trace_id, "acme.model"],
            ["b", "2.0", "digits, new", "", trace_id, "acme.model"],
        ]

    @pytest.mark.parametrize(
        "value", [None, True, "0.5", b"1", float("nan"), float("inf"), -0.1, 3_601, [1], "[REDACTED]"]
    )
    def test_what_is_no_latency_leaves_no_row(self, logger: logging.Logger, tmp_path: Path, value: Any) -> None:
        logger.addHandler(LatencyHandler(tmp_path / "latency.csv"))
        logger.info("x", extra={"inference_latency": value})
        assert not (tmp_path / "latency.csv").exists()

    def test_closing_appends_a_summary_beside_the_rows(self, logger: logging.Logger, tmp_path: Path) -> None:
        handler = LatencyHandler(tmp_path / "latency.csv")
        logger.addHandler(handler)
        values = [number / 1000 for number in range(1, 1001)]
        for value in reversed(values):
            logger.info("x", extra={"inference_latency": value})
        summary = handler.summary()["inference_latency"]
        handler.close()
        handler.close()
        head, row = rows(tmp_path / "latency.summary.csv")
        assert head == ["time", "process", "field", "count", "mean", "min", "max", "p50", "p90", "p95", "p99"]
        assert row[1:4] == [str(os.getpid()), "inference_latency", "1000"]
        assert [float(value) for value in row[3:]] == list(summary.values())
        assert summary["mean"] == pytest.approx(0.5005)
        assert (summary["min"], summary["max"]) == (0.001, 1.0)
        for name, exact in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
            assert summary[name] == pytest.approx(exact, rel=0.011)

    def test_without_a_latency_there_is_no_summary(self, tmp_path: Path) -> None:
        LatencyHandler(tmp_path / "latency.csv").close()
        assert list(tmp_path.iterdir()) == []

    def test_one_and_zero_are_summed_up_exactly(self, logger: logging.Logger, tmp_path: Path) -> None:
        handler = LatencyHandler(tmp_path / "latency.csv", summary_filename=tmp_path / "all.csv")
        logger.addHandler(handler)
        logger.info("x", extra={"inference_latency": 0})
        assert set(handler.summary()["inference_latency"].values()) == {1, 0.0}
        handler.close()
        assert len(rows(tmp_path / "all.csv")) == 2

    def test_an_emptied_file_gets_its_head_again(self, logger: logging.Logger, tmp_path: Path) -> None:
        path = tmp_path / "latency.csv"
        logger.addHandler(LatencyHandler(path))
        for _ in range(2):
            logger.info("x", extra={"inference_latency": 1})
            os.truncate(path, 0)
        logger.info("x", extra={"inference_latency": 1})
        assert [row[0] == "time" for row in rows(path)] == [True, False]

    def test_several_processes_share_one_head(self, tmp_path: Path) -> None:
        path = tmp_path / "latency.csv"
        program = textwrap.dedent(f"""
            import logging, sys
            from ts_otel_logging.sinks import LatencyHandler
            logging.basicConfig(handlers=[LatencyHandler({str(path)!r})], level=logging.INFO)
            sys.stdin.readline()
            for number in range({RECORDS}):
                logging.info("x", extra={{"inference_latency": 0.25}})
        """)
        writers = [subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) for _ in range(WRITERS)]
        for writer in writers:
            writer.stdin.write(b"\n")
            writer.stdin.close()
        assert [writer.wait(60) for writer in writers] == [0] * WRITERS
        head, *data = rows(path)
        assert head == ["time", "latency"]
        assert [row[1] for row in data] == ["0.25"] * WRITERS * RECORDS
        _, *summaries = rows(tmp_path / "latency.summary.csv")
        assert [row[3] for row in summaries] == [str(RECORDS)] * WRITERS

    def test_of_those_who_find_a_file_empty_the_first_writes_the_head(
        self, logger: logging.Logger, tmp_path: Path
    ) -> None:
        path = tmp_path / "latency.csv"
        logger.addHandler(LatencyHandler(path))
        writer = threading.Thread(target=logger.info, args=("x",), kwargs={"extra": {"inference_latency": 0.5}})
        with path.open("ab", buffering=0) as first:
            fcntl.flock(first, fcntl.LOCK_EX)
            writer.start()
            # proc(5): who waits for a lock has an arrow in its line.
            waits = re.compile(rf"-> FLOCK .*:{os.fstat(first.fileno()).st_ino} ")
            deadline = time.monotonic() + 30
            while writer.is_alive() and not waits.search(Path("/proc/locks").read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            first.write(b"time,latency\n2026-11-21T10:32:06.093795Z,0.25\n")
        writer.join()
        head, *data = rows(path)
        assert (head, [row[1] for row in data]) == (["time", "latency"], ["0.25", "0.5"])

    @pytest.mark.parametrize("arguments", [{"fields": []}, {"fields": [1]}, {"columns": [""]}, {"columns": 5}])
    def test_wrong_names_are_refused(self, tmp_path: Path, arguments: dict[str, Any]) -> None:
        with pytest.raises((TypeError, ValueError), match="accepted is"):
            LatencyHandler(tmp_path / "latency.csv", **arguments)
