"""The export room: the only one that imports OpenTelemetry's SDK and exporters.

It builds providers whose processors put items into bounded lanes, and one thread that exports all three signals
(docs/adr/002-one-export-thread.md). A caller never waits for a network or a disk.
"""

from ts_otel_logging._sdk._batch_tracer import tracer_for_batch
from ts_otel_logging._sdk._providers import Providers, build_providers

__all__ = ["Providers", "build_providers", "tracer_for_batch"]
