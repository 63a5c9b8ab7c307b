"""A handler in an environment of the model's own, which runs no start-up file: it switches the package on itself."""

from __future__ import annotations

import sys

import ts_otel_logging

ts_otel_logging.configure()

from phases import PhasesHandler  # noqa: E402


class OwnEnvironmentHandler(PhasesHandler):
    def postprocess(self, data):
        print("environment", sys.prefix)
        return super().postprocess(data)
