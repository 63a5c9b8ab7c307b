"""The same as parts.py for TorchServe's asynchronous communication: ``{"wait_for": n}`` waits for n that do."""

from __future__ import annotations

import asyncio
import time

import instructions
from ts.handler_utils.utils import send_intermediate_predict_response


class AsyncPartsHandler:
    def initialize(self, context):
        # TorchServe misses a load that is over before it waits for it, and hangs: AsyncWorkerThread.java sets its latch
        # after it has sent the command.
        time.sleep(0.5)
        self.waiting = 0
        self.meeting = None

    async def inference(self, request):
        if "wait_for" in request:
            self.meeting = self.meeting or asyncio.Event()
            self.waiting += 1
            if self.waiting == request["wait_for"]:
                self.meeting.set()
            await self.meeting.wait()
        instructions.follow(request.get("inference"))
        return request.get("parts", ["whole"])

    async def handle(self, data, context):
        *parts, last = await self.inference(instructions.read(data))
        for part in parts:
            send_intermediate_predict_response(
                [part], context.request_ids, "Intermediate Prediction success", 200, context
            )
        return [last]
