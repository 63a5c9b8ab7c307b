"""Every name that users see: fields of a line, attributes, spans, metrics. Versioned public API.

Names that OpenTelemetry's semantic conventions define are theirs, spelled out here so that importing this module
imports nothing; the tests hold them against the ``opentelemetry.semconv`` modules.
"""

from __future__ import annotations

from typing import Final

SCOPE_NAME: Final = "ts_otel_logging"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
"""The semantic conventions that the names below are of."""
SERVICE_NAME: Final = "torchserve"
"""``service.name`` where nobody says another."""

# Fields of a line, in their order in the default shape.
TIMESTAMP: Final = "timestamp"
LEVEL: Final = "level"
LOGGER: Final = "logger"
EVENT: Final = "event"
TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"
TRACE_FLAGS: Final = "trace_flags"
REQUEST_ID: Final = "request_id"
REQUEST_IDS: Final = "request_ids"
TRACE_IDS: Final = "trace_ids"
CLIENT_REQUEST_ID: Final = "client_request_id"
MODEL_NAME: Final = "model_name"
MODEL_VERSION: Final = "model_version"
WORKER_ID: Final = "worker_id"
EXCEPTION: Final = "exception"
TRUNCATED: Final = "truncated"
# The same name in the line and in the OTLP record: https://opentelemetry.io/docs/specs/semconv/registry/attributes/log/
LOG_RECORD_UID: Final = "log.record.uid"

LINE_FIELDS: Final = frozenset(
    {
        TIMESTAMP,
        LEVEL,
        LOGGER,
        EVENT,
        TRACE_ID,
        SPAN_ID,
        TRACE_FLAGS,
        REQUEST_ID,
        REQUEST_IDS,
        TRACE_IDS,
        CLIENT_REQUEST_ID,
        MODEL_NAME,
        MODEL_VERSION,
        WORKER_ID,
        EXCEPTION,
        TRUNCATED,
        LOG_RECORD_UID,
    }
)
REQUEST_HEADER_PREFIX: Final = "http.request.header."
"""Fields and attributes that are headers of the request: https://opentelemetry.io/docs/specs/semconv/registry/attributes/http/."""
EXTRA_PREFIX: Final = "extra."
"""A caller's key that collides with a field of ours is kept under this prefix."""

# Attributes of spans, log records and measurements.
ATTR_MODEL_NAME: Final = "torchserve.model.name"
ATTR_MODEL_VERSION: Final = "torchserve.model.version"
ATTR_REQUEST_ID: Final = "torchserve.request.id"
ATTR_REQUEST_IDS: Final = "torchserve.request.ids"
ATTR_TRACE_IDS: Final = "torchserve.trace.ids"
ATTR_BATCH_SIZE: Final = "torchserve.batch.size"
ATTR_BATCH_INDEX: Final = "torchserve.batch.index"
ATTR_BATCH_SHARED: Final = "torchserve.batch.shared"
ATTR_SAMPLING_REASON: Final = "torchserve.sampling.reason"
ATTR_WORKER_ID: Final = "torchserve.worker.id"
ATTR_WORKER_RANK: Final = "torchserve.worker.rank"
ATTR_DEVICE: Final = "torchserve.device"
ATTR_RESPONSE_STATUS_CODE: Final = "torchserve.response.status_code"
ATTR_STREAM_CHUNK_COUNT: Final = "torchserve.stream.chunk.count"
ATTR_STREAM_TIME_TO_FIRST_CHUNK: Final = "torchserve.stream.time_to_first_chunk"
ATTR_STREAM_CLIENT_LEFT: Final = "torchserve.stream.client_left"
ATTR_LOAD_FAILURE_COUNT: Final = "torchserve.model.load.failure.count"
ATTR_PHASE_NAME: Final = "torchserve.phase.name"
ATTR_REPORTED_NAME: Final = "torchserve.reported.name"
ATTR_SPAN_SOURCE: Final = "torchserve.span.source"
ATTR_TORCHSERVE_VERSION: Final = "torchserve.version"
# https://opentelemetry.io/docs/specs/semconv/registry/attributes/service/ and .../process/
ATTR_SERVICE_NAME: Final = "service.name"
ATTR_SERVICE_INSTANCE_ID: Final = "service.instance.id"
ATTR_PROCESS_PID: Final = "process.pid"
# https://opentelemetry.io/docs/specs/semconv/registry/attributes/error/ and .../exception/
ATTR_ERROR_TYPE: Final = "error.type"
ATTR_EXCEPTION_TYPE: Final = "exception.type"
ATTR_EXCEPTION_MESSAGE: Final = "exception.message"
ATTR_EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

# https://opentelemetry.io/docs/specs/semconv/registry/attributes/http/: a list of values
ATTR_CLIENT_REQUEST_ID: Final = "http.request.header.x-request-id"

SPAN_SOURCE_LOG: Final = "log"
SAMPLING_REASON_ERROR: Final = "error"
SPAN_LOAD: Final = "load"
SPAN_PREDICT: Final = "predict"
SPAN_BATCH: Final = "batch"
SPAN_QUEUE: Final = "queue"

TORCHSERVE_PREFIX: Final = "torchserve."
"""Before the names of TorchServe's own metrics, the handler's among them."""
METRIC_REQUEST_DURATION: Final = "torchserve.request.duration"
METRIC_TIME_TO_FIRST_CHUNK: Final = "torchserve.request.time_to_first_chunk"
METRIC_QUEUE_DURATION: Final = "torchserve.queue.duration"
METRIC_PHASE_DURATION: Final = "torchserve.phase.duration"
METRIC_MODEL_LOAD_DURATION: Final = "torchserve.model.load.duration"
METRIC_REPORTED_DURATION: Final = "torchserve.reported.duration"
METRIC_BATCH_SIZE: Final = "torchserve.batch.size"
