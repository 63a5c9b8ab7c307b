"""Trace and span ids that a model's ``random.seed`` cannot repeat."""

from __future__ import annotations

import os

from opentelemetry.sdk.trace.id_generator import IdGenerator


class SystemIdGenerator(IdGenerator):
    """Takes every id from the operating system's entropy: no state, so a fork cannot repeat ids either."""

    def generate_span_id(self) -> int:
        """Return 64 random bits, never all zero."""
        while True:
            span_id = int.from_bytes(os.urandom(8), "big")
            if span_id:
                return span_id

    def generate_trace_id(self) -> int:
        """Return 128 random bits, never all zero."""
        while True:
            trace_id = int.from_bytes(os.urandom(16), "big")
            if trace_id:
                return trace_id

    def is_trace_id_random(self) -> bool:
        """Tell newer SDKs that all bits are random: https://www.w3.org/TR/trace-context-2/#random-trace-id-flag."""
        return True
