"""A client as users have it: OpenTelemetry's own httpx instrumentation, and an SDK that exports to the collector."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

if TYPE_CHECKING:
    from opentelemetry.trace import Span

SERVICE_NAME = "digits-client"


@dataclass(frozen=True)
class Exchange:
    """A request of an instrumented client, by its trace and its span."""

    trace_id: str
    span_id: str
    response: httpx.Response
    sent_us: int
    answered_us: int


class TracedClient:
    """Use with ``contextlib.closing``."""

    def __init__(self, otlp_endpoint: str) -> None:
        session = requests.Session()
        session.trust_env = False  # no proxy between us and a local server
        self._provider = TracerProvider(resource=Resource({"service.name": SERVICE_NAME}))
        exporter = OTLPSpanExporter(endpoint=f"{otlp_endpoint}/v1/traces", session=session)
        self._provider.add_span_processor(SimpleSpanProcessor(exporter))
        self._http = httpx.Client(timeout=30, trust_env=False)
        self._spans: list[Span] = []
        HTTPXClientInstrumentor.instrument_client(
            self._http,
            tracer_provider=self._provider,
            request_hook=lambda span, _request: self._spans.append(span),
        )

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()
        self._provider.shutdown()

    def post(self, url: str, body: Any) -> Exchange:
        """POST ``body`` as JSON."""
        sent_us = time.time_ns() // 1000
        response = self._http.post(url, json=body)
        context = self._spans.pop().get_span_context()
        return Exchange(
            trace_id=f"{context.trace_id:032x}",
            span_id=f"{context.span_id:016x}",
            response=response,
            sent_us=sent_us,
            answered_us=time.time_ns() // 1000,
        )
