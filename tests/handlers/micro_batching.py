"""Phases in the long-lived threads of TorchServe's micro-batching."""

from __future__ import annotations

import instructions
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.base_handler import BaseHandler


class MicroBatchingHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        self.handle = MicroBatching(self, micro_batch_size=1, parallelism={"inference": 2})

    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return data

    def inference(self, data):
        instructions.logger.info("in a thread")
        return data

    def postprocess(self, data):
        return ["ok"] * len(data)
