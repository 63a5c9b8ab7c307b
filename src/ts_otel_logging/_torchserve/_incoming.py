"""What the frontend hands to a worker of one request: its headers, and what gRPC clients send in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import propagate

from ts_otel_logging._requests import IncomingRequest

if TYPE_CHECKING:
    from ts_otel_logging._requests import ShownHeaders

# The frontend (frontend/server/…/ServerInitializer.java) aggregates each HTTP request with Netty's
# HttpObjectAggregator, which gives a request without this header one (`finishAggregation`): every HTTP request has it,
# also those of workflows, whatever the client sent. A gRPC request has none (…/grpcimpl/InferenceImpl.java): its
# headers are TorchServe's own three for sequences, or nothing.
_IN_EVERY_HTTP_REQUEST: Final = "content-length"


def incoming_request(request: dict[str, Any], shown_headers: ShownHeaders) -> IncomingRequest:
    """Return a request of a batch as we know one.

    gRPC's metadata does not reach a worker: a client of `inference.proto` puts its trace context into the request's
    `input`, under the names of the propagators' fields. Those entries are taken out, so that no handler sees them.
    They never come from an HTTP request, whose query string and form look the same.

    Args:
        request: As `ts.protocol.otf_message_handler` reads it; its parameters may lose some.
        shown_headers: Which headers its lines and span have.
    """
    # ts/service.py, retrieve_data_for_inference: the same fields in the same encoding; names in the client's casing.
    headers = {
        header["name"].decode("utf-8", "replace").lower(): header["value"].decode("utf-8", "replace")
        for header in request.get("headers") or ()
    }
    shown = shown_headers(headers)
    if _IN_EVERY_HTTP_REQUEST not in headers:
        headers.update(_taken_from_inputs(request, headers))
    return IncomingRequest(request["requestId"].decode("utf-8", "replace"), headers, shown)


def _taken_from_inputs(request: dict[str, Any], headers: dict[str, str]) -> dict[str, str]:
    fields = propagate.get_global_textmap().fields
    inputs = request["parameters"]
    reserved = [entry for entry in inputs if entry["name"] in fields]
    if not reserved:
        return {}
    request["parameters"] = [entry for entry in inputs if entry["name"] not in fields]
    if any(field.lower() in headers for field in fields):
        # Whoever added the header knows the caller better; and two contexts must not be mixed.
        return {}
    return {entry["name"].lower(): entry["value"].decode("utf-8", "replace") for entry in reserved}
