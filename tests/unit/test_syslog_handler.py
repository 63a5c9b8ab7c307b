"""`SyslogHandler` on sockets of the test: what it sends byte by byte, what it refuses, how it finds a server again."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from syslog_servers import write_certificates
from ts_otel_logging.sinks import SyslogHandler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        yield receiver


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


def read(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        chunk = connection.recv(65536)
        assert chunk, data
        data += chunk
    return data


class TestMessage:
    def test_it_is_rfc_5424_to_the_byte(self, receiver: socket.socket, logger: logging.Logger) -> None:
        handler = SyslogHandler(receiver.getsockname(), facility="local0", app_name="my app", hostname="größe")
        logger.addHandler(handler)
        record = logger.makeRecord("acme.model", logging.ERROR, "", 0, "bad", (), None)
        record.created = 1_700_000_000.5
        logger.handle(record)
        assert receiver.recv(4096) == (
            b"<131>1 2023-11-14T22:13:20.500000Z gr??e my?app %d acme.model - bad" % os.getpid()
        )

    @pytest.mark.parametrize(
        ("level", "severity"), [(5, 7), (10, 7), (20, 6), (25, 5), (30, 4), (35, 4), (40, 3), (50, 2), (60, 2)]
    )
    def test_levels_have_the_severities_of_the_rfc(
        self, receiver: socket.socket, logger: logging.Logger, level: int, severity: int
    ) -> None:
        logger.addHandler(SyslogHandler(receiver.getsockname(), facility=0))
        logger.setLevel(1)
        logger.log(level, "x")
        assert receiver.recv(4096).startswith(b"<%d>1 " % severity)

    def test_text_of_others_in_the_ids_cannot_break_the_structured_data(
        self, receiver: socket.socket, logger: logging.Logger
    ) -> None:
        logger.addHandler(SyslogHandler(receiver.getsockname()))
        logger.info("x", extra={"trace_id": 'a"]\\ <forged'})
        assert rb'[opentelemetry trace_id="a\"\]\\ <forged"] x' in receiver.recv(4096)

    def test_only_what_is_not_ascii_has_a_byte_order_mark(
        self, receiver: socket.socket, logger: logging.Logger
    ) -> None:
        logger.addHandler(SyslogHandler(receiver.getsockname()))
        logger.info("plain")
        logger.info("Größe")
        assert receiver.recv(4096).endswith(b" - plain")
        assert receiver.recv(4096).endswith(b" - \xef\xbb\xbf" + "Größe".encode())

    def test_a_message_that_no_datagram_holds_is_cut_until_one_does(
        self, receiver: socket.socket, logger: logging.Logger
    ) -> None:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        logger.addHandler(SyslogHandler(receiver.getsockname(), max_message_bytes=1_000_000))
        logger.info("x" * 500_000)
        data = receiver.recv(1 << 20)
        assert data.endswith("x…".encode())
        assert 30_000 < len(data) < 65_508

    def test_an_exception_is_part_of_the_message(self, receiver: socket.socket, logger: logging.Logger) -> None:
        logger.addHandler(SyslogHandler(receiver.getsockname()))
        logger.info("x", exc_info=ValueError("bad"))
        assert receiver.recv(4096).endswith(b" - x\nValueError: bad")


class TestConnection:
    def test_tcp_counts_octets(self, listener: socket.socket, logger: logging.Logger) -> None:
        logger.addHandler(SyslogHandler(listener.getsockname(), transport="tcp"))
        logger.info("é\nx")
        connection, _ = listener.accept()
        with connection:
            frame = read(connection, b"\nx")
        length, _, message = frame.partition(b" ")
        assert int(length) == len(message)

    def test_a_server_that_closed_is_noticed_before_the_next_record(
        self, listener: socket.socket, logger: logging.Logger
    ) -> None:
        logger.addHandler(SyslogHandler(listener.getsockname(), transport="tcp"))
        logger.info("first")
        connection, _ = listener.accept()
        read(connection, b"first")
        connection.close()
        logger.info("second")
        connection, _ = listener.accept()
        with connection:
            assert read(connection, b"second").count(b"<14>1") == 1

    def test_a_forked_child_has_a_connection_of_its_own(self, listener: socket.socket, logger: logging.Logger) -> None:
        logger.addHandler(SyslogHandler(listener.getsockname(), transport="tcp"))
        logger.info("of the parent")
        of_parent, _ = listener.accept()
        child = os.fork()
        if not child:
            logger.info("of the child")
            os._exit(0)
        of_child, _ = listener.accept()
        os.waitpid(child, 0)
        logger.info("parent again")
        with of_parent, of_child:
            assert b"of the child" in read(of_child, b"of the child")
            assert b"child" not in read(of_parent, b"parent again")

    def test_a_server_that_is_not_there_is_asked_for_now_and_then_and_found_when_it_is(
        self, logger: logging.Logger, failures: list[BaseException]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        handler = SyslogHandler(address, transport="tcp")
        logger.addHandler(handler)
        logger.info("x")
        logger.info("x")
        first, second = failures
        assert isinstance(first, ConnectionRefusedError)
        assert re.fullmatch(r".*Connection refused; tried again in 0\.\d s", str(second))
        assert 0 < handler.retry_seconds <= 0.5
        with socket.create_server(address) as listener:
            listener.settimeout(10)
            threading.Event().wait(handler.retry_seconds)
            logger.info("found")
            connection, _ = listener.accept()
            with connection:
                assert read(connection, b"found")
        assert handler.retry_seconds == 0
        assert len(failures) == 2

    def test_a_server_that_does_not_read_costs_the_timeout(
        self, listener: socket.socket, logger: logging.Logger, failures: list[BaseException]
    ) -> None:
        handler = SyslogHandler(
            listener.getsockname(), transport="tcp", timeout_seconds=0.2, max_message_bytes=1_000_000
        )
        logger.addHandler(handler)
        while not failures:
            logger.info("x" * 900_000)
        assert "timed out" in str(failures[0])

    def test_tls_verifies_the_servers_certificate(
        self, listener: socket.socket, logger: logging.Logger, failures: list[BaseException], tmp_path: Path
    ) -> None:
        import ssl

        write_certificates(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)

        server = threading.Thread(target=serve)
        server.start()
        # The system's authorities do not know this one.
        logger.addHandler(SyslogHandler(("localhost", listener.getsockname()[1]), transport="tls"))
        logger.info("x")
        server.join()
        assert "certificate verify failed" in str(failures[0])


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"address": "localhost:514"}, r"address: accepted is \[host, port\] or the path of a Unix socket"),
            ({"address": ["localhost"]}, "address: accepted is"),
            ({"address": ["localhost", 70_000]}, "address: accepted is"),
            ({"facility": "usr"}, "facility: accepted is 0 to 23, or one of .*local7.*, not 'usr'"),
            ({"facility": 24}, "facility: accepted is"),
            ({"transport": "http"}, "transport: accepted is udp or tcp or tls with a host and a port, not 'http'"),
            ({"address": "/dev/log", "transport": "tcp"}, "transport: accepted is unix with the path of a Unix socket"),
            ({"ca_file": "/ca.pem"}, "ca_file: accepted is it with transport tls alone, not udp"),
            (
                {"transport": "tls", "ca_file": "/no.pem"},
                "ca_file: accepted is a PEM file .*: No such file .*, not '/no.pem'",
            ),
            ({"transport": "tls", "key_file": "/no.pem"}, "key_file: accepted is it together with cert_file"),
            ({"transport": "tls", "cert_file": "/no.pem"}, "cert_file /no.pem: accepted is a certificate"),
            ({"max_message_bytes": 479}, "max_message_bytes: accepted is a number from 480 up, not 479"),
            ({"timeout_seconds": 0}, "timeout_seconds: accepted is a number above 0, not 0"),
        ],
    )
    def test_what_is_wrong_is_said_with_what_is_accepted(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SyslogHandler(**arguments)

    def test_a_host_that_does_not_resolve_is_said_in_words_and_costs_no_start(self) -> None:
        handler = SyslogHandler(("no-such-host.invalid", 514))
        assert handler.check().startswith("no-such-host.invalid:514 cannot be reached: ")
        assert (
            SyslogHandler("/no/such/socket").check() == "/no/such/socket cannot be reached: No such file or directory"
        )
        assert SyslogHandler(("127.0.0.1", 514)).check() is None
