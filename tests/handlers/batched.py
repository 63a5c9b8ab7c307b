"""Answers every request of a batch by itself: what each one asks for, with its own line, span and code."""

from __future__ import annotations

import json
import logging

from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger("acme.model")


class BatchedHandler(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.initialized = True

    def preprocess(self, data):
        rows = [row.get("body") for row in data]
        return [json.loads(row) if isinstance(row, (bytes, bytearray)) else row for row in rows]

    def inference(self, data):
        import ts_otel_logging

        logger.info("whole batch")
        for index, row in enumerate(data):
            with ts_otel_logging.request_scope(index), ts_otel_logging.span("tokenize"):
                logger.info("one of it", extra={"number": row["number"]})
        return data

    def postprocess(self, data):
        for index, row in enumerate(data):
            if "code" in row:
                self.context.set_response_status(row["code"], "as asked", idx=index)
        return [row["number"] for row in data]
