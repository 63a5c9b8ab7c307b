"""Answers in parts, ``{"parts": [...]}``, all but the last one sent while the handler runs; see instructions.py."""

from __future__ import annotations

import instructions
from ts.handler_utils.utils import send_intermediate_predict_response


class PartsHandler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        request = instructions.read(data)
        *parts, last = request.get("parts", ["whole"])
        for part in parts:
            send_intermediate_predict_response(
                [part], context.request_ids, "Intermediate Prediction success", 200, context
            )
        instructions.follow(request.get("inference"))
        return [last]
