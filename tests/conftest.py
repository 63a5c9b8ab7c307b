"""Shared by every level: the process's logging is as it was after each test."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from opentelemetry import metrics
from opentelemetry.util._once import Once

if TYPE_CHECKING:
    from collections.abc import Iterator

# The tests' own OTLP receiver runs gRPC in this process, which starts servers by fork and exec: gRPC's fork handlers
# abort such a child now and then ("epoll_wait error: Bad file descriptor"). Set before anything imports grpc.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


# How long one example takes says more about the machine than about the code.
settings.register_profile("patient", parent=settings.default, deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _logging_is_restored() -> Iterator[None]:
    """Put the root logger's handlers, filters and level back, and the standard streams."""
    root = logging.getLogger()
    handlers, filters, level, disabled = root.handlers[:], root.filters[:], root.level, logging.root.manager.disable
    streams = sys.stdout, sys.stderr
    yield
    root.handlers[:], root.filters[:] = handlers, filters
    root.setLevel(level)
    logging.disable(disabled)
    sys.stdout, sys.stderr = streams


@pytest.fixture(autouse=True)
def _meter_provider_is_restored() -> Iterator[None]:
    """Let the API forget a meter provider that a test has set: it is shut down by then, and warns all who ask."""
    proxy = metrics._internal._PROXY_METER_PROVIDER
    before = metrics._internal._METER_PROVIDER, proxy._real_meter_provider
    yield
    if (metrics._internal._METER_PROVIDER, proxy._real_meter_provider) != before:
        # opentelemetry-python, tests/opentelemetry-test-utils, globals_test.py does the same.
        metrics._internal._METER_PROVIDER_SET_ONCE = Once()
        metrics._internal._METER_PROVIDER = before[0]
        metrics._internal._PROXY_METER_PROVIDER = metrics._internal._ProxyMeterProvider()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger whose records go nowhere but to the handlers that a test adds; they are closed."""
    logger = logging.getLogger("acme.model")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What handlers hand to `logging.Handler.handleError`, instead of a traceback on stderr."""
    caught: list[BaseException | None] = []
    monkeypatch.setattr(logging.Handler, "handleError", lambda _self, _record: caught.append(sys.exc_info()[1]))
    return caught
