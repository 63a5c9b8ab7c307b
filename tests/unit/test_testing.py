"""`ts_otel_logging.testing`: what users' tests see of their programs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import metrics, trace

import ts_otel_logging
from ts_otel_logging import testing

logger = logging.getLogger("acme.model")
# Made before any test, as programs do.
tracer = trace.get_tracer("acme")


def count(number: int) -> None:
    # Not made before: an instrument stays with the first provider of the process, which another test may have set.
    metrics.get_meter("acme").create_counter("acme.requests").add(number)


class TestCapture:
    def test_a_whole_trace_compares_as_literals(self) -> None:
        clock = testing.Clock()
        with testing.capture(clock=clock) as captured, tracer.start_as_current_span("read"):
            clock.advance(0.5)
            logger.info("done", extra={"inference_latency": 0.25})
            clock.advance(0.5)
        assert captured.events == [
            {
                "timestamp": "2026-01-01T00:00:00.500000Z",
                "level": "info",
                "logger": "acme.model",
                "event": "done",
                "trace_id": "00000000000000000000000000000001",
                "span_id": "0000000000000001",
                "trace_flags": "01",
                "inference_latency": 0.25,
            }
        ]
        start = 1_767_225_600_000_000_000
        assert [(span.name, span.start_time - start, span.end_time - start) for span in captured.spans] == [
            ("inference_latency", 250_000_000, 500_000_000),
            ("read", 0, 1_000_000_000),
        ]
        assert captured.span("inference_latency").parent.span_id == captured.span("read").context.span_id == 1
        (point,) = captured.points("torchserve.reported.duration")
        assert (point.count, point.sum, point.time_unix_nano) == (1, 0.25, start + 10**9)

    def test_a_block_may_be_a_request(self) -> None:
        with testing.capture() as captured:
            with captured.request(), ts_otel_logging.span("tokenize"):
                logger.info("one")
            with captured.request(batch_size=2), ts_otel_logging.request_scope(1):
                logger.info("second of two")
            with pytest.raises(ZeroDivisionError), captured.request():
                raise ZeroDivisionError
            logger.info("outside")
        assert [event.get("request_id") for event in captured.events] == ["request-1", "request-3", None]
        first, *others = [span for span in captured.spans if span.name == "predict model"]
        assert captured.span("tokenize").parent.span_id == first.context.span_id
        assert captured.events[0]["span_id"] == f"{captured.span('tokenize').context.span_id:016x}"
        assert [span.status.status_code.name for span in (first, *others)] == ["UNSET", "UNSET", "UNSET", "ERROR"]
        assert sum(point.count for point in captured.points("torchserve.request.duration")) == 4

    def test_the_readmes_tests_pass(self, tmp_path: Path) -> None:
        page = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
        section = page.partition("## In your tests")[2].partition("```python\n")[2].partition("```")[0]
        (tmp_path / "test_readme.py").write_text(section, encoding="utf-8")
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert run.stdout.splitlines()[-1].startswith("2 passed"), run.stdout

    def test_every_kind_of_logger_ends_there(self) -> None:
        with testing.capture() as captured:
            structlog.get_logger("a").info("one", answer=42)
            ts_otel_logging.get_logger("b").info("two")
            logger.warning("three")
        assert [event["event"] for event in captured.events] == ["one", "two", "three"]
        assert captured.events[0]["answer"] == 42

    def test_nothing_of_a_test_is_left_to_the_next(self) -> None:
        root = logging.getLogger()
        before = root.level, root.handlers[:], structlog.get_config(), trace.get_tracer_provider(), time.time
        for _ in range(2):
            with testing.capture(clock=testing.Clock()) as captured, tracer.start_as_current_span("read"):
                count(2)
                logger.info("x")
            assert [span.context.trace_id for span in captured.spans] == [1]
            assert [point.value for point in captured.points("acme.requests")] == [2]
            assert len(captured.events) == 1
        assert before == (
            root.level, root.handlers[:], structlog.get_config(), trace.get_tracer_provider(), time.time
        )  # fmt: skip
        with tracer.start_as_current_span("after"):
            logger.error("after")
        with testing.capture():
            count(5)
        assert [span.name for span in captured.spans] == ["read"]
        assert [point.value for point in captured.points("acme.requests")] == [2]
        assert len(captured.events) == 1

    def test_what_was_made_before_measures_into_every_capture(self) -> None:
        program = """
            from opentelemetry import metrics
            from ts_otel_logging import testing
            counter = metrics.get_meter("acme").create_counter("acme.requests")
            for number in (1, 2):
                with testing.capture() as captured:
                    counter.add(number)
                print([point.value for point in captured.points("acme.requests")])
        """
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("TS_", "OTEL_"))}
        command = [sys.executable, "-c", textwrap.dedent(program)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
        assert run.stdout.splitlines() == ["[1]", "[2]"]

    def test_measurements_add_up_over_looks(self) -> None:
        with testing.capture() as captured:
            count(1)
            assert len(captured.points("acme.requests")) == 1
            count(2)
            assert [point.value for point in captured.points("acme.requests")] == [1, 2]
            assert captured.points("acme.others") == []

    def test_settings_are_those_of_configure_and_the_environments_do_not_count(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TS_OTEL_LOGGING_LEVEL", "ERROR")
        add = lambda _l, _m, event_dict: {**event_dict, "region": "eu"}  # noqa: E731
        with testing.capture(level="DEBUG", processors=[add], redact=["plate"]) as captured:
            logger.debug("x", extra={"plate": "B-AB 123", "password": "s3cret"})
            with tracer.start_as_current_span("s", attributes={"password": "s3cret"}):
                pass
        (event,) = captured.events
        assert event["region"] == "eu"
        assert (event["plate"], event["password"]) == ("[REDACTED]", "[REDACTED]")
        assert captured.span("s").attributes["password"] == "[REDACTED]"

    def test_ids_may_be_chosen(self) -> None:
        with testing.capture(trace_ids=[0xA], span_ids=[0xB]) as captured, tracer.start_as_current_span("a"):
            logger.info("x")
        assert captured.events[0]["trace_id"].endswith("0a")
        assert captured.events[0]["span_id"].endswith("0b")

    def test_an_error_that_production_would_only_tell_raises(self) -> None:
        def broken(*_: Any) -> Any:
            raise ZeroDivisionError

        with testing.capture(processors=[broken]), pytest.raises(ZeroDivisionError):
            logger.info("x")

    def test_a_mistake_says_what_is_accepted(self) -> None:
        with pytest.raises(TypeError, match="colour"), testing.capture(colour="red"):
            pass
        with pytest.raises(ValueError, match="DEBUG, INFO"), testing.capture(level="LOUD"):
            pass
        with testing.capture() as captured:
            with pytest.raises(RuntimeError, match="already"), testing.capture():
                pass
            with pytest.raises(LookupError, match="0 spans are named 'x'; there are none"):
                captured.span("x")

    def test_importing_it_imports_neither_the_sdk_nor_structlog_nor_a_test_framework(self) -> None:
        found = "[name for name in ('opentelemetry', 'structlog', 'pytest') if name in sys.modules]"
        code = f"import sys, ts_otel_logging.testing; print({found})"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("TS_", "COV"))}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
        assert run.stdout.strip() == "[]"
