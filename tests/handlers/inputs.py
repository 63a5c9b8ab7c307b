"""A handler that answers with the names of its inputs; the input ``parts`` asks for that many parts of a stream."""

from __future__ import annotations

import json
import logging

from ts.handler_utils.utils import send_intermediate_predict_response

logger = logging.getLogger("acme.model")


class InputsHandler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        logger.info("Inputs seen")
        answer = json.dumps({"inputs": sorted(data[0]), "properties": sorted(context.get_all_request_header(0))})
        for _ in range(int(data[0].get("parts", b"1")) - 1):
            send_intermediate_predict_response([answer], context.request_ids, "part", 200, context)
        return [answer]
