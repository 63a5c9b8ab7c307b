"""Which requests the running code serves: a context variable that lines, spans and measurements read.

A scope is immutable. Outside a request the process scope holds, which knows the model once it is loaded.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Optional

from opentelemetry import context as otel_context

from ts_otel_logging import _names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.context import Context


class Scope:
    """The fields that every line and log record of some requests carries.

    Attributes:
        fields: The line's fields, in the contract's order.
        attributes: The same as OpenTelemetry attributes.
        members: For a batch, the scope of each of its requests, in the batch's order; otherwise empty.
        context: The OpenTelemetry context with the span of its one request; None for any other scope.
        rendered: A place for the shape to keep what it rendered of `fields`; None until then.
        encoded: A place for the encoder to keep the bytes of `attributes`; None until then.
    """

    __slots__ = ("attributes", "context", "encoded", "fields", "members", "rendered")

    def __init__(
        self,
        fields: Mapping[str, Any],
        attributes: Mapping[str, Any],
        members: tuple[Scope, ...] = (),
        context: Optional[Context] = None,
    ) -> None:
        self.fields = fields
        self.attributes = attributes
        self.members = members
        self.context = context
        self.rendered: Optional[str] = None
        self.encoded: Optional[bytes] = None


_NO_HEADERS: Mapping[str, str] = {}
_process = Scope({}, {})
_current: ContextVar[Optional[Scope]] = ContextVar("ts_otel_logging_scope", default=None)


def current() -> Scope:
    """Return the scope of the running code: its requests', else the process's."""
    return _current.get() or _process


def set_process(model_name: str, model_version: Optional[str], worker_id: Optional[str]) -> None:
    """Let every later line outside a request name the model and the worker.

    Args:
        model_name: The model that this worker serves.
        model_version: Its version, if the archive names one.
        worker_id: The worker's port, which TorchServe's own log calls the worker.
    """
    global _process  # noqa: PLW0603 - one worker serves one model: this is the process's state
    fields: dict[str, Any] = {_names.MODEL_NAME: model_name}
    attributes: dict[str, Any] = {_names.ATTR_MODEL_NAME: model_name}
    if model_version is not None:
        fields[_names.MODEL_VERSION] = model_version
        attributes[_names.ATTR_MODEL_VERSION] = model_version
    if worker_id is not None:
        fields[_names.WORKER_ID] = worker_id
        attributes[_names.ATTR_WORKER_ID] = worker_id
    _process = Scope(fields, attributes)


def reset_process() -> None:
    """Forget the model: a process that is no worker any more."""
    global _process  # noqa: PLW0603 - see set_process
    _process = Scope({}, {})


def of_request(
    request_id: str,
    client_request_id: Optional[str],
    shown_headers: Mapping[str, str] = _NO_HEADERS,
    context: Optional[Context] = None,
) -> Scope:
    """Return the scope of one request.

    Args:
        request_id: TorchServe's id of the request, which clients get as ``x-request-id``.
        client_request_id: The caller's own ``x-request-id``, if it sent one.
        shown_headers: Its headers that lines shall have, by the name of their field.
        context: The OpenTelemetry context with its span.
    """
    fields: dict[str, Any] = {_names.REQUEST_ID: request_id}
    if client_request_id is not None:
        fields[_names.CLIENT_REQUEST_ID] = client_request_id
    attributes = {_names.ATTR_REQUEST_ID: request_id, **_process.attributes}
    if shown_headers:
        return Scope(
            {**fields, **_process.fields, **shown_headers},
            {**attributes, **header_attributes(shown_headers)},
            context=context,
        )
    return Scope({**fields, **_process.fields}, attributes, context=context)


def header_attributes(shown_headers: Mapping[str, str]) -> dict[str, list[str]]:
    """Return headers as OpenTelemetry attributes.

    Args:
        shown_headers: By the name of their attribute.
    """
    # https://opentelemetry.io/docs/specs/semconv/registry/attributes/http/: an array, for a header may come twice.
    return {name: [value] for name, value in shown_headers.items()}


def of_batch(request_ids: list[str], trace_ids: list[str], members: tuple[Scope, ...]) -> Scope:
    """Return the scope of a batch of several requests.

    Args:
        request_ids: TorchServe's ids, in the batch's order.
        trace_ids: The members' trace ids as 32 hex digits, in the same order.
        members: The scope of each member.
    """
    return Scope(
        {_names.REQUEST_IDS: request_ids, _names.TRACE_IDS: trace_ids, **_process.fields},
        {_names.ATTR_REQUEST_IDS: request_ids, **_process.attributes},
        members,
    )


def enter(scope: Scope) -> Any:
    """Make a scope current; hand what it returns to `leave`."""
    return _current.set(scope)


def leave(token: Any) -> None:
    """Restore the scope that held before `enter`."""
    _current.reset(token)


@contextmanager
def request_scope(index: int) -> Iterator[None]:
    """Narrow a block to one request of the current batch.

    Its lines have the ids of this request alone, its trace and its span; spans made in it are children of that span.
    Outside a batch, or when off, it does nothing.

    Args:
        index: The request's position in the batch, from 0. A position that the batch has not changes nothing.

    Yields:
        Nothing.
    """
    members = current().members
    if not 0 <= index < len(members):
        yield
        return
    member = members[index]
    context_token = None if member.context is None else otel_context.attach(member.context)
    token = enter(member)
    try:
        yield
    finally:
        leave(token)
        if context_token is not None:
            otel_context.detach(context_token)
