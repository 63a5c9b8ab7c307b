"""The patch table: every place where TorchServe's worker is changed, and how it is changed back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Final, Optional

from ts_otel_logging._torchserve._patches import Patches

if TYPE_CHECKING:
    from ts_otel_logging._tracing import Tracing

SEAMS: Final = {
    "ts.model_loader.TsModelLoader.load": "the load span; the process's model name; wraps the service's entry point",
    "ts.model_loader.TsModelLoader._get_class_entry_point": "phase spans of handler classes, before they are made",
    "ts.service.Service.predict": "the predict spans, the requests' fields on lines",
}
"""What is patched in a worker, and for what; the doctor shows it."""


def patch_worker(tracing: Tracing, worker_id: Optional[str], on_model_loaded: Callable[[], None]) -> Patches:
    """Patch the worker's classes.

    Args:
        tracing: Makes the spans.
        worker_id: The worker's port, for spans and lines.
        on_model_loaded: Called after each successful load, on the worker's thread.

    Returns:
        What puts everything back.
    """
    # Not `import ts.model_loader`: it is just being imported, and is no attribute of its package yet.
    from ts import model_loader, service

    from ts_otel_logging._torchserve._service import wrap_class_entry_point, wrap_load, wrap_predict

    loader = model_loader.TsModelLoader
    patches = Patches()
    try:
        patches.set(loader, "load", wrap_load(loader.load, tracing, worker_id, on_model_loaded))
        patches.set(loader, "_get_class_entry_point", wrap_class_entry_point(vars(loader)["_get_class_entry_point"]))
        patches.set(service.Service, "predict", wrap_predict(service.Service.predict, tracing, worker_id))
    except BaseException:
        patches.undo()
        raise
    return patches
