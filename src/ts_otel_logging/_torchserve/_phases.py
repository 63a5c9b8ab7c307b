"""The phases of a handler: its class's methods are wrapped before it is instantiated, each phase once."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import TYPE_CHECKING, Any, Callable, Final

from ts_otel_logging._tracing import current_call

if TYPE_CHECKING:
    from ts_otel_logging._torchserve._seams import Patches

# ts/torch_handler/base_handler.py: the methods that `handle` calls, and the phase that each one is.
_METHODS: Final = {
    "preprocess": "preprocess",
    "inference": "inference",
    "postprocess": "postprocess",
    "explain_handle": "explain",
    "describe_handle": "describe",
}
_HANDLE: Final = "handle"


def wrap_class(handler_class: type, patches: Patches) -> None:
    """Make the phases of a handler class spans.

    The methods are replaced on the class itself, so a ``super()`` call inside one reaches the unwrapped method of the
    base and is no second phase. A class that has none of the phases' methods has one phase, ``handle``.

    Args:
        handler_class: The class that TorchServe is about to instantiate.
        patches: Undoes it.
    """
    methods = {name: phase for name, phase in _METHODS.items() if hasattr(handler_class, name)}
    for name, phase in (methods or {_HANDLE: _HANDLE}).items():
        method = _static_attribute(handler_class, name)
        if isinstance(method, (staticmethod, classmethod)):
            patches.set(handler_class, name, type(method)(wrap_function(phase, method.__func__)))
        elif isinstance(method, FunctionType):
            patches.set(handler_class, name, wrap_function(phase, method))


def wrap_function(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs as a phase of the current call, and as it was outside one."""

    @functools.wraps(function)
    def run_phase(*args: Any, **kwargs: Any) -> Any:
        call = current_call()
        if call is None:
            return function(*args, **kwargs)
        with call.phase(phase):
            return function(*args, **kwargs)

    return run_phase


def _static_attribute(handler_class: type, name: str) -> Any:
    return next((vars(base)[name] for base in handler_class.__mro__ if name in vars(base)), None)
