"""Requests that reach every way a worker answers, and what of an answer must be stock TorchServe's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

# By what happens: see tests/handlers/instructions.py.
REQUESTS: dict[str, dict[str, Any]] = {
    "success": {"answer": {"digit": 7}},
    "success with text": {"answer": "seven"},
    "success with headers": {"answer": {}, "response_headers": {"x-model": "tiny", "server-timing": "db;dur=3"}},
    "unhandled exception": {"inference": {"raise": ["ValueError", "broken on purpose"]}},
    "unhandled exception in preprocess": {"preprocess": {"raise": ["KeyError", "broken on purpose"]}},
    "client error": {"inference": {"raise": ["PredictionException", "not like this", 400]}},
    "server error of its own": {"inference": {"raise": ["PredictionException", "try again later", 503]}},
    "out of memory": {"inference": {"raise": ["MemoryError", "broken on purpose"]}},
}
# Different in every answer.
CHANGING_HEADERS = {"x-request-id", "date"}


def comparable(response: httpx.Response) -> tuple[int, str, list[tuple[str, str]], bytes]:
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in CHANGING_HEADERS]
    return response.status_code, response.reason_phrase, headers, response.content
