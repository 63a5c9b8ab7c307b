"""A signal's handler that raises in the middle of a function, as a time limit does (SIGALRM)."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, FunctionType


class TimeLimitError(BaseException):
    """What the handler raises."""


@contextlib.contextmanager
def time_limit_within(function: FunctionType) -> Iterator[None]:
    """Raise whenever something written in C returns to a function: then Python runs a signal's handler.

    Args:
        function: Of Python's; it is left by the exception, which ends the block and goes no further.
    """

    def interrupt(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "c_return" and frame.f_code is function.__code__:
            raise TimeLimitError

    sys.setprofile(interrupt)
    try:
        with contextlib.suppress(TimeLimitError):
            yield
    finally:
        sys.setprofile(None)
