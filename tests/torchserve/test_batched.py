"""Batches of several requests on a real TorchServe: what clients get, and what the receiver gets."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import console_lines
import pytest
from torchserve_server import Model

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from telemetry import Span, Telemetry
    from torchserve_server import TorchServe

pytestmark = pytest.mark.torchserve

# Full long before the delay is over: each of its requests is sent at once.
DELAY_MILLISECONDS = 10_000
SIZES = {4: Model("four", "batched.py"), 64: Model("sixtyfour", "batched.py")}
PHASE_NAMES = ["inference", "postprocess", "preprocess"]


@dataclass(frozen=True)
class Request:
    """One member: every fourth is not sampled by its caller, and every other one has none."""

    number: int
    trace_id: str

    @property
    def has_caller(self) -> bool:
        return self.number % 2 == 0

    @property
    def is_sampled(self) -> bool:
        return self.number % 4 != 2

    @property
    def headers(self) -> dict[str, str]:
        if not self.has_caller:
            return {}
        return {"traceparent": f"00-{self.trace_id}-{secrets.token_hex(8)}-{self.is_sampled:02x}"}


@dataclass(frozen=True)
class Exchange:
    """A batch, its answers, its own span and its members' by number."""

    requests: list[Request]
    answers: list[httpx.Response]
    batch: Span
    members: dict[int, Span]
    lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def ours(server: TorchServe) -> Iterator[TorchServe]:
    models = [
        model._replace(batch_size=size, max_batch_delay_milliseconds=DELAY_MILLISECONDS)
        for size, model in SIZES.items()
    ]
    with server.serving(*models):
        yield server


@pytest.fixture(scope="module", params=SIZES)
def exchange(ours: TorchServe, telemetry: Telemetry, request: pytest.FixtureRequest) -> Exchange:
    size: int = request.param
    name = SIZES[size].name
    requests = [Request(number, secrets.token_hex(16)) for number in range(size)]
    since = ours.console_size_bytes()

    def send(one: Request) -> httpx.Response:
        body = {"number": one.number, **({"code": 500} if one.number == 1 else {})}
        return ours.predict(name, body, one.headers)

    with ThreadPoolExecutor(max_workers=size) as pool:
        answers = list(pool.map(send, requests))
    ids = {answer.headers["x-request-id"]: number for number, answer in enumerate(answers)}

    def found() -> tuple[Span, dict[int, Span]] | None:
        spans = [span for span in telemetry.all_spans() if span.attributes.get("torchserve.model.name") == name]
        batches = [span for span in spans if span.name == f"batch {name}"]
        members = {
            ids[span.attributes["torchserve.request.id"]]: span for span in spans if span.name == f"predict {name}"
        }
        return (batches[0], members) if batches and len(members) == sum(one.is_sampled for one in requests) else None

    batch, members = telemetry.wait_for(found)
    lines = ours.wait_for_lines(lambda line: '"one of it"' in line, size, "a line of each member", since)
    whole = ours.wait_for_line(lambda line: '"whole batch"' in line, "the batch's line", since)
    return Exchange(requests, answers, batch, members, [console_lines.parse(line) for line in [whole, *lines]])


def below(telemetry: Telemetry, span: Span, *names: str) -> list[Span]:
    """A span's children, once those of these names are there."""

    def found() -> list[Span] | None:
        children = [child for child in telemetry.spans(span.trace_id) if child.parent_span_id == span.span_id]
        return children if {child.name for child in children} >= set(names) else None

    return telemetry.wait_for(found)


class TestBatches:
    def test_each_client_gets_its_own_answer(self, exchange: Exchange) -> None:
        assert [answer.status_code for answer in exchange.answers] == [
            500 if one.number == 1 else 200 for one in exchange.requests
        ]
        assert [answer.text for answer in exchange.answers] == [str(one.number) for one in exchange.requests]

    def test_the_batch_is_one_root_linked_to_every_member(self, exchange: Exchange) -> None:
        batch = exchange.batch
        assert (batch.parent_span_id, batch.kind) == ("", "INTERNAL")
        assert batch.attributes["torchserve.batch.size"] == len(exchange.requests)
        assert [link.attributes["torchserve.batch.index"] for link in batch.links] == list(
            range(len(exchange.requests))
        )
        linked = {link.attributes["torchserve.request.id"]: link for link in batch.links}
        assert set(linked) == {answer.headers["x-request-id"] for answer in exchange.answers}
        for number, member in exchange.members.items():
            link = linked[exchange.answers[number].headers["x-request-id"]]
            assert (link.trace_id, link.span_id) == (member.trace_id, member.span_id)
            assert [(back.trace_id, back.span_id) for back in member.links] == [(batch.trace_id, batch.span_id)]

    def test_each_member_is_in_its_callers_trace_and_unsampled_ones_nowhere(
        self, exchange: Exchange, telemetry: Telemetry
    ) -> None:
        for one in exchange.requests:
            if not one.is_sampled:
                assert telemetry.spans(one.trace_id) == []
            elif one.has_caller:
                assert exchange.members[one.number].trace_id == one.trace_id
            else:
                assert exchange.members[one.number].parent_span_id == ""
        assert len({member.trace_id for member in exchange.members.values()}) == len(exchange.members)

    def test_members_share_the_phases_at_the_same_times(self, exchange: Exchange, telemetry: Telemetry) -> None:
        live = sorted(below(telemetry, exchange.batch, *PHASE_NAMES), key=lambda span: span.name)
        assert [span.name for span in live] == PHASE_NAMES
        for member in exchange.members.values():
            children = below(telemetry, member, *PHASE_NAMES, "tokenize")
            copies = sorted((child for child in children if child.name != "tokenize"), key=lambda span: span.name)
            assert [(copy.name, copy.start_ns, copy.end_ns) for copy in copies] == [
                (span.name, span.start_ns, span.end_ns) for span in live
            ]
            assert all(copy.attributes == {"torchserve.batch.shared": True} for copy in copies)

    def test_a_code_of_one_member_is_that_members(self, exchange: Exchange) -> None:
        assert (exchange.batch.status, exchange.members[0].status) == ("UNSET", "UNSET")
        assert (exchange.members[1].status, exchange.members[1].attributes["error.type"]) == ("ERROR", "500")

    def test_lines_name_all_members_or_in_a_scope_the_one(self, exchange: Exchange) -> None:
        whole, *ones = exchange.lines
        ids = [link.attributes["torchserve.request.id"] for link in exchange.batch.links]
        assert whole["request_ids"] == ids
        assert whole["trace_ids"] == [link.trace_id for link in exchange.batch.links]
        assert whole["trace_id"] == exchange.batch.trace_id
        by_number = {line["number"]: line for line in ones}
        for one in exchange.requests:
            line = by_number[one.number]
            assert line["request_id"] == exchange.answers[one.number].headers["x-request-id"]
            if one.has_caller:
                assert line["trace_id"] == one.trace_id
                assert int(line["trace_flags"], 16) & 1 == one.is_sampled
