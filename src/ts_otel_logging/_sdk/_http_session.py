"""The `requests` session under the stock OTLP/HTTP exporters: one attempt, one recorded outcome.

The stock exporters retry on their own by sleeping, differently in each release, and say only that a batch failed. This
session makes every failure an exception that all of them take for final, and keeps what is needed to decide better:
https://opentelemetry.io/docs/specs/otlp/#otlphttp-response.
"""

from __future__ import annotations

import gzip
import ipaddress
import math
import time
import zlib
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Final, Optional
from urllib.parse import urlsplit

import requests
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from ts_otel_logging._sdk._outcome import DELIVERED, ExportOutcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

# "Retryable Response Codes" of the OTLP specification.
_RETRYABLE: Final = frozenset({429, 502, 503, 504})
_TOO_LARGE: Final = 413
_RESPONSES: Final[Mapping[str, Any]] = {
    "traces": (ExportTraceServiceResponse, "rejected_spans"),
    "logs": (ExportLogsServiceResponse, "rejected_log_records"),
    "metrics": (ExportMetricsServiceResponse, "rejected_data_points"),
}
# OTEL_EXPORTER_OTLP_COMPRESSION's values.
_COMPRESSIONS: Final[Mapping[Any, Callable[[bytes], bytes]]] = {"gzip": gzip.compress, "deflate": zlib.compress}
_MAX_RETRY_AFTER_SECONDS: Final = 300.0
_MAX_REASON_CHARACTERS: Final = 300


class ExportRefused(requests.RequestException):
    """A request that did not succeed; neither a connection error nor a time-out to those who ask for its class."""


class OtlpSession(requests.Session):
    """Sends a stock exporter's requests.

    Args:
        signal: ``traces``, ``logs`` or ``metrics``.
        endpoint: The URL that it will be used for.

    Attributes:
        outcome: What became of the last request.
        timeout_seconds: The most that a request may take, if the exporter does not say less.
        body: What is sent in place of the exporter's own body, encoded but not compressed; None to send that.
    """

    def __init__(self, signal: str, endpoint: str) -> None:
        super().__init__()
        self._signal = signal
        self._is_loopback = is_loopback(endpoint)
        self.outcome: Optional[ExportOutcome] = None
        self.timeout_seconds = math.inf
        self.body: Optional[bytes] = None
        self._is_trial = False
        self._asked: Any = None
        self._prepared = requests.PreparedRequest()
        self._send: Callable[..., requests.Response] = self.send

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """Send one request and record its outcome.

        Raises:
            ExportRefused: It did not succeed.
        """
        if self._is_trial:
            self.outcome = DELIVERED
            response = requests.Response()
            response.status_code = requests.codes["ok"]
            return response
        kwargs["timeout"] = max(min(kwargs.get("timeout") or math.inf, self.timeout_seconds), 0.001)
        if self.body is not None:
            kwargs["data"] = self._compressed(self.body, kwargs.get("headers"))
        try:
            response = self._request_on_fresh_connection(method, url, *args, **kwargs)
        except requests.RequestException as error:
            temporary = isinstance(error, (requests.ConnectionError, requests.Timeout))
            self.outcome = ExportOutcome(
                Verdict.RETRY if temporary else Verdict.DROP, _reason(error), error_type=type(error).__name__
            )
        else:
            self.outcome = self._judge(response)
            if self.outcome.verdict is Verdict.DELIVERED:
                return response
        raise ExportRefused(self.outcome.reason)

    def is_asked_to_send(self, exporter: Any, batch: Any) -> bool:
        """Return whether an exporter makes a request of a batch; nothing is sent.

        Args:
            exporter: One with this session.
            batch: What it takes.
        """
        self.outcome, self._is_trial = None, True
        try:
            exporter.export(batch)
        finally:
            self._is_trial = False
        return self.outcome is not None

    def _compressed(self, body: bytes, headers: Optional[Mapping[str, str]]) -> bytes:
        # Releases differ in whose headers have it: the session's or the request's, which win.
        compression = CaseInsensitiveDict({**self.headers, **(headers or {})}).get("Content-Encoding")
        return _COMPRESSIONS[compression](body) if compression in _COMPRESSIONS else body

    def _request_on_fresh_connection(self, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            return self._request_once(*args, **kwargs)
        except requests.ConnectTimeout:
            raise
        except requests.ConnectionError:
            # Most often a kept connection that the receiver has closed in the meantime.
            return self._request_once(*args, **kwargs)

    def _request_once(  # noqa: PLR0913, PLR0917 - what the exporters say, by name
        self,
        method: str,
        url: str,
        data: bytes,
        timeout: float,
        headers: Optional[Mapping[str, str]] = None,
        verify: Any = None,
        cert: Any = None,
        **_others: Any,
    ) -> requests.Response:
        """Send one request; no cookies, no redirects.

        Only body and time-out differ from the last one. What `requests` would find out anew each time (the URL's parts,
        headers, proxies, ~/.netrc, certificates) is half of what a request costs.
        """
        asked = method, url, headers, verify, cert
        if asked != self._asked:
            self._prepared = self.prepare_request(requests.Request(method, url, headers=headers, data=data))
            settings = self.merge_environment_settings(url, {}, stream=False, verify=verify, cert=cert)
            self._send = partial(self.get_adapter(url).send, **settings)
            self._asked = asked
        request = self._prepared
        request.body = data
        request.headers["Content-Length"] = str(len(data))
        try:
            response = self._send(request, timeout=timeout)
            # Read while there is a time-out.
            _ = response.content
        finally:
            request.body = None
        return response

    def _judge(self, response: requests.Response) -> ExportOutcome:
        code = response.status_code
        if 200 <= code < 300:  # noqa: PLR2004 - HTTP's own border
            return self._partial_success(response)
        verdict = Verdict.RETRY if code in _RETRYABLE else Verdict.SPLIT if code == _TOO_LARGE else Verdict.DROP
        reason = f"HTTP {code} {response.reason or ''}".strip()
        return ExportOutcome(
            verdict,
            reason[:_MAX_REASON_CHARACTERS],
            error_type=str(code),
            retry_after_seconds=parse_retry_after(response.headers.get("Retry-After", "")),
        )

    def _partial_success(self, response: requests.Response) -> ExportOutcome:
        if not response.content or "protobuf" not in response.headers.get("Content-Type", ""):
            return DELIVERED
        response_class, field = _RESPONSES[self._signal]
        try:
            partial = response_class.FromString(response.content).partial_success
        except DecodeError:
            return DELIVERED
        rejected = max(getattr(partial, field), 0)
        if not rejected:
            return DELIVERED
        reason = f"rejected by the receiver: {partial.error_message}"
        return ExportOutcome(
            Verdict.DELIVERED, reason[:_MAX_REASON_CHARACTERS], error_type="rejected", rejected=rejected
        )

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Honour the environment's proxies, ``NO_PROXY`` included, but never for this machine itself."""
        settings = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if self._is_loopback:
            settings["proxies"] = {}
        return settings

    def forget_connections(self) -> None:
        """Use new connections in a forked child; the old ones are the parent's."""
        self.mount("https://", HTTPAdapter())
        self.mount("http://", HTTPAdapter())
        self._asked = None


def is_loopback(endpoint: str) -> bool:
    """Return whether an endpoint, a URL or ``host:port``, is on this machine."""
    try:
        host = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_retry_after(text: str) -> Optional[float]:
    """Return the seconds that a ``Retry-After`` header asks for, at most five minutes; None when it asks for nothing.

    Both forms of https://www.rfc-editor.org/rfc/rfc9110#field.retry-after.
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError, IndexError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS)


def _reason(error: BaseException) -> str:
    # requests wraps urllib3, which wraps the operating system's error; only that one is plain.
    innermost = error
    while (cause := innermost.__cause__ or innermost.__context__) is not None:
        innermost = cause
    text = getattr(innermost, "strerror", None) or str(innermost)
    return f"{type(error).__name__}: {text}"[:_MAX_REASON_CHARACTERS]
