"""The processors to choose from: what a storm of equal events leaves."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from lines import Lines
from ts_otel_logging import BridgeHandler, _scope
from ts_otel_logging.processors import build_storm_collapser

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACER = TracerProvider().get_tracer("test")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("acme.storm")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers.clear()
    logger.propagate = True


@pytest.fixture
def log(logger: logging.Logger, lines: Lines, clock: Clock) -> logging.Logger:
    logger.addHandler(BridgeHandler(processors=[build_storm_collapser(clock=clock)], stream=lines))
    return logger


def shown(lines: Lines) -> list[tuple[Any, ...]]:
    return [(line["event"], line.get("repeated")) for line in lines.objects]


class TestStorm:
    def test_equal_events_are_one_and_their_count_is_told_with_the_next_event(
        self, log: logging.Logger, lines: Lines, clock: Clock
    ) -> None:
        for _ in range(1_000):
            log.warning("queue full", extra={"size": 7, "level": "mine"})
        assert shown(lines) == [("queue full", None)]
        clock.now = 1.0
        log.info("something else")
        assert shown(lines) == [("queue full", None), ("queue full", 999), ("something else", None)]
        told = lines.objects[1]
        assert (told["level"], told["logger"], told["size"]) == ("warning", "acme.storm", 7)
        assert told["extra.level"] == "mine"

    def test_after_the_interval_the_next_equal_one_is_shown_again(
        self, log: logging.Logger, lines: Lines, clock: Clock
    ) -> None:
        log.info("x")
        log.info("x")
        clock.now = 1.0
        log.info("x")
        log.info("x")
        assert shown(lines) == [("x", None), ("x", 1), ("x", None)]

    def test_a_count_of_none_is_not_told(self, log: logging.Logger, lines: Lines, clock: Clock) -> None:
        log.info("x")
        clock.now = 1.0
        log.info("y")
        assert shown(lines) == [("x", None), ("y", None)]

    def test_what_differs_in_anything_is_no_storm(self, log: logging.Logger, lines: Lines) -> None:
        other = logging.getLogger("acme.storm.other")
        for call in (
            lambda: log.info("x"),
            lambda: log.warning("x"),
            lambda: other.info("x"),
            lambda: log.info("y"),
            lambda: log.info("x", extra={"value": 1}),
            lambda: log.info("x", extra={"value": True}),
            lambda: log.info("x", extra={"value": 1.0}),
            lambda: log.info("x", extra={"value": "1"}),
            lambda: log.info("x", extra={"value": [1]}),
            lambda: log.info("x", extra={"value1": ""}),
            lambda: log.info("x", exc_info=ValueError("one")),
            lambda: log.info("x", exc_info=ValueError("two")),
        ):
            call()
        with structlog.contextvars.bound_contextvars(tenant="acme"):
            log.info("x")
        assert len(lines.objects) == 13

    def test_two_requests_are_never_taken_for_one_and_each_is_told_as_its_own(
        self, log: logging.Logger, lines: Lines, clock: Clock
    ) -> None:
        for request in ("r1", "r2"):
            token = _scope.enter(_scope.of_request(request, None))
            try:
                with TRACER.start_as_current_span("predict"), structlog.contextvars.bound_contextvars(tenant=request):
                    for _ in range(3):
                        log.info("x")
            finally:
                _scope.leave(token)
        clock.now = 1.0
        log.info("outside")
        fields = ("request_id", "tenant", "repeated", "span_id")
        first, second, told_first, told_second, outside = ([line.get(f) for f in fields] for line in lines.objects)
        assert (first[:3], second[:3]) == (["r1", "r1", None], ["r2", "r2", None])
        assert told_first == ["r1", "r1", 2, first[3]]
        assert told_second == ["r2", "r2", 2, second[3]]
        assert outside == [None] * 4

    def test_spans_alone_do_not_make_events_differ(self, log: logging.Logger, lines: Lines) -> None:
        for _ in range(3):
            with TRACER.start_as_current_span("poll"):
                log.info("x")
        assert len(lines.objects) == 1

    def test_memory_is_bounded_and_what_is_forgotten_is_told(
        self, logger: logging.Logger, lines: Lines, clock: Clock
    ) -> None:
        collapser: Any = build_storm_collapser(max_events=2, clock=clock)
        logger.addHandler(BridgeHandler(processors=[collapser], stream=lines))
        for number in range(3):
            logger.info("x %d", number, extra={"long": "y" * 10_000})
            logger.info("x %d", number, extra={"long": "y" * 10_000})
        assert shown(lines) == [("x 0", None), ("x 1", None), ("x 0", 1), ("x 2", None)]
        assert "long" not in lines.objects[2], "of a storm only so much is kept"

    def test_the_end_of_the_process_tells_the_rest_and_a_forked_child_only_its_own(self) -> None:
        program = """
            import logging, os
            from ts_otel_logging import BridgeHandler
            from ts_otel_logging.processors import build_storm_collapser
            logging.basicConfig(handlers=[BridgeHandler(processors=[build_storm_collapser(interval_seconds=1e6)])],
                                level="INFO")
            for _ in range(5):
                logging.info("parent")
            if os.fork() == 0:
                for _ in range(3):
                    logging.info("child")
            else:
                os.wait()
        """
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        assert shown(Lines(result.stdout)) == [("parent", None), ("child", None), ("child", 2), ("parent", 4)]

    @pytest.mark.parametrize("wrong", [{"interval_seconds": 0}, {"interval_seconds": float("nan")}, {"max_events": 0}])
    def test_a_number_out_of_its_range_is_refused_with_what_is_accepted(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*: accepted is"):
            build_storm_collapser(**wrong)
