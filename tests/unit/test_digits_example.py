"""The example's handler and client, each without a TorchServe."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import sys
import warnings
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving import serving

DIGITS = Path(__file__).parent.parent.parent / "examples" / "digits"
BLANK = [[0] * 8] * 8
INK = [[16] * 8] * 8


def load_module(name):
    spec = importlib.util.spec_from_file_location(f"digits_{name}", DIGITS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def handler():
    with warnings.catch_warnings():
        # Importing torch and TorchServe warns of many things that are not ours.
        warnings.simplefilter("ignore")
        handler = load_module("handler").DigitsHandler()
        handler.model = load_module("model").DigitsNet().eval()
        handler.device = "cpu"
    return handler


def run(handler, body):
    return handler.postprocess(handler.inference(handler.preprocess([{"body": body}])))


class TestHandler:
    def test_an_answer_is_a_digit_and_a_confidence(self, handler):
        [answer] = run(handler, {"pixels": INK})
        assert sorted(answer) == ["confidence", "digit"]
        assert answer["digit"] in range(10)
        assert 0 < answer["confidence"] <= 1

    def test_json_that_torchserve_did_not_decode_is_read_too(self, handler):
        assert run(handler, json.dumps({"pixels": INK}).encode()) == run(handler, {"pixels": INK})

    def test_the_latency_is_reported_in_seconds_beside_the_answer(self, handler, caplog):
        with caplog.at_level(logging.INFO):
            [answer] = run(handler, {"pixels": INK})
        [record] = [record for record in caplog.records if record.getMessage() == "Inference complete"]
        assert 0 < record.inference_latency < 10
        assert (record.digit, record.confidence) == (answer["digit"], answer["confidence"])

    def test_a_blank_image_and_a_low_confidence_are_warnings(self, handler, caplog):
        run(handler, {"pixels": BLANK})  # an untrained network is never sure
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warned == ["Blank image", "Low confidence"]

    @pytest.mark.parametrize(
        "body",
        [
            None,
            b'{"pixels": ',
            b"\xff",
            "seven",
            [],
            {"picture": "seven"},
            {"pixels": "seven"},
            {"pixels": [[1, 2], [3]]},
        ],
    )
    def test_a_malformed_body_is_the_clients_error(self, handler, body):
        with pytest.raises(Exception, match="expected") as caught:
            run(handler, body)
        assert caught.value.error_code == 400

    def test_an_image_of_another_size_fails_in_the_network(self, handler):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            run(handler, {"pixels": [[8] * 10] * 8})


@contextmanager
def server(answer):
    """A server that answers each body with ``answer(body)``: status and JSON; what it received."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            received.append((body, dict(self.headers)))
            status, document = answer(body)
            payload = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(http):
        yield f"http://127.0.0.1:{http.server_port}/predictions/digits", received


@pytest.fixture(scope="module")
def labels():
    """The right answer to each test image, as the client's file of data has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, images, _, labels = load_module("digits_data").load_split()
    return {json.dumps(image.tolist()): int(label) for image, label in zip(images, labels)}


class TestClient:
    @pytest.fixture
    def run_client(self, labels, monkeypatch, capsys):
        """Run the command in this process: exit status, stdout, stderr."""
        assert labels, "scikit-learn is imported, which takes seconds and warns of things that are not ours"
        monkeypatch.syspath_prepend(DIGITS)
        client = load_module("client")

        def run_client(url, *options):
            monkeypatch.setattr(sys, "argv", ["client.py", "--url", url, *options])
            return (client.main(), *capsys.readouterr())

        return run_client

    @pytest.fixture
    def answer(self, labels):
        """What a perfect server answers."""

        def answer(body):
            if "pixels" not in body:
                return 400, {"code": 400}
            if len(body["pixels"][0]) != 8:
                return 503, {"code": 503}
            return 200, {"digit": labels.get(json.dumps(body["pixels"]), 0), "confidence": 0.9}

        return answer

    def test_the_expected_answers_end_it_with_0(self, run_client, answer):
        with server(answer) as (url, received):
            status, output, _ = run_client(url, "--count", "3", "--json")
        assert status == 0
        document = json.loads(output)
        assert document["expected"] is True
        assert [result["status"] for result in document["results"]] == [200, 200, 200, 200, 400, 503]
        digits = [(result["digit"], result["expected_digit"]) for result in document["results"][:3]]
        assert all(digit == expected for digit, expected in digits)
        assert len(received) == 6

    def test_every_request_has_a_trace_and_an_id_of_its_own(self, run_client, answer):
        with server(answer) as (url, received):
            _, output, _ = run_client(url, "--count", "2", "--json")
        results = json.loads(output)["results"]
        traceparents = [headers["traceparent"] for _, headers in received]
        assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", traceparent) for traceparent in traceparents)
        assert [traceparent.split("-")[1] for traceparent in traceparents] == [result["trace_id"] for result in results]
        assert [headers["x-request-id"] for _, headers in received] == [result["request_id"] for result in results]
        assert len({result["trace_id"] for result in results} | {result["request_id"] for result in results}) == 10

    def test_the_table_has_a_line_for_each_request(self, run_client, answer):
        with server(answer) as (url, received):
            _, output, _ = run_client(url, "--count", "1")
        table = output.splitlines()
        assert len(table) == 1 + len(received)
        assert [row.split()[-3] for row in table[1:]] == ["200", "200", "400", "503"]

    def test_a_wrong_status_ends_it_with_1(self, run_client):
        with server(lambda _: (200, {"digit": 0, "confidence": 0.9})) as (url, _):
            status, _, errors = run_client(url, "--count", "0")
        assert (status, errors) == (1, "These are not the expected answers.\n")

    def test_one_misread_digit_in_ten_is_expected_and_two_are_not(self, run_client, answer):
        def misreading(count):
            left = iter(range(count))

            def answer_wrongly(body):
                status, document = answer(body)
                if status == 200 and any(map(any, body["pixels"])) and next(left, None) is not None:
                    document["digit"] = (document["digit"] + 1) % 10
                return status, document

            return answer_wrongly

        for misread, expected in (1, 0), (2, 1):
            with server(misreading(misread)) as (url, _):
                status, _, _ = run_client(url, "--count", "10")
            assert status == expected

    def test_no_server_ends_it_with_2_and_a_plain_message(self, run_client):
        with server(lambda _: (200, {})) as (url, _):
            pass
        status, _, errors = run_client(url, "--count", "0")
        assert status == 2
        assert errors.startswith(f"{url}: ")
