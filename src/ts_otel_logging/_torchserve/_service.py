"""What a worker does for a model, as spans: `TsModelLoader.load`, and `Service.predict` for each batch."""

from __future__ import annotations

import functools
import json
import os
import struct
import time
import weakref
from typing import Any, Callable, Final, Optional

from ts_otel_logging import _scope
from ts_otel_logging._diagnostics import shielded
from ts_otel_logging._torchserve._phases import wrap_class, wrap_function
from ts_otel_logging._tracing import Call, IncomingRequest, Model, Outcome, Tracing, current_call

_HTTP_OK: Final = 200


# Beside the service, not on it: the service and its context are copied and compared by TorchServe.
_models: weakref.WeakKeyDictionary[Any, Model] = weakref.WeakKeyDictionary()


def wrap_load(
    load: Callable[..., Any], tracing: Tracing, worker_id: Optional[str], on_model_loaded: Callable[[], None]
) -> Callable[..., Any]:
    """Return a `TsModelLoader.load` that is a span and prepares the service that it returns."""

    @shielded("model load")
    def describe(model_name: str, model_dir: str, gpu_id: Optional[int]) -> Model:
        model = Model(model_name, _model_version(_manifest(model_dir)), _device(gpu_id), worker_id)
        _scope.set_process(model.name, model.version, worker_id)
        return model

    @shielded("model loaded")
    def prepare(service: Any, model: Model) -> None:
        _observe(service, model)
        on_model_loaded()

    @functools.wraps(load)
    def load_with_span(
        self: Any,
        model_name: str,
        model_dir: str,
        handler: Optional[str] = None,
        gpu_id: Optional[int] = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        model = describe(model_name, model_dir, gpu_id)
        if model is None:
            return load(self, model_name, model_dir, handler, gpu_id, *args, **kwargs)
        with tracing.load(model):
            service = load(self, model_name, model_dir, handler, gpu_id, *args, **kwargs)
            prepare(service, model)
        return service

    return load_with_span


def wrap_class_entry_point(get_entry_point: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `TsModelLoader._get_class_entry_point` that wraps the phases of the class it is about to make."""

    @shielded("handler phases")
    def wrap(module: Any) -> None:
        from ts.utils.util import list_classes_from_module

        classes = list_classes_from_module(module)
        # Any other number is an error, which TorchServe itself reports.
        if len(classes) == 1:
            wrap_class(classes[0])

    @functools.wraps(get_entry_point)
    def get_wrapped_entry_point(self: Any, module: Any) -> Any:
        wrap(module)
        return get_entry_point(self, module)

    return get_wrapped_entry_point


def wrap_predict(predict: Callable[..., Any], tracing: Tracing, worker_id: Optional[str]) -> Callable[..., Any]:
    """Return a `Service.predict` that is a span for every request of its batch."""

    @shielded("begin of predict span")
    def begin(service: Any, batch: Any) -> Optional[Call]:
        if not batch:
            return None
        model = _models.get(service) or adopt(service)
        return Call(tracing, model, [_incoming(request) for request in batch])

    def adopt(service: Any) -> Model:
        # Its load was under way before we came: the handler's own module switched us on.
        context = service.context
        device = _device(context.system_properties["gpu_id"])
        model = Model(context.model_name, _model_version(context.manifest), device, worker_id)
        _scope.set_process(model.name, model.version, worker_id)
        _observe(service, model)
        return model

    @shielded("end of predict span")
    def end(call: Call, service: Any, count: int, reply: Any) -> None:
        try:
            call.end(_outcomes(service.context, count, reply, call.error))
        finally:
            # Whatever fails: the next request must not be taken for this one.
            call.leave()

    @functools.wraps(predict)
    def predict_with_spans(self: Any, batch: Any) -> Any:
        call = begin(self, batch)
        if call is None:
            return predict(self, batch)
        reply = None
        try:
            reply = predict(self, batch)
        except BaseException as error:
            call.error = error
            raise
        finally:
            end(call, self, len(batch), reply)
        return reply

    return predict_with_spans


def _observe(service: Any, model: Model) -> None:
    _models[service] = model
    service._entry_point = _wrap_entry_point(service._entry_point)  # noqa: SLF001 - Service has no other way


def _wrap_entry_point(entry_point: Callable[..., Any]) -> Callable[..., Any]:
    # A module-level function has no class whose methods are the phases: it is one phase by itself. A bound method is
    # a handler's or an envelope's `handle`.
    run = entry_point if hasattr(entry_point, "__self__") else wrap_function("handle", entry_point)

    @functools.wraps(entry_point)
    def observed_entry_point(data: Any, context: Any) -> Any:
        call = current_call()
        if call is None:
            return entry_point(data, context)
        started = time.time_ns()
        try:
            result = run(data, context)
        except BaseException as error:
            call.error = error
            raise
        finally:
            call.handler_window = (started, time.time_ns())
        _add_response_headers(call, data, context)
        return result

    return observed_entry_point


@shielded("response headers")
def _add_response_headers(call: Call, data: Any, context: Any) -> None:
    for index in range(len(data)):
        present = {name.lower() for name in context.get_response_headers(index)}
        for name, value in call.response_headers(index).items():
            if name not in present:
                context.set_response_header(index, name, value)
            elif name == "server-timing":
                # A list by its specification: ours goes behind what the handler says.
                key = next(key for key in context.get_response_headers(index) if key.lower() == name)
                context.set_response_header(index, key, f"{context.get_response_headers(index)[key]}, {value}")


def _incoming(request: dict[str, Any]) -> IncomingRequest:
    # ts/service.py, retrieve_data_for_inference: the same fields in the same encoding; names in the client's casing.
    headers = {
        header["name"].decode("utf-8", "replace").lower(): header["value"].decode("utf-8", "replace")
        for header in request.get("headers") or ()
    }
    return IncomingRequest(request["requestId"].decode("utf-8", "replace"), headers)


def _outcomes(context: Any, count: int, reply: Any, error: Optional[BaseException]) -> list[Outcome]:
    # ts/protocol/otf_message_handler.py, create_predict_response: the reply starts with the batch's status code. Only
    # a successful batch has a code for each request.
    code = struct.unpack_from("!i", reply)[0] if reply else None
    if code is None:
        # Nothing was answered: predict raised, or this is a rank above 0, which never answers.
        return [Outcome(_HTTP_OK if error is None else 500, error)] * count
    if code != _HTTP_OK:
        return [Outcome(code, error)] * count
    return [Outcome(context.get_response_status(index)[0] or _HTTP_OK, error) for index in range(count)]


def _manifest(model_dir: str) -> Any:
    # ts/model_loader.py reads the same file; a folder that is no archive's has none.
    try:
        with open(os.path.join(model_dir, "MAR-INF", "MANIFEST.json"), encoding="utf-8") as manifest:
            return json.load(manifest)
    except (OSError, ValueError):
        return None


def _model_version(manifest: Any) -> Optional[str]:
    try:
        return str(manifest["model"]["modelVersion"])
    except (KeyError, TypeError):
        return None


def _device(gpu_id: Optional[int]) -> str:
    return "cpu" if gpu_id is None or int(gpu_id) < 0 else f"cuda:{int(gpu_id)}"
