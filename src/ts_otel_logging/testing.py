"""For tests: what a program logs, traces and measures, through the real pipeline, kept in memory.

Usage
-----
A fixture for pytest::

    @pytest.fixture
    def captured():
        with ts_otel_logging.testing.capture() as captured:
            yield captured

    def test_a_blank_image_is_told(captured):
        read_digit(blank)
        assert captured.events[-1]["event"] == "Blank image"

    def test_reading_is_a_span(captured):
        with captured.request():
            read_digit(image)
        assert captured.span("tokenize").parent.span_id == captured.span("predict model").context.span_id

What is printed is an event only in a test that has the ``with`` in itself: between a fixture and its test pytest puts
streams of its own in place.

API
---
`capture`
    Switches the pipeline on for a block.
`Captured`
    What came out: `events`, `spans`, `points`; `request` lets a block be a request.
`Clock`
    A clock that stands still until it is told otherwise.

Importing this module imports neither the SDK nor a test framework.
"""

from __future__ import annotations

import io
import itertools
import json
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan  # noqa: TID251 - a type

    from ts_otel_logging._sdk._in_memory import InMemoryProviders
    from ts_otel_logging._tracing import Tracing

__all__ = ["Captured", "Clock", "capture"]


class Clock:
    """A wall clock that stands still; calling it gives its time in nanoseconds since the epoch.

    Args:
        now_nanos: Its time at first; by default 2026-01-01T00:00:00Z.

    Attributes:
        now_nanos: Its time; may be set.
    """

    def __init__(self, now_nanos: int = 1_767_225_600_000_000_000) -> None:
        self.now_nanos = now_nanos

    def __call__(self) -> int:
        """Return the time."""
        return self.now_nanos

    def advance(self, seconds: float) -> None:
        """Move on."""
        self.now_nanos += round(seconds * 1e9)


class Captured:
    """What came out of a block so far."""

    def __init__(self, lines: io.StringIO, providers: InMemoryProviders, tracing: Tracing) -> None:
        self._lines = lines
        self._tracing = tracing
        self._request_numbers = itertools.count(1)
        # None after the block: later spans and measurements are another's.
        self._providers: Optional[InMemoryProviders] = providers
        self._spans: list[ReadableSpan] = []
        self._points: list[tuple[str, Any]] = []

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event, as its line in the default shape holds it: processed, masked, cut."""
        return [json.loads(line) for line in self._lines.getvalue().splitlines()]

    @property
    def spans(self) -> list[ReadableSpan]:
        """Every span that has ended, in the order of their ends, with secrets masked."""
        if self._providers is not None:
            self._spans = self._providers.spans()
        return self._spans

    def span(self, name: str) -> ReadableSpan:
        """Return the one span of a name.

        Raises:
            LookupError: There is none, or more than one.
        """
        names = [span.name for span in self.spans]
        if names.count(name) != 1:
            raise LookupError(f"{names.count(name)} spans are named {name!r}; there are {', '.join(names) or 'none'}")
        return self.spans[names.index(name)]

    def points(self, metric: str) -> list[Any]:
        """Return the data points of a metric; each look adds what was measured since the last."""
        if self._providers is not None:
            self._points.extend(self._providers.points())
        return [point for name, point in self._points if name == metric]

    @contextmanager
    def request(self, *, batch_size: int = 1) -> Iterator[None]:
        """Let a block be what a worker does for a request: `ts_otel_logging.span` and `request_scope` work in it.

        Its spans, measurements and ids are those of a request, ``request-1``, ``request-2``, …, to a model named
        ``model``; one that raises has failed.

        Args:
            batch_size: How many requests the block is for, at least 1.

        Yields:
            Nothing.
        """
        from ts_otel_logging._requests import IncomingRequest, Model, Outcome
        from ts_otel_logging._tracing import Call

        requests = [IncomingRequest(f"request-{next(self._request_numbers)}", {}) for _ in range(batch_size)]
        call = Call(self._tracing, Model("model", None, "cpu", None), requests, resumable=False)
        outcome = Outcome(HTTPStatus.OK)
        try:
            yield
        except BaseException as error:
            outcome = Outcome(None, error)
            raise
        finally:
            try:
                call.end([outcome] * batch_size)
            finally:
                call.leave()

    def _end(self) -> None:
        _ = self.spans, self.points("")
        self._providers = None


@contextmanager
def capture(
    *,
    clock: Optional[Callable[[], int]] = None,
    trace_ids: Optional[Iterable[int]] = None,
    span_ids: Optional[Iterable[int]] = None,
    **settings: Any,
) -> Iterator[Captured]:
    """Capture what a block logs by `logging` and structlog, traces and measures; nothing is printed or sent.

    The root logger and OpenTelemetry's API are as they were afterwards. Environment variables change nothing. An error
    that would only be told in production, of a processor for instance, raises.

    Args:
        clock: Gives the time in nanoseconds since the epoch, a `Clock` for instance; it replaces the process's wall
            clock in the block, not the clocks that measure durations.
        trace_ids: The ids of traces; by default 1, 2, 3, …
        span_ids: The ids of spans; by default 1, 2, 3, …
        **settings: Keywords of `ts_otel_logging.configure`.

    Yields:
        What came out so far.

    Raises:
        RuntimeError: `ts_otel_logging.configure` or another `capture` is on.
        TypeError: An unknown keyword.
        ValueError: A setting that is not accepted; the message says what is.
    """
    from ts_otel_logging import _activate
    from ts_otel_logging._sdk._in_memory import clock_replaced, in_memory_providers

    providers = in_memory_providers()
    lines = io.StringIO()
    with ExitStack() as stack:
        tracing = stack.enter_context(_activate.captured(providers, lines, **{**settings, "format": "structlog"}))
        providers.start(iter(trace_ids or itertools.count(1)), iter(span_ids or itertools.count(1)))
        if clock is not None:
            stack.enter_context(clock_replaced(clock))
        captured = Captured(lines, providers, tracing)
        stack.callback(captured._end)  # noqa: SLF001 - same module
        yield captured
