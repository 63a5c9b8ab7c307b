"""What a worker does for a model, as spans: `TsModelLoader.load`, and `Service.predict` for each batch."""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import os
import struct
import threading
import time
import weakref
from types import FunctionType
from typing import TYPE_CHECKING, Any, Callable, Final, NamedTuple, Optional

from ts_otel_logging import _scope
from ts_otel_logging._diagnostics import shielded
from ts_otel_logging._requests import Model, Moment, Outcome, now
from ts_otel_logging._torchserve._incoming import incoming_request
from ts_otel_logging._torchserve._load_failures import LoadFailures
from ts_otel_logging._torchserve._phases import wrap_class, wrap_function
from ts_otel_logging._tracing import Call, Tracing, current_call

if TYPE_CHECKING:
    from collections.abc import Awaitable

_HTTP_OK: Final = 200
# frontend/server/…/util/messages/RequestInput.java: the header by which an answer says that there is more.
_STREAM_NEXT: Final = "ts_stream_next"


class Process(NamedTuple):
    """Which of TorchServe's workers this process is.

    Attributes:
        worker_id: Its port, if it is one of TorchServe's own.
        rank: Its rank, where several processes run the model together.
    """

    worker_id: Optional[str] = None
    rank: Optional[int] = None


# Beside the service, not on it: the service and its context are copied and compared by TorchServe.
_models: weakref.WeakKeyDictionary[Any, Model] = weakref.WeakKeyDictionary()


OnModelConfig = Callable[[str, Any], None]
"""Gets the path of a model's ``model-config.yaml``, and what that holds, before the model is loaded."""


def wrap_load(  # noqa: PLR0913 - what a load is told to
    load: Callable[..., Any],
    tracing: Tracing,
    process: Process,
    on_model_loaded: Callable[[], None],
    on_model_config: Optional[OnModelConfig] = None,
    *,
    on_load_failed: Callable[[], Any] = lambda: None,
) -> Callable[..., Any]:
    """Return a `TsModelLoader.load` that is a span and prepares the service that it returns."""
    load_failed = shielded("failed load")(on_load_failed)

    @shielded("model load")
    def describe(model_name: str, model_dir: str, gpu_id: Optional[int]) -> Model:
        manifest = _manifest(model_dir)
        model = _describe(process, model_name, manifest, gpu_id)
        configure(model_dir, manifest)
        return model

    @shielded("model-config.yaml")
    def configure(model_dir: str, manifest: Any) -> None:
        if on_model_config is None:
            return
        from ts.utils.util import get_yaml_config

        # ts/service.py reads the same file in the same way, and complains by itself when it cannot.
        try:
            path = os.path.join(model_dir, manifest["model"]["configFile"])
            config = get_yaml_config(path)
        except Exception:  # noqa: BLE001 - as above
            return
        on_model_config(path, config)

    @shielded("model loaded")
    def prepare(service: Any, model: Model, failures: LoadFailures) -> None:
        _observe(service, model)
        on_model_loaded()
        failures.forget()

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
        failures = LoadFailures(model_name, model_dir)
        try:
            with tracing.load(model, failures.count_to_tell):
                service = load(self, model_name, model_dir, handler, gpu_id, *args, **kwargs)
                prepare(service, model, failures)
        except BaseException:
            load_failed()
            raise
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


def wrap_function_entry_point(get_entry_point: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `TsModelLoader._get_function_entry_point` whose function is one phase by itself."""

    @functools.wraps(get_entry_point)
    def get_wrapped_entry_point(self: Any, module: Any, function_name: str) -> Any:
        entry_point, initialize = get_entry_point(self, module, function_name)
        return _as_phase(entry_point), initialize

    return get_wrapped_entry_point


class _Answered(NamedTuple):
    """A call whose answer is ready, and whose spans are to be ended."""

    call: Call
    context: Any
    size: int
    reply: Any
    moment: Moment


class Predictions:
    """Makes spans of what a worker's service does for requests.

    Where TorchServe's loop asks for the next request when it has sent an answer, spans end and measurements are made in
    between: nobody waits for them (docs/adr/024-after-the-answer.md).

    Args:
        tracing: Makes the spans.
        process: Which worker this is.
        before_end: Called before a call's spans end.
    """

    def __init__(self, tracing: Tracing, process: Process, before_end: Callable[[], None]) -> None:
        self._tracing = tracing
        self._process = process
        self._before_end = before_end
        # Which thread runs TorchServe's loop, once it has asked for a request.
        self._loop_thread: Optional[int] = None
        self._answered: Optional[_Answered] = None
        # After what was registered before it, and so before those that export: Python calls the last one first.
        atexit.register(self.finish)

    def close(self) -> None:
        """End what is to be ended, and hold nothing back any more."""
        self.finish()
        self._loop_thread = None
        atexit.unregister(self.finish)

    def finish(self) -> None:
        """End the spans of the call that was answered last, if they have not ended."""
        answered, self._answered = self._answered, None
        if answered is not None:
            self._end_answered(answered)

    @shielded("end of predict span")
    def _end_answered(self, answered: _Answered) -> None:
        call, context, size, reply, moment = answered
        call.end(_outcomes(context, size, reply, call), moment)

    def wrap_retrieve(self, retrieve: Callable[..., Any]) -> Callable[..., Any]:
        """Return a `retrieve_msg` that has time for the request before, while nobody waits for an answer."""

        @functools.wraps(retrieve)
        def retrieve_after_end(*args: Any, **kwargs: Any) -> Any:
            self._loop_thread = threading.get_ident()
            self.finish()
            return retrieve(*args, **kwargs)

        return retrieve_after_end

    @shielded("begin of predict span")
    def _begin(self, service: Any, batch: Any, *, resumable: bool) -> Optional[Call]:
        if not batch or not self._tracing.enabled:
            return None
        model = _models.get(service) or self._adopt(service)
        return Call(
            self._tracing,
            model,
            [incoming_request(request, self._tracing.shown_headers) for request in batch],
            resumable=resumable,
        )

    def _adopt(self, service: Any) -> Model:
        # Its load was under way before we came: the handler's own module switched us on.
        context = service.context
        model = _describe(self._process, context.model_name, context.manifest, context.system_properties["gpu_id"])
        _observe(service, model)
        return model

    @shielded("end of predict span")
    def _end(self, call: Call, service: Any, size: int, reply: Any, *, is_loop: bool) -> None:
        try:
            self._before_end()
            answered = _Answered(call, call.handler_context or service.context, size, reply, now())
            # Of a failure is told at once: it may be the worker's end.
            if is_loop and call.error is None and threading.get_ident() == self._loop_thread:
                self.finish()
                self._answered = answered
            else:
                self._end_answered(answered)
        finally:
            # Whatever fails: the next request must not be taken for this one.
            call.leave()

    def wrap(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """Return a `Service.predict` that is a span for every request of its batch."""

        @functools.wraps(predict)
        def predict_with_spans(service: Any, batch: Any) -> Any:
            call = self._begin(service, batch, resumable=True)
            if call is None:
                return predict(service, batch)
            reply = None
            try:
                reply = predict(service, batch)
            except BaseException as error:
                call.error = error
                raise
            finally:
                self._end(call, service, len(batch), reply, is_loop=True)
            return reply

        return predict_with_spans

    def wrap_async(self, predict: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Do the same for `ts.async_service.predict`, of which several run at a time, each in a task of its own."""

        @functools.wraps(predict)
        async def predict_with_spans(service: Any, batch: Any) -> Any:
            """Predict, and make spans of it."""
            # frontend/server/…/wlm/AsyncBatchAggregator.java never sends a request twice.
            call = self._begin(service, batch, resumable=False)
            if call is None:
                return await predict(service, batch)
            reply = None
            try:
                reply = await predict(service, batch)
            except BaseException as error:
                call.error = error
                raise
            finally:
                self._end(call, service, len(batch), reply, is_loop=False)
            return reply

        return predict_with_spans


def _observe(service: Any, model: Model) -> None:
    _models[service] = model
    service._entry_point = _wrap_entry_point(service._entry_point)  # noqa: SLF001 - Service has no other way


def _as_phase(entry_point: Callable[..., Any]) -> Callable[..., Any]:
    # A module-level function has no class whose methods are the phases: it is one phase by itself. A bound method is
    # a handler's or an envelope's `handle`, and an object is a handler's MicroBatching.
    return wrap_function("handle", entry_point) if isinstance(entry_point, FunctionType) else entry_point


def _wrap_entry_point(entry_point: Callable[..., Any]) -> Callable[..., Any]:
    run = _as_phase(entry_point)

    # Without its attributes: an object's are its own.
    @functools.wraps(entry_point, updated=())
    def observed_entry_point(data: Any, context: Any) -> Any:
        call = current_call()
        if call is None:
            return entry_point(data, context)
        # The asynchronous service hands a copy to each call.
        call.handler_context = context
        started = time.time_ns()
        try:
            result = run(data, context)
        except BaseException as error:
            call.error = error
            raise
        finally:
            call.handler_window = (started, time.time_ns())
        # A list is what most handlers return: the question takes as long as a measurement.
        if type(result) is not list and inspect.isawaitable(result):
            return _observed(call, result, data, context)
        if call.tracing.response_headers:
            _add_response_headers(call, data, context)
        return result

    return observed_entry_point


async def _observed(call: Call, result: Awaitable[Any], data: Any, context: Any) -> Any:
    started = time.time_ns()
    try:
        awaited = await result
    except BaseException as error:
        call.error = error
        raise
    finally:
        call.handler_window = (started, time.time_ns())
    if call.tracing.response_headers:
        _add_response_headers(call, data, context)
    return awaited


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


def _outcomes(context: Any, count: int, reply: Any, call: Call) -> list[Outcome]:
    # ts/protocol/otf_message_handler.py, create_predict_response: the reply starts with the batch's status code. Only
    # a successful batch has a code for each request.
    error = call.error
    code = struct.unpack_from("!i", reply)[0] if reply else None
    if code is None:
        # Nothing was answered: predict raised, or this is a rank above 0, which never answers.
        return [Outcome(500 if call.answers and error is not None else None, error)] * count
    if code != _HTTP_OK:
        return [Outcome(code, error)] * count
    return [
        Outcome(
            context.get_response_status(index)[0] or _HTTP_OK,
            error,
            _STREAM_NEXTS.get(context.get_response_headers(index).get(_STREAM_NEXT)),
        )
        for index in range(count)
    ]


_STREAM_NEXTS: Final = {"true": True, "false": False}


def _describe(process: Process, name: str, manifest: Any, gpu_id: Optional[int]) -> Model:
    model = Model(
        name,
        _model_version(manifest),
        _device(gpu_id),
        process.worker_id,
        process.rank,
        # frontend/server/…/ensemble/WorkFlow.java: <workflow>__<node>, whatever its archive calls the model.
        is_workflow_node="__" in name and _model_name(manifest) != name,
    )
    _scope.set_process(model.name, model.version, model.worker_id)
    return model


def _manifest(model_dir: str) -> Any:
    # ts/model_loader.py reads the same file; a folder that is no archive's has none.
    try:
        with open(os.path.join(model_dir, "MAR-INF", "MANIFEST.json"), encoding="utf-8") as manifest:
            return json.load(manifest)
    except (OSError, ValueError):
        return None


def _model_name(manifest: Any) -> Optional[str]:
    try:
        return str(manifest["model"]["modelName"])
    except (KeyError, TypeError):
        return None


def _model_version(manifest: Any) -> Optional[str]:
    try:
        return str(manifest["model"]["modelVersion"])
    except (KeyError, TypeError):
        return None


def _device(gpu_id: Optional[int]) -> str:
    return "cpu" if gpu_id is None or int(gpu_id) < 0 else f"cuda:{int(gpu_id)}"
