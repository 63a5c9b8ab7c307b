"""An ordinary TorchServe handler. It knows nothing of ts-otel-logging: it logs with ``logging``, and that is all."""

import json
import logging
import time

import torch
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

LOW_CONFIDENCE = 0.8

logger = logging.getLogger(__name__)


class DigitsHandler(BaseHandler):
    """Takes ``{"pixels": 8 rows of 8 numbers from 0 to 16}``, answers ``{"digit": 7, "confidence": 0.98}``."""

    def preprocess(self, data):
        return torch.stack([read_image(request) for request in data]).to(self.device)

    def inference(self, data):
        start = time.perf_counter()
        with torch.inference_mode():
            probabilities = self.model(data).softmax(dim=1)
        seconds = time.perf_counter() - start

        confidences, digits = probabilities.max(dim=1)
        answers = [
            {"digit": digit, "confidence": round(confidence, 4)}
            for digit, confidence in zip(digits.tolist(), confidences.tolist())
        ]
        for answer in answers:
            logger.info("Inference complete", extra={"inference_latency": seconds, **answer})
        return answers

    def postprocess(self, data):
        for answer in data:
            if answer["confidence"] < LOW_CONFIDENCE:
                logger.warning("Low confidence", extra=answer)
        return data


def read_image(request):
    """A 1x8x8 tensor with pixels from 0 to 1.

    The size is not checked: an image of another size fails in the network, and TorchServe answers 503.

    Raises:
        PredictionException: With status 400, if the body is not JSON with numbers under "pixels".
    """
    body = request.get("data") or request.get("body")
    try:
        if isinstance(body, (bytes, bytearray, str)):  # TorchServe decodes JSON only for content-type application/json
            body = json.loads(body)
        image = torch.tensor(body["pixels"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise PredictionException('expected {"pixels": 8 rows of 8 numbers from 0 to 16}', 400) from error
    if not image.any():
        logger.warning("Blank image")
    return image.unsqueeze(0) / 16
