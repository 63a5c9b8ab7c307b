"""The patch table: every place where TorchServe's worker is changed, and how it is changed back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

from ts_otel_logging._torchserve._patches import Patches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_otel_logging._torchserve._control_lines import WriteUnrecorded
    from ts_otel_logging._torchserve._model_metrics import OnMetric
    from ts_otel_logging._torchserve._service import OnModelConfig
    from ts_otel_logging._tracing import Tracing

SEAMS: Final = {
    "ts.model_loader.TsModelLoader.load": "the load span; the process's model name; wraps the service's entry point",
    "ts.model_loader.TsModelLoader._get_class_entry_point": "phase spans of handler classes, before they are made",
    "ts.model_loader.TsModelLoader._get_function_entry_point": "the phase span of a handler that is a function",
    "ts.service.Service.predict": "the predict spans, the requests' fields on lines",
    "ts.async_service.predict": "the same where TorchServe's communication is asynchronous",
    "ts.handler_utils.utils.send_intermediate_predict_response": "counts the parts of a streamed answer",
    "ts.protocol.otf_message_handler.send_intermediate_predict_response": "its older name",
    "ts.protocol.otf_message_handler.retrieve_msg": "ends the spans of the request before, whose answer is on its way",
    "ts.protocol.otf_message_handler.logging": "its line for every request is DEBUG",
    "ts.handler_utils.micro_batching.MicroBatching.handle": "what its threads run belongs to the request",
    "ts.handler_utils.micro_batching.execute_call": "the same, in its threads",
    "ts.metrics.caching_metric.logger": "its lines for the frontend go without a record",
    "ts.metrics.caching_metric.CachingMetric.emit_metrics": "TorchServe's own metrics as OpenTelemetry's, too",
}
"""What is patched in a worker, and for what; the doctor shows it."""


def patch_worker(  # noqa: PLR0913 - keywords
    tracing: Tracing,
    worker_id: Optional[str],
    on_model_loaded: Callable[[], None],
    before_request_ends: Callable[[], None] = lambda: None,
    *,
    environ: Mapping[str, str] = os.environ,
    on_model_config: Optional[OnModelConfig] = None,
    on_load_failed: Callable[[], Any] = lambda: None,
    on_metric: Optional[OnMetric] = None,
    write_unrecorded: WriteUnrecorded = lambda _logger, _text: False,
) -> Patches:
    """Patch the worker's classes and functions.

    Args:
        tracing: Makes the spans.
        worker_id: The worker's port, for spans and lines.
        on_model_loaded: Called after each successful load, on the worker's thread.
        before_request_ends: Called after each call of the service, while lines still belong to its requests.
        environ: The worker's environment, as TorchServe or torchrun made it.
        on_model_config: Called before each load of a model that has a configuration.
        on_load_failed: Called after each load that raised; the frontend is about to end the process.
        on_metric: Gets each value of TorchServe's own metrics.
        write_unrecorded: Writes a line for the frontend, or returns False.

    Returns:
        What puts everything back.
    """
    # Not `import ts.model_loader`: it is just being imported, and is no attribute of its package yet.
    from ts import async_service, model_loader, service
    from ts.handler_utils import micro_batching, utils
    from ts.metrics import caching_metric
    from ts.protocol import otf_message_handler

    from ts_otel_logging._torchserve import _control_lines, _micro_batching, _model_metrics, _service, _streaming

    loader, batching = model_loader.TsModelLoader, micro_batching.MicroBatching
    process = _service.Process(worker_id, rank_of(environ))
    predictions = _service.Predictions(tracing, process, before_request_ends)
    patches = Patches()
    patches.on_undo(predictions.close)
    try:
        load = _service.wrap_load(
            loader.load, tracing, process, on_model_loaded, on_model_config, on_load_failed=on_load_failed
        )
        patches.set(loader, "load", load)
        for name, wrap in (
            ("_get_class_entry_point", _service.wrap_class_entry_point),
            ("_get_function_entry_point", _service.wrap_function_entry_point),
        ):
            patches.set(loader, name, wrap(vars(loader)[name]))
        patches.set(service.Service, "predict", predictions.wrap(service.Service.predict))
        patches.set(async_service, "predict", predictions.wrap_async(async_service.predict))
        for module in (utils, otf_message_handler):
            name = "send_intermediate_predict_response"
            patches.set(module, name, _streaming.wrap_send(getattr(module, name), tracing))
        retrieve = predictions.wrap_retrieve(otf_message_handler.retrieve_msg)
        patches.set(otf_message_handler, "retrieve_msg", retrieve)
        patches.set(otf_message_handler, "logging", _control_lines.QuietLogging(tracing))
        patches.set(batching, "handle", _micro_batching.wrap_handle(batching.handle))
        patches.set(micro_batching, "execute_call", _micro_batching.wrap_execute_call(micro_batching.execute_call))
        metric_logger = _control_lines.MetricLogger(caching_metric.logger, write_unrecorded)
        patches.set(caching_metric, "logger", metric_logger)
        if on_metric is not None:
            metric = caching_metric.CachingMetric
            patches.set(metric, "emit_metrics", _model_metrics.wrap_emit(metric.emit_metrics, tracing, on_metric))
    except BaseException:
        patches.undo()
        raise
    return patches


def rank_of(environ: Mapping[str, str]) -> Optional[int]:
    """Return a process's rank where several run one model, as torchrun numbers them; None for the only one.

    Args:
        environ: Its environment: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables.
    """
    try:
        return int(environ["RANK"]) if int(environ["WORLD_SIZE"]) > 1 else None
    except (KeyError, ValueError):
        return None
