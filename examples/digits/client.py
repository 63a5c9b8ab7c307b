"""Send handwritten digits to TorchServe, each in a trace of its own: ``python client.py --count 10``.

After the digits come three requests that show the rest: a blank image, a malformed body that the handler refuses
(400), and an image of the wrong size that makes the handler fail (503). Exit status: 0 if the answers were the expected
ones (of the digits, one in ten may be misread), 1 if not, 2 if the server cannot be reached.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
import uuid
from dataclasses import asdict, dataclass

import httpx
from digits_data import load_split

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Request:
    """What is sent, and what should come back."""

    name: str
    body: dict
    expected_status: int = 200
    expected_digit: int | None = None


@dataclass(frozen=True)
class Result:
    """What came back; the two ids find the request in logs and traces."""

    name: str
    expected_status: int
    expected_digit: int | None
    status: int
    digit: int | None
    confidence: float | None
    milliseconds: float
    trace_id: str
    request_id: str


def requests_to_send(count):
    """The first ``count`` test images, which the network never saw in training, then the three special ones."""
    _, images, _, labels = load_split()
    digits = [
        Request(name=f"a {label}", body={"pixels": image.tolist()}, expected_digit=int(label))
        for image, label in zip(images[:count], labels[:count])
    ]
    return [
        *digits,
        Request(name="blank image", body={"pixels": [[0] * 8] * 8}),
        Request(name="malformed body", body={"picture": "seven"}, expected_status=400),
        Request(name="wrong size", body={"pixels": [[8] * 10] * 8}, expected_status=503),
    ]


def send(http, url, request):
    """One request under a caller's span of its own: https://www.w3.org/TR/trace-context/#traceparent-header."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    request_id = str(uuid.uuid4())
    headers = {"traceparent": f"00-{trace_id}-{span_id}-01", "x-request-id": request_id}
    start = time.perf_counter()
    response = http.post(url, json=request.body, headers=headers)
    milliseconds = (time.perf_counter() - start) * 1000
    answer = response.json() if response.is_success else {}
    return Result(
        name=request.name,
        expected_status=request.expected_status,
        expected_digit=request.expected_digit,
        status=response.status_code,
        digit=answer.get("digit"),
        confidence=answer.get("confidence"),
        milliseconds=round(milliseconds, 2),
        trace_id=trace_id,
        request_id=request_id,
    )


def send_all(url, count):
    """Results one by one, as the answers arrive."""
    with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as http:  # no proxy between us and a local server
        for request in requests_to_send(count):
            yield send(http, url, request)


def is_expected(results):
    """Whether every status is right and at most one digit in ten, rounded up, was misread."""
    digits = [result for result in results if result.expected_digit is not None]
    misread = sum(result.digit != result.expected_digit for result in digits)
    return all(result.status == result.expected_status for result in results) and misread * 10 < len(digits) + 10


def print_table(results):
    """One line a result, printed as it arrives; the results, as a list."""
    seen = []
    print(f"{'sent':<15} {'answer':>6} {'status':>6} {'ms':>8}  trace id")
    for result in results:
        answer = "-" if result.digit is None else result.digit
        row = f"{result.name:<15} {answer:>6} {result.status:>6} {result.milliseconds:>8.1f}  {result.trace_id}"
        print(row, flush=True)
        seen.append(result)
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080/predictions/digits", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=10, help="how many digits to send (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()

    results = send_all(arguments.url, arguments.count)
    try:
        results = list(results) if arguments.json else print_table(results)
    except httpx.TransportError as error:
        print(f"{arguments.url}: {error}", file=sys.stderr)
        return 2
    expected = is_expected(results)
    if arguments.json:
        print(json.dumps({"expected": expected, "results": [asdict(result) for result in results]}, indent=2))
    elif not expected:
        print("These are not the expected answers.", file=sys.stderr)
    return 0 if expected else 1


if __name__ == "__main__":
    sys.exit(main())
