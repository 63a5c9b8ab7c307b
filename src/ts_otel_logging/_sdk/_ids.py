"""Trace and span ids that a model's ``random.seed`` cannot repeat."""

from __future__ import annotations

import os
import weakref
from struct import Struct
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace.id_generator import IdGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator

# A system call for each id would be a tenth of what a request's spans cost.
_NUMBERS: Final = Struct("128Q")


class SystemIdGenerator(IdGenerator):
    """Takes every id from the operating system's entropy, a kilobyte at a time; a forked child takes its own."""

    def __init__(self) -> None:
        self._numbers: Iterator[int] = iter(())
        method = weakref.WeakMethod(self._forget)

        def after_in_child() -> None:
            forget = method()
            if forget is not None:
                forget()

        os.register_at_fork(after_in_child=after_in_child)

    def _forget(self) -> None:
        self._numbers = iter(())

    def generate_span_id(self) -> int:
        """Return 64 random bits, never all zero."""
        while True:
            # Each number goes to one thread: taking it is one step of the interpreter's.
            for number in self._numbers:
                if number:
                    return number
            self._numbers = iter(_NUMBERS.unpack(os.urandom(_NUMBERS.size)))

    def generate_trace_id(self) -> int:
        """Return 128 random bits, never all zero."""
        return self.generate_span_id() << 64 | self.generate_span_id()

    def is_trace_id_random(self) -> bool:
        """Tell newer SDKs that all bits are random: https://www.w3.org/TR/trace-context-2/#random-trace-id-flag."""
        return True
