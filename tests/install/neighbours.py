"""A worker that serves two requests, beside whatever else observes the process, and writes what came of it to a file.

Run by test_neighbours.py in a process of its own, under the name of TorchServe's worker, where the start-up file
switches on: ``model_service_worker.py FILE [sentry]``. With the last argument its handler's module sets Sentry up, as a
user's would.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from in_process import load_model, make_request, predict

SENTRY = """
import sentry_sdk
sentry_sdk.init(
    dsn="http://key@127.0.0.1:9/1",
    before_send=sys.modules["__main__"].keep,
    auto_session_tracking=False,
    shutdown_timeout=0,
)
"""
HANDLER = """
import logging
import sys
{sentry}
from opentelemetry import trace
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def initialize(self, context): pass
    def preprocess(self, data): return [row["body"].decode() for row in data]
    def inference(self, rows):
        with trace.get_tracer("acme.model").start_as_current_span("look up"):
            logging.getLogger("acme.model").error("a line of the handler")
        if rows == ["broken"]: raise ValueError("broken on purpose")
        return rows
    def postprocess(self, rows): return rows
"""
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

sent: list[str] = []


def keep(event: dict[str, Any], _hint: object) -> None:
    """What Sentry calls with each event; nothing is sent."""
    sent.append(event["logentry"]["message"])


def main() -> None:
    service = load_model(HANDLER.format(sentry=SENTRY if "sentry" in sys.argv else ""))
    replies = [predict(service, make_request(body, {"traceparent": TRACEPARENT})) for body in (b"fine", b"broken")]
    import ts_otel_logging

    ts_otel_logging.force_flush(timeout_seconds=10)
    found = {
        "replies": [(reply.status_code, reply.body.decode()) for (reply,) in replies],
        "handlers": [
            f"{type(handler).__module__}.{type(handler).__name__}" for handler in logging.getLogger().handlers
        ],
        "modules": sorted({"ddtrace", "sentry_sdk"} & set(sys.modules)),
        "sent to Sentry": sent,
    }
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
    ts_otel_logging.shutdown(timeout_seconds=10)


if __name__ == "__main__":
    main()
