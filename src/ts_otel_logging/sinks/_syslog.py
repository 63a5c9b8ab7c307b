"""Records as RFC 5424 messages to a syslog server."""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
import time
from logging.handlers import SysLogHandler
from typing import TYPE_CHECKING, Any, Final, Optional, Union, cast

from ts_otel_logging.sinks._record import timestamp, trace_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

TRANSPORTS: Final = ("udp", "tcp", "tls", "unix")
FACILITIES: Final = tuple(SysLogHandler.facility_names)

# What a receiver should take at least: RFC 5426 section 3.2 for UDP; RFC 5425 section 4.3.1 for TLS, where rsyslog's
# default is the same 8192. For UDP it is also about what passes networks without being lost in fragments.
_MAX_MESSAGE_BYTES: Final = {"udp": 2_048, "tcp": 8_192, "tls": 8_192, "unix": 8_192}
# RFC 5426 section 3.2: what every receiver must take.
_MIN_MESSAGE_BYTES: Final = 480
_FIRST_BACKOFF_SECONDS: Final = 0.5
_MAX_BACKOFF_SECONDS: Final = 10.0
_MAX_FACILITY: Final = 23
_MARK: Final = "…".encode()
_BOM: Final = "\ufeff".encode()
# RFC 5424 section 6.2.1, by level of `logging`, from the most severe; below INFO it is debug (7).
_SEVERITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (25, 5), (logging.INFO, 6))
_DEBUG: Final = 7


class SyslogHandler(logging.Handler):
    """Sends each record to a syslog server as RFC 5424.

    The message is the formatted record; APP-NAME, PROCID (the process's id) and MSGID (the logger's name) stand in the
    header, and in a span the trace ids in the structured data
    ``[opentelemetry trace_id="…" span_id="…" trace_flags="01"]``.

    - ``udp``: one datagram a record (RFC 5426).
    - ``tcp``: octet counting (RFC 6587 section 3.4.1).
    - ``tls``: the same over TLS 1.2 or newer (RFC 5425); the server's certificate and name are verified.
    - ``unix``: a Unix socket, datagrams as on ``/dev/log``, or a stream with a newline after each record, in which a
      newline of the record's own is ``#012``, as rsyslog writes it.

    A longer record loses the end of its message, and an ellipsis marks the cut. A text that is not ASCII begins with
    UTF-8's byte order mark, as RFC 5424 section 6.4 demands. A server that went away is connected anew, at most
    twice a second at first and every ten seconds in the end; in between a record fails at once. Plain syslog confirms
    nothing: what a server had not read when it was killed is lost.

    Example:
        >>> logging.getLogger().addHandler(SyslogHandler(("syslog.example", 514), facility="local0"))

    Args:
        address: A pair of host and port, or the path of a Unix socket.
        facility: A name (``user``, ``daemon``, ``local0`` …) or a number from 0 to 23.
        transport: ``udp``, ``tcp``, ``tls`` or ``unix``; by default what the address says: ``udp`` or ``unix``.
        ca_file: For ``tls``: PEM file of the authorities to trust, instead of the system's.
        cert_file: For ``tls``: PEM file of the client's certificate, and of its key if `key_file` is not given.
        key_file: For ``tls``: PEM file of the client's key.
        app_name: APP-NAME.
        hostname: HOSTNAME; this machine's by default.
        max_message_bytes: The longest message, at least 480; by default 2048 for ``udp``, else 8192.
        timeout_seconds: The most that connecting or sending may take.

    Raises:
        TypeError: An argument is of a wrong type.
        ValueError: An argument has a value that is not accepted, or a file for TLS cannot be used.

    Attributes:
        retry_seconds: Behind the queue, how long to wait before a record that could not be sent is tried again.
    """

    def __init__(  # noqa: PLR0913 - all but the first by keyword
        self,
        address: Union[str, Sequence[Any]] = ("localhost", 514),
        *,
        facility: Union[str, int] = "user",
        transport: Optional[str] = None,
        ca_file: Optional[str] = None,
        cert_file: Optional[str] = None,
        key_file: Optional[str] = None,
        app_name: str = "torchserve",
        hostname: Optional[str] = None,
        max_message_bytes: Optional[int] = None,
        timeout_seconds: float = 5.0,
    ) -> None:
        super().__init__()
        self._address = _address(address)
        self._transport = _transport(transport, self._address)
        self._facility = _facility(facility)
        self._app_name = _header_field(app_name, 48)
        self._hostname = _header_field(socket.gethostname() if hostname is None else hostname, 255)
        self._max_message_bytes = _max_message_bytes(max_message_bytes, self._transport)
        self._timeout_seconds = _timeout_seconds(timeout_seconds)
        self._tls_files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
        if self._transport == "tls":
            self._tls_context()
        else:
            given = [name for name, value in self._tls_files.items() if value is not None]
            if given:
                raise ValueError(f"{given[0]}: accepted is it with transport tls alone, not {self._transport}")
        self._socket: Optional[socket.socket] = None
        self._process_id = os.getpid()
        self._is_stream = self._transport in ("tcp", "tls")
        self._limit = self._max_message_bytes
        self._failures = 0
        self._next_try = 0.0
        self._last_error = ""

    @property
    def retry_seconds(self) -> float:
        """In how many seconds the server will be tried again; 0 when it may be tried now."""
        return max(0.0, self._next_try - time.monotonic())

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            self._send(record)
        except Exception:  # noqa: BLE001 - as every handler of logging's
            self.handleError(record)

    def _send(self, record: logging.LogRecord) -> None:
        header, text = self._header(record), self.format(record)
        try:
            connection = self._connected()
            while True:
                try:
                    connection.sendall(self._framed(header, text))
                    break
                except OSError as error:
                    # Known only now what a datagram of this socket may hold.
                    if self._is_stream or error.errno != errno.EMSGSIZE or self._limit <= _MIN_MESSAGE_BYTES:
                        raise
                    self._limit = max(self._limit // 2, _MIN_MESSAGE_BYTES)
        except OSError as error:
            self._disconnect()
            self._back_off(error)
            raise
        self._failures = 0

    def _back_off(self, error: OSError) -> None:
        if self.retry_seconds:
            return
        self._last_error = str(error)
        pause_seconds = min(_FIRST_BACKOFF_SECONDS * 2.0**self._failures, _MAX_BACKOFF_SECONDS)
        self._failures = min(self._failures + 1, 16)
        # Not all workers at once; and not by the generator that a model may have seeded.
        self._next_try = time.monotonic() + pause_seconds * random.SystemRandom().uniform(0.5, 1.0)

    def _connected(self) -> socket.socket:
        if self._process_id != os.getpid():
            # The parent's connection: two processes cannot both write to it. Closing says nothing to the server.
            self._process_id = os.getpid()
            self._disconnect()
            self._next_try = 0.0
        if self._socket is not None and self._is_stream and self._has_ended(self._socket):
            self._disconnect()
        if self._socket is None:
            if self.retry_seconds:
                raise ConnectionError(f"{self._last_error}; tried again in {self.retry_seconds:.1f} s")
            self._socket = self._connect()
        return self._socket

    def _has_ended(self, connection: socket.socket) -> bool:
        # A server that left has said so; what is sent after that is lost without an error. It has nothing else to say,
        # but for TLS, which hands out tickets.
        connection.settimeout(0.0)
        try:
            return not connection.recv(4096)
        except BlockingIOError:
            return False
        except OSError as error:
            # ssl.SSLWantReadError, by its number: ssl is imported for TLS alone.
            return self._transport != "tls" or error.errno != _SSL_ERROR_WANT_READ
        finally:
            connection.settimeout(self._timeout_seconds)

    def _connect(self) -> socket.socket:
        self._limit = self._max_message_bytes
        if isinstance(self._address, str):
            return self._connect_unix(self._address)
        host, port = self._address
        try:
            return self._connect_udp(host, port) if self._transport == "udp" else self._connect_tcp(host, port)
        except ValueError as error:
            # A name that can be none, or a certificate that was there before: as with a server that is not there.
            raise ConnectionError(str(error)) from error

    def _connect_tcp(self, host: str, port: int) -> socket.socket:
        connection = socket.create_connection((host, port), self._timeout_seconds)
        try:
            # A server that vanished without a word is noticed within minutes, not never.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                connection.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(int(self._timeout_seconds * 4_000), 1)
                )
            if self._transport == "tls":
                return cast("socket.socket", self._tls_context().wrap_socket(connection, server_hostname=host))
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_udp(self, host: str, port: int) -> socket.socket:
        # The first of the host's addresses that this machine has a way to.
        reason = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            try:
                return _opened(family, kind, address, self._timeout_seconds, protocol)
            except OSError as error:  # noqa: PERF203 - at most a few addresses
                reason = error
        raise reason

    def _connect_unix(self, path: str) -> socket.socket:
        self._is_stream = False
        try:
            return _opened(socket.AF_UNIX, socket.SOCK_DGRAM, path, self._timeout_seconds)
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
        connection = _opened(socket.AF_UNIX, socket.SOCK_STREAM, path, self._timeout_seconds)
        self._is_stream = True
        return connection

    def _tls_context(self) -> Any:
        import ssl

        files = self._tls_files
        # Each time: certificates are renewed while a worker runs.
        try:
            context = ssl.create_default_context(cafile=files["ca_file"])
        except OSError as error:
            raise ValueError(
                f"ca_file: accepted is a PEM file of certificates: {_reason(error)}, not {files['ca_file']!r}"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if files["cert_file"] is not None:
            try:
                context.load_cert_chain(files["cert_file"], files["key_file"])
            except OSError as error:
                names = " and ".join(f"{name} {files[name]}" for name in ("cert_file", "key_file") if files[name])
                raise ValueError(
                    f"{names}: accepted is a certificate with its key, as PEM: {_reason(error)}"
                ) from error
        elif files["key_file"] is not None:
            raise ValueError("key_file: accepted is it together with cert_file")
        return context

    def _disconnect(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _header(self, record: logging.LogRecord) -> bytes:
        severity = next((severity for level, severity in _SEVERITIES if record.levelno >= level), _DEBUG)
        data = "".join(f' {name}="{_escaped(value)}"' for name, value in trace_fields(record).items())
        return (
            f"<{self._facility * 8 + severity}>1 {timestamp(record)} {self._hostname} {self._app_name} {os.getpid()} "
            f"{_header_field(record.name, 32)} {f'[opentelemetry{data}]' if data else '-'} "
        ).encode()

    def _framed(self, header: bytes, text: str) -> bytes:
        is_line = self._is_stream and self._transport == "unix"
        if is_line:
            text = text.replace("\n", "#012")
        message = text.encode("utf-8", "backslashreplace")
        if not text.isascii():
            message = _BOM + message
        room = self._limit - len(header)
        if len(message) > room:
            message = message[: max(room - len(_MARK), 0)].decode("utf-8", "ignore").encode() + _MARK
        message = header + message
        if is_line:
            return message + b"\n"
        return b"%d %s" % (len(message), message) if self._is_stream else message

    def check(self) -> Optional[str]:
        """Return why the address cannot be used, or None: whether the host's name resolves, whether a socket is there.

        Whether a server answers is not asked: it may come later. Resolving a name may take seconds.
        """
        try:
            if isinstance(self._address, str):
                os.stat(self._address)
            else:
                socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            where = self._address if isinstance(self._address, str) else f"{self._address[0]}:{self._address[1]}"
            return f"{where} cannot be reached: {_reason(error)}"
        return None

    def close(self) -> None:
        """End the connection; what was sent before arrives."""
        self.acquire()
        try:
            connection = self._socket
            if connection is not None and self._is_stream and self._process_id == os.getpid():
                # Closing with something unread would make the kernel throw away what the server has not read yet.
                self._has_ended(connection)
            self._disconnect()
        finally:
            self.release()
        super().close()


# ssl.SSL_ERROR_WANT_READ, see https://docs.python.org/3/library/ssl.html#ssl.SSLWantReadError
_SSL_ERROR_WANT_READ: Final = 2


def _opened(family: int, kind: int, address: Any, timeout_seconds: float, protocol: int = 0) -> socket.socket:
    connection = socket.socket(family, kind, protocol)
    try:
        connection.settimeout(timeout_seconds)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _address(address: Any) -> Union[str, tuple[str, int]]:
    if isinstance(address, (str, os.PathLike)):
        path = os.fspath(address)
        if isinstance(path, str) and "/" in path:
            return path
    elif isinstance(address, (list, tuple)) and len(address) == 2:  # noqa: PLR2004 - a pair
        host, port = address
        if isinstance(port, str) and port.isdigit():
            port = int(port)
        if isinstance(host, str) and host and type(port) is int and 0 < port < 65536:  # noqa: PLR2004 - ports
            return host, port
    raise ValueError(
        f"address: accepted is [host, port] or the path of a Unix socket; a port is 1 to 65535, not {address!r}"
    )


def _transport(transport: Optional[str], address: Union[str, tuple[str, int]]) -> str:
    is_unix = isinstance(address, str)
    accepted = TRANSPORTS[3:] if is_unix else TRANSPORTS[:3]
    if transport is None:
        return accepted[0]
    if transport not in accepted:
        address_kind = "the path of a Unix socket" if is_unix else "a host and a port"
        raise ValueError(f"transport: accepted is {' or '.join(accepted)} with {address_kind}, not {transport!r}")
    return transport


def _facility(facility: Any) -> int:
    if isinstance(facility, str) and facility.lower() in SysLogHandler.facility_names:
        return SysLogHandler.facility_names[facility.lower()]
    if type(facility) is int and 0 <= facility <= _MAX_FACILITY:
        return facility
    raise ValueError(f"facility: accepted is 0 to {_MAX_FACILITY}, or one of {', '.join(FACILITIES)}, not {facility!r}")


def _max_message_bytes(value: Any, transport: str) -> int:
    if value is None:
        return _MAX_MESSAGE_BYTES[transport]
    if type(value) is not int or value < _MIN_MESSAGE_BYTES:
        raise ValueError(f"max_message_bytes: accepted is a number from {_MIN_MESSAGE_BYTES} up, not {value!r}")
    return value


def _timeout_seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"timeout_seconds: accepted is a number above 0, not {value!r}")
    return float(value)


def _header_field(value: Any, max_characters: int) -> str:
    # RFC 5424 section 6: PRINTUSASCII, at least one character.
    text = str(value)[:max_characters]
    return "".join(character if "!" <= character <= "~" else "?" for character in text) or "-"


def _escaped(value: str) -> str:
    # RFC 5424 section 6.3.3; of a text that somebody else put there, no more than an id is long.
    text = value[:32].replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    return text.encode("utf-8", "replace").decode()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
