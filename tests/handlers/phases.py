"""A handler derived from TorchServe's BaseHandler, without a network."""

from __future__ import annotations

import instructions
from ts.torch_handler.base_handler import BaseHandler


class PhasesHandler(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.manifest = context.manifest
        self.device = "cpu"
        self.initialized = True
        instructions.logger.info("Model is ready", extra={"weights": "none"})

    def preprocess(self, data):
        request = instructions.read(data)
        instructions.follow(request.get("preprocess"))
        return request

    def inference(self, data):
        instructions.follow(data.get("inference"))
        return data

    def postprocess(self, data):
        instructions.follow(data.get("postprocess"))
        for name, value in data.get("response_headers", {}).items():
            self.context.set_response_header(0, name, value)
        return [data.get("answer", {"ok": True})]
