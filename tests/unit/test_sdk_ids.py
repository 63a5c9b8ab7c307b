"""Ids come from the operating system, and no two are the same: not of two threads, not of a parent and its child."""

from __future__ import annotations

import random
import threading

from forked import in_forked_child
from ts_otel_logging._sdk._ids import SystemIdGenerator


def test_ids_are_whole_and_not_those_of_a_seed() -> None:
    generator = SystemIdGenerator()
    found = set()
    for _ in range(300):
        random.seed(0)
        found.add(generator.generate_span_id())
    assert len(found) == 300
    assert all(0 < number < 2**64 for number in found)
    assert max(found) >= 2**60
    trace_ids = {generator.generate_trace_id() for _ in range(300)}
    assert len(trace_ids) == 300
    assert all(number < 2**128 for number in trace_ids)
    assert max(trace_ids) >= 2**124


def test_threads_share_none() -> None:
    generator = SystemIdGenerator()
    begin = threading.Barrier(4)
    found: list[list[int]] = []

    def work() -> None:
        begin.wait()
        found.append([generator.generate_span_id() for _ in range(2_000)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({number for numbers in found for number in numbers}) == 4 * 2_000


def test_a_forked_child_has_its_own() -> None:
    generator = SystemIdGenerator()
    generator.generate_span_id()
    of_the_child = in_forked_child(lambda: [generator.generate_span_id() for _ in range(100)])
    assert len(of_the_child) == 100
    assert not {generator.generate_span_id() for _ in range(100)} & set(of_the_child)
