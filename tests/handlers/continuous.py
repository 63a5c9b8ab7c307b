"""Continuous batching: ``{"steps": n, "sleep_seconds": s}`` is answered in n parts, one a call of the worker.

A stream has two parts at least: TorchServe never ends an answer whose first part is its last. In sequence batching it
also counts a sequence's requests.
"""

from __future__ import annotations

import time

import instructions
from ts.torch_handler.base_handler import BaseHandler


class ContinuousHandler(BaseHandler):
    def initialize(self, context):
        self.requests = {}
        self.sequences = {}

    def preprocess(self, data):
        ids = list(self.context.request_ids.values())
        for index, (request_id, row) in enumerate(zip(ids, data)):
            if request_id not in self.requests:
                self.requests[request_id] = instructions.read([row])
                sequence = self.context.get_sequence_id(index)
                if sequence is not None:
                    self.sequences[sequence] = self.sequences.get(sequence, 0) + 1
                    self.context.set_response_header(index, self.context.header_key_sequence_id, sequence)
        return ids

    def inference(self, ids):
        for request_id in ids:
            request = self.requests[request_id]
            time.sleep(request.get("sleep_seconds", 0))
            request["steps"] -= 1
        return ids

    def postprocess(self, ids):
        # TorchServe asks for each request whether its answer was the last part.
        self.context.stopping_criteria = [self.is_last] * len(ids)
        return [
            {
                "left": self.requests[request_id]["steps"],
                "of_sequence": self.sequences.get(self.context.get_sequence_id(index)),
            }
            for index, request_id in enumerate(ids)
        ]

    @staticmethod
    def is_last(answer):
        return answer["left"] == 0
