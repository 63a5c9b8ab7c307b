"""Posts to one URL over a connection that is kept, by the standard library alone.

`requests`, which the stock OTLP/HTTP exporters use, is a quarter of a worker's start and a third of the memory
(docs/adr/022-http-by-the-standard-library.md).
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import os
import select
import socket
import ssl
import time
from base64 import b64encode
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Optional
from urllib.parse import SplitResult, quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from collections.abc import Mapping

_PORTS: Final = {"http": 80, "https": 443}
# What an answer says beyond that is not read.
_MAX_ANSWER_BYTES: Final = 65_536
# What a URL may hold as it is: RFC 3986's reserved characters, and what is quoted already.
_NOT_QUOTED: Final = "!#$%&'()*+,/:;=?@[]~"


class TlsFiles(NamedTuple):
    """Files in PEM; an empty name is none. They are read when they are needed, and again once TLS has failed with them.

    Attributes:
        authorities: Whom to trust, a file or a folder, in place of those that certifi knows.
        certificate: What this client shows.
        key: The certificate's key, if that is a file of its own.
    """

    authorities: str = ""
    certificate: str = ""
    key: str = ""


class Answer(NamedTuple):
    """What a receiver answered; its body is cut at 64 KiB, and empty where it did not end in time."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes


class HttpConnection:
    """Posts to one URL, for one thread at a time.

    Args:
        url: An ``http`` or ``https`` URL.
        headers: What goes with each request; a user name and password in the URL become ``authorization``.
        tls: For ``https``.

    Raises:
        ValueError: Not such a URL, a proxy that is none, or a header of more than one line.
    """

    def __init__(self, url: str, headers: Mapping[str, str], tls: TlsFiles = TlsFiles()) -> None:  # noqa: B008 - a tuple
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"endpoint {url}: accepted over HTTP is a URL like http://collector:4318")
        self._scheme = parts.scheme
        self._place = parts.hostname, parts.port or _PORTS[parts.scheme]
        self._proxy = proxy_for(url)
        self._tls = tls
        # Reading a hundred authorities takes longer than a connection.
        self._context: Optional[ssl.SSLContext] = None
        self._target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", _NOT_QUOTED)
        fields = {**_credentials("authorization", parts), **headers}
        if self._proxy is not None and self._scheme == "http":
            # https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2: a proxy is asked for the whole URL.
            self._target = f"http://{parts.netloc.rpartition('@')[2]}{self._target}"
            fields.update(_credentials("proxy-authorization", self._proxy))
        for name, value in fields.items():
            # `http.client` would tell so of each request, and with the value, which may be a secret.
            if "\r" in value or "\n" in value:
                raise ValueError(f"header {name}: accepted is a value of one line")
        self._headers = {name: value.encode() for name, value in fields.items()}
        self._connection: Optional[http.client.HTTPConnection] = None

    def post(self, body: bytes, timeout_seconds: float) -> Answer:
        """Return what the receiver answers.

        Args:
            body: What is sent.
            timeout_seconds: The most that it may take until all of the answer is there, however slowly it comes; only
                connecting to several addresses of one name, and sending, may take it more than once.

        Raises:
            OSError: No connection, or it broke.
            http.client.HTTPException: What came is no answer.
            ValueError: A header that cannot be sent.
        """
        if self._connection is not None and _has_more(self._connection.sock):
            # It ends, or there is something that answers nothing ("408 Request Timeout" of an idle connection).
            self.close()
        is_kept = self._connection is not None
        deadline = time.monotonic() + timeout_seconds
        try:
            return self._post(body, deadline)
        except (ConnectionError, ssl.SSLError):
            if not is_kept:
                raise
            # The receiver has closed it in the meantime.
            return self._post(body, deadline)

    def _post(self, body: bytes, deadline: float) -> Answer:
        connection, self._connection = self._connection or self._new_connection(), None
        response_class: Any = partial(_Response, deadline)
        connection.response_class = response_class
        is_sent = True
        try:
            if connection.sock is None:
                connection.timeout = _seconds_until(deadline)
                connection.connect()
            connection.sock.settimeout(_seconds_until(deadline))
            try:
                connection.request("POST", self._target, body, self._headers)
            except (ConnectionError, ssl.SSLError):
                # Whoever answers before it has read all, that it is too much for instance, may have closed since.
                is_sent = False
            response = connection.getresponse()
            answer = Answer(response.status, response.reason, response.headers, _body(response))
        except BaseException as error:
            connection.close()
            if isinstance(error, ssl.SSLError):
                self._context = None
            raise
        # One that the receiver is about to close, or that has more of this answer, is of no further use.
        if is_sent and response.isclosed() and connection.sock is not None:
            self._connection = connection
        else:
            response.close()
            connection.close()
        return answer

    def _new_connection(self) -> http.client.HTTPConnection:
        host, port = self._place
        proxy = self._proxy
        if proxy is not None:
            host, port = proxy.hostname or "", proxy.port or _PORTS["http"]
        if self._scheme == "http":
            return http.client.HTTPConnection(host, port)
        self._context = self._context or _tls_context(self._tls)
        connection = http.client.HTTPSConnection(host, port, context=self._context)
        if proxy is not None:
            connection.set_tunnel(*self._place, headers=_credentials("proxy-authorization", proxy))
        return connection

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Response(http.client.HTTPResponse):
    """An answer that is there in time, by `time.monotonic`, or not at all."""

    def __init__(self, deadline: float, connection: socket.socket, *arguments: Any, **keywords: Any) -> None:
        # All that it asks of a connection is `makefile`.
        timed: Any = _TimedReader(connection, deadline)
        super().__init__(timed, *arguments, **keywords)

    def begin(self) -> None:
        super().begin()
        # https://www.rfc-editor.org/rfc/rfc9110#section-15.2: there may be any number of them before the answer. The
        # standard library knows 100 alone; nobody asked for 101.
        while self.status // 100 == 1 and self.status != http.client.SWITCHING_PROTOCOLS:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()


class _TimedReader(io.RawIOBase):
    """What comes on a connection until a time; a time-out of the connection is one of each wait."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        # Keeps the connection open, as long as it is open itself.
        self._reader = connection.makefile("rb", buffering=0)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        self._connection.settimeout(_seconds_until(self._deadline))
        return self._reader.readinto(buffer)

    def close(self) -> None:
        self._reader.close()
        super().close()


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        # Python 3.9 knows it by this name alone.
        raise socket.timeout("timed out")
    return seconds


def _body(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_MAX_ANSWER_BYTES)
    except socket.timeout:
        # A stream of events, a few bytes now and then, has no end; its status says enough.
        return b""


def _has_more(connection: Any) -> bool:
    """Return whether there is anything to read, the end included."""
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def proxy_for(url: str) -> Optional[SplitResult]:
    """Return the proxy for a URL, by ``http_proxy``, ``all_proxy``, ``no_proxy`` and their like; never for loopback.

    Raises:
        ValueError: It is no URL.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or is_loopback(url) or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    if _is_in_a_network(parts.hostname or "", proxies.get("no", "")):
        return None
    try:
        found = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        is_a_place = bool(found.hostname) and found.port != 0
    except ValueError:
        is_a_place = False
    if not is_a_place:
        # Not its value: there may be a password in it.
        variable = f"{parts.scheme if proxies.get(parts.scheme) else 'all'}_proxy"
        variable = variable if os.environ.get(variable) else variable.upper()
        raise ValueError(f"{variable}: accepted is a URL like http://proxy:3128")
    return found


def _is_in_a_network(host: str, no_proxy: str) -> bool:
    # Names alone are what the standard library looks for.
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for item in no_proxy.split(","):
        with suppress(ValueError):
            if address in ipaddress.ip_network(item.strip(), strict=False):
                return True
    return False


def is_loopback(endpoint: str) -> bool:
    """Return whether an endpoint, a URL or ``host:port``, is on this machine."""
    try:
        host = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _credentials(header: str, parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {b64encode(pair.encode()).decode()}"}


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    # As requests: these two variables, and else the authorities that its own dependency brings.
    named = files.authorities or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or _certifi()
    file, folder = (None, named) if os.path.isdir(named) else (named or None, None)
    context = ssl.create_default_context(cafile=file, capath=folder)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if files.certificate:
        # Nobody is there to be asked for a password.
        context.load_cert_chain(files.certificate, files.key or None, password="")
    return context


def _certifi() -> str:
    try:
        import certifi
    except ImportError:
        # The system's own.
        return ""
    return certifi.where()
