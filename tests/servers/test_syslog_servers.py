"""`SyslogHandler` against a real rsyslog and a real syslog-ng: what they have understood is what was logged."""

from __future__ import annotations

import io
import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import TracerProvider

from syslog_servers import SyslogServer
from ts_otel_logging import BridgeHandler
from ts_otel_logging._sink_thread import SinkThread
from ts_otel_logging.sinks import SyslogHandler

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACER = TracerProvider().get_tracer("test")
TRANSPORTS = ["udp", "tcp", "tls", "datagrams", "stream"]


@pytest.fixture(scope="module", params=["rsyslog", "syslog-ng"])
def running_server(request: pytest.FixtureRequest) -> Iterator[SyslogServer]:
    with tempfile.TemporaryDirectory(prefix="syslog-") as folder:
        server = SyslogServer(request.param, Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def server(running_server: SyslogServer) -> SyslogServer:
    running_server.forget()
    return running_server


@pytest.mark.parametrize("transport", TRANSPORTS)
class TestEveryTransport:
    def test_every_field_arrives_the_trace_ids_as_structured_data(
        self, server: SyslogServer, transport: str, logger: logging.Logger
    ) -> None:
        logger.addHandler(SyslogHandler(facility="local3", **server.handler_arguments(transport)))
        with TRACER.start_as_current_span("predict") as span:
            record = logger.makeRecord("acme.model", logging.WARNING, "", 0, 'low "confidence" [%d]', (3,), None)
            record.created = 1_700_000_000.123456
            logger.handle(record)
        [message] = server.messages(1)
        context = span.get_span_context()
        assert message.pop("time").startswith("2023-11-14T22:13:20.123456")
        assert message == {
            "pri": 19 * 8 + 4, "hostname": socket.gethostname(), "app_name": "torchserve", "process": str(os.getpid()),
            "msgid": "acme.model", "message": 'low "confidence" [3]', "trace_flags": f"{context.trace_flags:02x}",
            "trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}",
        }  # fmt: skip

    def test_outside_a_span_there_is_no_structured_data(
        self, server: SyslogServer, transport: str, logger: logging.Logger
    ) -> None:
        logger.addHandler(SyslogHandler(**server.handler_arguments(transport)))
        logger.info("ready")
        [message] = server.messages(1)
        assert (message["message"], message["trace_id"], message["span_id"]) == ("ready", "", "")

    def test_other_alphabets_and_several_lines_are_one_message(
        self, server: SyslogServer, transport: str, logger: logging.Logger
    ) -> None:
        logger.addHandler(SyslogHandler(**server.handler_arguments(transport)))
        logger.info("Größe → 大\nsecond")
        logger.info("after")
        first, second = server.messages(2)
        assert first["message"].replace("#012", "\n") == "Größe → 大\nsecond"
        assert second["message"] == "after"

    def test_a_long_record_is_cut_between_characters_and_marked(
        self, server: SyslogServer, transport: str, logger: logging.Logger
    ) -> None:
        logger.addHandler(SyslogHandler(max_message_bytes=1_000, **server.handler_arguments(transport)))
        logger.info("é" * 5_000)
        [message] = server.messages(1)
        assert set(message["message"]) == {"é", "…"}
        assert message["message"].endswith("é…")
        assert 800 < len(message["message"].encode()) < 1_000


@pytest.mark.parametrize("transport", ["tcp", "tls", "datagrams", "stream"])
def test_behind_the_queue_a_server_that_was_away_gets_everything(
    server: SyslogServer, transport: str, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = SinkThread()
    thread.set_sinks({"to_syslog": SyslogHandler(**server.handler_arguments(transport))})
    bridge = BridgeHandler(stream=io.StringIO())
    bridge.add_output(thread)
    logger.addHandler(bridge)
    logger.info("before")
    server.messages(1)
    server.stop()
    for number in range(200):
        logger.info("away %d", number)
    server.start()
    for number in range(200):
        logger.info("back %d", number)
    wanted = ["before", *(f"away {number}" for number in range(200)), *(f"back {number}" for number in range(200))]
    assert [message["message"] for message in server.messages(401)] == wanted
    assert thread.shutdown(10)
