"""A handler class of the user's own: no TorchServe base class, one ``handle``."""

from __future__ import annotations

import instructions


class OwnHandler:
    def initialize(self, context):
        self.model_name = context.model_name

    def handle(self, data, context):
        request = instructions.read(data)
        instructions.follow(request.get("inference"))
        return [request.get("answer", {"ok": True})]
