"""OTLP over HTTP: TLS, proxies, credentials, time-outs, and connections that are kept."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import ssl
import termios
from fcntl import ioctl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
from opentelemetry.metrics import Observation

from otlp_receiver import Answer, OtlpReceiver, unused_endpoint
from sdk_room import room
from serving import serving
from syslog_servers import write_certificates
from ts_otel_logging._sdk import _http_connection
from ts_otel_logging._sdk._http_connection import HttpConnection, TlsFiles, proxy_for

SPANS_ONLY = {"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}


@pytest.fixture
def receiver():
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def send_a_span(endpoint, **environ):
    """Return the reasons of what failed."""
    with room({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **SPANS_ONLY, **environ}, shutdown_seconds=0) as sdk:
        sdk.span()
        sdk.flush()
        return [report.fields["reason"] for report in sdk.reports]


class TestTls:
    @pytest.fixture
    def context(self, tmp_path):
        write_certificates(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
        return context

    @pytest.fixture
    def trusted(self, tmp_path):
        return {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem")}

    def test_a_receiver_whose_certificate_is_trusted_gets_spans(self, context, trusted):
        with OtlpReceiver(context) as receiver:
            assert send_a_span(receiver.http_endpoint, **trusted) == []
            assert len(receiver.spans) == 1

    def test_a_kept_connection_that_the_receiver_closed_is_no_failure(self, context, trusted):
        with OtlpReceiver(context) as receiver:
            environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, **trusted, **SPANS_ONLY}
            with room(environ) as sdk:
                sdk.span()
                assert sdk.flush()
                receiver.script(Answer(reset=True))
                sdk.span()
                assert sdk.flush()
                assert sdk.reports == []
            assert len(receiver.spans) == 2

    def test_one_that_is_not_trusted_gets_nothing_and_the_batch_waits(self, context):
        with OtlpReceiver(context) as receiver:
            [reason] = send_a_span(receiver.http_endpoint)
            assert "certificate verify failed" in reason.lower().replace("_", " ")
            assert receiver.requests == []

    def test_a_file_that_is_missing_is_told(self, context, tmp_path):
        with OtlpReceiver(context) as receiver:
            [reason] = send_a_span(receiver.http_endpoint, OTEL_EXPORTER_OTLP_CERTIFICATE=str(tmp_path / "no.pem"))
        assert "No such file" in reason

    def test_files_that_were_renewed_are_taken_once_the_old_ones_fail(self, context, tmp_path):
        before = tmp_path / "before"
        before.mkdir()
        write_certificates(before)
        named = before / "ca.pem"
        with OtlpReceiver(context) as receiver:
            environ = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
                "OTEL_EXPORTER_OTLP_CERTIFICATE": str(named),
            }
            with room({**environ, **SPANS_ONLY}) as sdk:
                sdk.span()
                assert not sdk.flush()
                named.write_bytes((tmp_path / "ca.pem").read_bytes())
                assert sdk.flush()
            assert len(receiver.spans) == 1

    def test_the_bundle_that_requests_would_trust_holds(self, context, tmp_path, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        with OtlpReceiver(context) as receiver:
            assert send_a_span(receiver.http_endpoint) == []

    def test_a_receiver_may_ask_for_the_clients_certificate(self, context, trusted, tmp_path):
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tmp_path / "ca.pem")
        shown = {
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE": str(tmp_path / "server.pem"),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "server.key"),
        }
        with OtlpReceiver(context) as receiver:
            assert len(send_a_span(receiver.http_endpoint, **trusted)) == 1
            assert send_a_span(receiver.http_endpoint, **trusted, **shown) == []
            assert len(receiver.spans) == 1

    def test_the_time_is_that_of_the_whole_answer_not_of_each_byte(self, context, tmp_path):
        tls = TlsFiles(str(tmp_path / "ca.pem"))
        with dripping(b"HTTP/1.1 200 OK\r\nX-Slow: ", context) as (endpoint, ended):
            with pytest.raises(socket.timeout):
                HttpConnection(endpoint, {}, tls).post(b"", timeout_seconds=1)
            assert not ended.is_set()

    @pytest.mark.usefixtures("no_proxies")
    def test_a_proxy_gives_a_tunnel_to_it(self, context, trusted, monkeypatch):
        with OtlpReceiver(context) as receiver, tunnel_to(receiver) as (proxy, asked):
            monkeypatch.setenv("HTTPS_PROXY", proxy.replace("://", "://user:p%40ss@"))
            assert send_a_span("https://collector.invalid:4318", **trusted) == []
            assert len(receiver.spans) == 1
        assert asked == [("collector.invalid:4318", "Basic dXNlcjpwQHNz")]


@contextlib.contextmanager
def answering(answer, context=None):
    """Yield the URL of a receiver that answers each request by a function of its handler."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}"


@contextlib.contextmanager
def dripping(written, context=None):
    """Yield the URL of a receiver that writes this, then a byte now and then, and whether it came to an end."""
    is_over, ended = Event(), Event()

    def answer(handler):
        handler.wfile.write(written)
        with contextlib.suppress(OSError):
            for _ in range(1_000):
                handler.wfile.write(b".")
                if is_over.wait(0.02):
                    break
            else:
                ended.set()
        handler.close_connection = True

    with answering(answer, context) as endpoint:
        try:
            yield endpoint, ended
        finally:
            is_over.set()


@contextlib.contextmanager
def tunnel_to(receiver):
    """A proxy that knows one place, and what it was asked for."""
    port = int(receiver.http_endpoint.rpartition(":")[2])
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self):
            asked.append((self.path, self.headers["Proxy-Authorization"]))
            with socket.create_connection(("127.0.0.1", port)) as there:
                self.send_response(200)
                self.end_headers()
                ends = {self.connection: there, there: self.connection}
                while all(self._carried(end, ends[end]) for end in select.select(list(ends), [], [])[0]):
                    pass
            self.close_connection = True

        @staticmethod
        def _carried(end, other):
            data = end.recv(65_536)
            other.sendall(data)
            return bool(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}", asked


@pytest.mark.usefixtures("no_proxies")
class TestProxies:
    @pytest.mark.parametrize(
        ("no_proxy", "goes_direct"),
        [
            ("", False),
            ("10.0.0.0/8", True),
            ("192.168.0.0/16, 10.1.2.3", True),
            ("10.1.0.0/33,nonsense", False),
            ("*", True),
        ],
    )
    def test_no_proxy_may_name_networks(self, no_proxy, goes_direct, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        assert (proxy_for("http://10.1.2.3:4318/v1/traces") is None) is goes_direct

    def test_a_name_is_in_no_network(self, monkeypatch):
        monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
        monkeypatch.setenv("NO_PROXY", "0.0.0.0/0")
        assert proxy_for("https://collector:4318").hostname == "proxy.example"

    @pytest.mark.parametrize("proxy", ["http://[", "http://user:s3cr3t@proxy:99999", "http://:3128", "proxy:port"])
    @pytest.mark.parametrize(
        ("variable", "endpoint"),
        [
            ("HTTP_PROXY", "http://collector.invalid:4318"),
            ("https_proxy", "https://collector.invalid:4318"),
            ("ALL_PROXY", "http://collector.invalid:4318"),
        ],
    )
    def test_one_that_is_none_is_told_by_its_variable(self, variable, endpoint, proxy, monkeypatch):
        monkeypatch.setenv(variable, proxy)
        with room({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **SPANS_ONLY}) as sdk:
            [report] = sdk.reports
        assert report.event == "exporter off"
        assert report.fields["reason"] == f"ValueError: {variable}: accepted is a URL like http://proxy:3128"

    def test_a_proxy_gets_its_password_and_the_receiver_its_own(self, receiver, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", receiver.http_endpoint.replace("://", "://user:p%40ss@"))
        send_a_span("http://me:hunter2@collector.invalid:4318/a%20b c?x=1")
        [request] = receiver.requests
        assert request.signal == "http://collector.invalid:4318/a%20b%20c?x=1/v1/traces"
        assert request.headers["host"] == "collector.invalid:4318"
        assert request.headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"
        assert request.headers["authorization"] == "Basic bWU6aHVudGVyMg=="

    def test_a_kind_that_ours_does_not_speak_is_the_stock_exporters(self, receiver, monkeypatch, caplog):
        caplog.set_level(10)
        # The receiver speaks no TLS.
        monkeypatch.setenv("HTTP_PROXY", receiver.http_endpoint.replace("http:", "https:"))
        [reason] = send_a_span("http://collector.invalid:4318", OTEL_EXPORTER_OTLP_TIMEOUT="0.2")
        assert reason.startswith(("Failed to export", "Transient error"))
        # What its HTTP client says about each request would be exported by the next one.
        assert [record for record in caplog.records if record.name.startswith("urllib3")] == []


class TestRequests:
    def test_the_headers_of_the_settings_win(self, receiver):
        headers = "user-agent=mine,authorization=Bearer%20t%C3%B6ken"
        send_a_span(
            receiver.http_endpoint.replace("://", "://me:hunter2@"),
            OTEL_EXPORTER_OTLP_HEADERS="user-agent=another",
            OTEL_EXPORTER_OTLP_TRACES_HEADERS=headers,
        )
        sent = receiver.requests[0].headers
        assert sent["user-agent"] == "mine"
        assert sent["authorization"].encode("latin-1").decode() == "Bearer t\N{LATIN SMALL LETTER O WITH DIAERESIS}ken"
        assert sent["content-type"] == "application/x-protobuf"

    def test_one_with_a_line_break_is_told_without_its_value_and_nothing_is_sent(self, receiver):
        headers = "x-team=s3cr3t%0Avalue"
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, "OTEL_EXPORTER_OTLP_HEADERS": headers}
        with room({**environ, **SPANS_ONLY}) as sdk:
            sdk.span()
            sdk.flush()
            [report] = sdk.reports
        assert report.event == "exporter off"
        assert report.fields["reason"] == "ValueError: header x-team: accepted is a value of one line"

    def test_the_user_agent_says_who_sends(self, receiver):
        send_a_span(receiver.http_endpoint)
        assert receiver.requests[0].headers["user-agent"].startswith("ts-otel-logging/")

    def test_a_receiver_that_hangs_is_waited_for_as_long_as_the_setting_says(self, receiver):
        receiver.default_answer = Answer(hang=True)
        assert send_a_span(receiver.http_endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="0.05") == ["TimeoutError: timed out"]

    def test_a_name_that_does_not_exist_is_told(self):
        [reason] = send_a_span("http://collector.invalid:4318", OTEL_EXPORTER_OTLP_TIMEOUT="5")
        assert reason.startswith("gaierror: ")

    def test_one_connection_serves_all_batches_until_the_receiver_ends_it(self, receiver):
        connections = []
        accept = receiver._http.get_request
        receiver._http.get_request = lambda: connections.append(accept()) or connections[-1]
        receiver.script(Answer(), Answer(), Answer(headers={"Connection": "close"}))
        with room({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, **SPANS_ONLY}) as sdk:
            for expected in (1, 1, 1, 2):
                sdk.span()
                assert sdk.flush()
                assert len(connections) == expected
        assert len(receiver.spans) == 4

    def test_an_answer_before_the_whole_request_counts(self):
        def answer(handler):
            handler.send_error(413)
            # It has read nothing of the body: the rest of it meets a connection that is gone.
            handler.close_connection = True

        with answering(answer) as endpoint:
            assert HttpConnection(endpoint, {}).post(bytes(8_000_000), timeout_seconds=10).status == 413

    def test_an_answer_without_an_end_is_not_waited_for(self, monkeypatch):
        # The time is over after a few reads of the body, and never before the headers are there.
        looks = itertools.count()
        clock = SimpleNamespace(monotonic=lambda: 0.0 if next(looks) < 20 else 60.0)
        monkeypatch.setattr(_http_connection, "time", clock)
        with dripping(b"HTTP/1.1 200 OK\r\n\r\n") as (endpoint, ended):
            assert HttpConnection(endpoint, {}).post(b"", timeout_seconds=30) == (200, "OK", ANY, b"")
            assert not ended.is_set()

    @pytest.mark.parametrize("written", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: "], ids=["status", "headers"])
    def test_the_time_is_that_of_the_whole_answer_not_of_each_byte(self, written):
        with dripping(written) as (endpoint, ended):
            with pytest.raises(socket.timeout):
                HttpConnection(endpoint, {}).post(b"", timeout_seconds=0.1)
            assert not ended.is_set()

    def test_informational_answers_come_before_the_answer(self):
        def answer(handler):
            handler.rfile.read(int(handler.headers["Content-Length"]))
            handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
            handler.send_response(429)
            handler.send_header("Content-Length", "4")
            handler.end_headers()
            handler.wfile.write(b"slow")

        with answering(answer) as endpoint:
            connection = HttpConnection(endpoint, {})
            for _ in range(2):
                answered = connection.post(b"batch", timeout_seconds=10)
                assert (answered.status, answered.headers["Link"], answered.body) == (429, None, b"slow")
            connection.close()

    def test_what_comes_on_an_idle_connection_is_no_answer(self):
        told, bodies = Event(), []

        def answer(handler):
            bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
            handler.send_response(200)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            if len(bodies) == 1:
                handler.send_error(408)
                # Until it is there.
                while any(ioctl(handler.connection, termios.TIOCOUTQ, bytes(4))):
                    pass
                told.set()

        with answering(answer) as endpoint:
            connection = HttpConnection(endpoint, {})
            assert connection.post(b"first", timeout_seconds=10).status == 200
            assert told.wait(10)
            assert connection.post(b"second", timeout_seconds=10).status == 200
            connection.close()
        assert bodies == [b"first", b"second"]

    def test_an_endpoint_that_is_no_url_is_told_and_off(self):
        with room({"OTEL_EXPORTER_OTLP_ENDPOINT": unused_endpoint().replace("http", "ftp"), **SPANS_ONLY}) as sdk:
            [report] = sdk.reports
        assert report.event == "exporter off"
        assert "accepted over HTTP is a URL like" in report.fields["reason"]


@pytest.mark.parametrize(
    ("preference", "sums", "counts"), [("delta", 1, 1), ("lowmemory", 2, 1), ("cumulative", 2, 2), ("", 2, 2)]
)
def test_temporality_is_as_the_setting_says(receiver, preference, sums, counts):
    environ = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference}
    with room({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, **environ}) as sdk:
        total = itertools.count(1)
        sdk.providers.meter_provider.get_meter("test").create_observable_counter(
            "test.total", [lambda _options: [Observation(next(total))]]
        )
        for _ in range(2):
            sdk.measure()
            assert sdk.flush()
        last = {item.metric.name: item.metric for item in receiver.metrics}
    assert last["test.total"].sum.data_points[0].as_int == sums
    assert last["test.duration"].histogram.data_points[0].count == counts


def test_histograms_may_be_exponential(receiver):
    environ = {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"}
    with room({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, **environ}) as sdk:
        sdk.measure()
        assert sdk.flush()
        [metric] = [item.metric for item in receiver.metrics if item.metric.name == "test.duration"]
    assert metric.exponential_histogram.data_points[0].count == 1
