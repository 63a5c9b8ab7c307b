"""Micro-batching: the phases run in threads that live as long as the handler, where no request is current.

`ts.handler_utils.micro_batching.MicroBatching.handle` puts pieces of a batch into queues and waits until they have
passed through all threads, so whatever these do in between belongs to that one batch.
"""

from __future__ import annotations

import functools
import weakref
from contextvars import Context, copy_context
from typing import Any, Callable, Final

from ts_otel_logging._diagnostics import shielded

# By the one object that a MicroBatching and its threads share and nobody else has.
_contexts: Final[weakref.WeakKeyDictionary[Any, Context]] = weakref.WeakKeyDictionary()


def wrap_handle(handle: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `MicroBatching.handle` whose context the threads can run in."""

    @shielded("micro-batching")
    def enter(batching: Any) -> None:
        _contexts[batching.thread_local_data] = copy_context()

    @shielded("micro-batching")
    def leave(batching: Any) -> None:
        del _contexts[batching.thread_local_data]

    @functools.wraps(handle)
    def handle_in_context(self: Any, data: Any) -> Any:
        enter(self)
        try:
            return handle(self, data)
        finally:
            leave(self)

    return handle_in_context


def wrap_execute_call(execute_call: Callable[..., Any]) -> Callable[..., Any]:
    """Return an `execute_call`, what each thread runs, that runs its phase in the context of the batch."""

    @functools.wraps(execute_call)
    def execute_in_context(in_queue: Any, out_queue: Any, handle: Any, thread_local_data: Any, event: Any) -> Any:
        def run(data: Any) -> Any:
            context = _contexts.get(thread_local_data)
            # A copy: one context cannot be entered by two threads at a time.
            return handle(data) if context is None else context.copy().run(handle, data)

        return execute_call(in_queue, out_queue, run, thread_local_data, event)

    return execute_in_context
