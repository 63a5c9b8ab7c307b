"""Streamed answers: a handler sends every part but the last by itself."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Callable

from ts_otel_logging._diagnostics import shielded

if TYPE_CHECKING:
    from ts_otel_logging._tracing import Tracing


def wrap_send(send: Callable[..., Any], tracing: Tracing) -> Callable[..., Any]:
    """Return a `send_intermediate_predict_response` that counts what it has sent.

    Handlers import the function by its name, so it is replaced before their module is imported. They may call it on
    any thread: the requests are known by their ids.
    """

    @shielded("part of a stream")
    def count(request_ids: Any) -> None:
        tracing.part_sent(request_ids.values())

    @functools.wraps(send)
    def send_and_count(ret: Any, req_id_map: Any, *args: Any, **kwargs: Any) -> Any:
        result = send(ret, req_id_map, *args, **kwargs)
        count(req_id_map)
        return result

    return send_and_count
