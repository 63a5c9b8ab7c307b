"""The phases of a handler: its class's methods are wrapped before it is instantiated, each phase once."""

from __future__ import annotations

import functools
import sys
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from types import FunctionType
from typing import Any, Callable, Final

from ts_otel_logging._torchserve._patches import Patches
from ts_otel_logging._tracing import current_call

# ts/torch_handler/base_handler.py: the methods that `handle` calls, and the phase that each one is.
_METHODS: Final = {
    "preprocess": "preprocess",
    "inference": "inference",
    "postprocess": "postprocess",
    "explain_handle": "explain",
    "describe_handle": "describe",
}
_HANDLE: Final = "handle"
_WRAPPED: Final = "_ts_otel_logging_phase"


_class_patches = Patches()


def wrap_class(handler_class: type) -> None:
    """Make the phases of a handler class spans.

    The methods are replaced on the class itself, so a ``super()`` call inside one reaches the unwrapped method of the
    base and is no second phase. A class that has none of the phases' methods has one phase, ``handle``.

    Args:
        handler_class: The class that TorchServe is about to instantiate.
    """
    methods = {name: phase for name, phase in _METHODS.items() if hasattr(handler_class, name)}
    for name, phase in (methods or {_HANDLE: _HANDLE}).items():
        method = _static_attribute(handler_class, name)
        wrapped: Any
        if isinstance(method, (staticmethod, classmethod)):
            wrapped = type(method)(wrap_function(phase, method.__func__))
        elif isinstance(method, FunctionType):
            wrapped = wrap_function(phase, method)
        else:
            continue
        _class_patches.set(handler_class, name, wrapped)


def unwrap_classes() -> None:
    """Give every handler class its own methods back."""
    _class_patches.undo()


def wrap_function(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs as a phase of the current call, and as it was outside one.

    A generator's work is done when its caller iterates over it, so it stays as it is; so does what is wrapped already.
    """
    if getattr(function, _WRAPPED, False) or isgeneratorfunction(function) or isasyncgenfunction(function):
        return function
    is_compiling = _torch_is_compiling()

    @functools.wraps(function)
    def run_phase(*args: Any, **kwargs: Any) -> Any:
        # While torch.compile traces, what it sees must be the function alone.
        if is_compiling():
            return function(*args, **kwargs)
        call = current_call()
        if call is None:
            return function(*args, **kwargs)
        with call.phase(phase):
            return function(*args, **kwargs)

    @functools.wraps(function)
    async def run_async_phase(*args: Any, **kwargs: Any) -> Any:
        """Do the same for a coroutine function."""
        call = current_call()
        if call is None:
            return await function(*args, **kwargs)
        with call.phase(phase):
            return await function(*args, **kwargs)

    # Handlers ask whether their own methods are coroutine functions: the answer must stay the same.
    wrapper = run_async_phase if iscoroutinefunction(function) else run_phase
    setattr(wrapper, _WRAPPED, True)
    return wrapper


def _torch_is_compiling() -> Callable[[], bool]:
    # A worker has imported torch before any handler; this must not be the one to do it.
    compiler = getattr(sys.modules.get("torch"), "compiler", None)
    return getattr(compiler, "is_compiling", None) or (lambda: False)


def _static_attribute(handler_class: type, name: str) -> Any:
    return next((vars(base)[name] for base in handler_class.__mro__ if name in vars(base)), None)
