"""Secrets do not leave: masked by their keys and by their look, in lines, log records, sinks and spans alike."""

from __future__ import annotations

import doctest
import json
import logging
import re
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from lines import Lines
from sdk_room import room
from ts_otel_logging import BridgeHandler, _config, _names, configure
from ts_otel_logging._redaction import (
    MASK,
    MAX_CHARACTERS,
    MODEL_TOKENS,
    OPTIONS,
    PASS_KINDS,
    QUALIFIERS,
    SECRET_NAMES,
    TEXT_PATTERNS,
    TOKEN_KINDS,
    Redaction,
    check_item,
    split_items,
)
from ts_otel_logging._values import MAX_CHARACTERS as MAX_SHOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

REDACTION = Redaction()
# In pieces, so that no scanner takes this file for a leak.
GITHUB = "ghp" + "_" + "a1B2" * 9
JWT = "ey" + "JhbGciOiJIUzI1NiJ9." + "ey" + "JzdWIiOiIxMjM0In0.c2lnbmF0dXJl"
PEM = "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE" + " KEY-----"
CARD = "4111 1111 1111 1111"

# For each kind of text: one, and what is left of it.
EXAMPLES = {
    "a private key's block, in PEM": [(f"key: {PEM}.", f"key: {MASK}.")],
    "the header `Authorization`, with its scheme": [
        ("Authorization: Digest abc, x", f"Authorization: {MASK}, x"),
        ('Authorization: Digest username="u", uri="/x y", response="s", x', f"Authorization: {MASK}, x"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=A/b/c, SignedHeaders=host;x, Signature=fe5f n=1",
         f"Authorization: {MASK} n=1"),
        ("{'authorization': 'Digest a=\"u\", response=\"s\"', 'n': 1}", f"{{'authorization': '{MASK}', 'n': 1}}"),
        ('{"authorization": ["Token s"], "n": 1}', f'{{"authorization": {MASK}, "n": 1}}'),
        ("{'authorization': 'secret words'}", f"{{'authorization': '{MASK}'}}"),
        ("b'proxy-authorization': b'abc'", f"b'proxy-authorization': b'{MASK}'"),
    ],
    "the headers `Cookie` and `Set-Cookie`, to the end of the line or of the quotes": [
        ("Set-Cookie: a=b; Path=/\nHost: x", f"Set-Cookie: {MASK}\nHost: x"),
        ('"cookie": "a=b; c=d", "host": "x"', f'"cookie": "{MASK}", "host": "x"'),
        ("cookies={'a': 'b'}, n=1", f"cookies={MASK}, n=1"),
        ('"cookie": ["a=b"], "n": 1', f'"cookie": {MASK}, "n": 1'),
    ],
    '`name=value`, `name: value` and `"name": "value"`, for names like password, secret, api_key, access_token': [
        ("login with password=hunter2 failed", f"login with password={MASK} failed"),
        ("dbPassword = 'two words', x", f"dbPassword = '{MASK}', x"),
        ('{"api_key": "a\\"b", "n": 1}', f'{{"api_key": "{MASK}", "n": 1}}'),
        ('body {\\"secret\\": \\"s\\", \\"n\\": 1}', f'body {{\\"secret\\": \\"{MASK}\\", \\"n\\": 1}}'),
        ("X-Api-Key: abc", f"X-Api-Key: {MASK}"),
        ("AWS_SECRET_ACCESS_KEY=a/b+c", f"AWS_SECRET_ACCESS_KEY={MASK}"),
        ("AccountKey=abc==;EndpointSuffix=x", f"AccountKey={MASK};EndpointSuffix=x"),
        ("Credentials(access_token='t', id=3)", f"Credentials(access_token='{MASK}', id=3)"),
        ("sessionid=abc&next=1", f"sessionid={MASK}&next=1"),
        ("pwd=x", f"pwd={MASK}"),
        ("{'password': ['s', \"t]\"], 'n': 1}", f"{{'password': {MASK}, 'n': 1}}"),
        ("{'user': 'u', 'password': ('s',)}", f"{{'user': 'u', 'password': {MASK}}}"),
        ('{"password":["s"],"n":1}', f'{{"password":{MASK},"n":1}}'),
        ("credentials={'a': 's'}, n=1", f"credentials={MASK}, n=1"),
        ('"secret": {\n  "a": "s"\n}, "n": 1', f'"secret": {MASK}, "n": 1'),
        ("api_keys=[['s'], 't'], n=1\nn=2", f"api_keys={MASK}\nn=2"),
        ("secrets=['s\\'', 't'], n=1\nn=2", f"secrets={MASK}\nn=2"),
        ("passwords=[s\nn=2", f"passwords={MASK}\nn=2"),
        ("pass phrase: s", f"pass phrase: {MASK}"),
    ],
    "`db_pass=value` and their like, `'pass': 'value'`": [
        ("DB_PASS=s smtpPass: s", f"DB_PASS={MASK} smtpPass: {MASK}"),
        ("env {'pass': ['s']}", f"env {{'pass': {MASK}}}"),
    ],
    "`token=value`, when the value has eight characters or more and a digit": [
        ("?token=abcdefg8", f"?token={MASK}"),
        ("hf_token: abc123def", f"hf_token: {MASK}"),
    ],
    "`password%3Dvalue`, for the same names": [
        ("q=user%3Da%26password%3Ds%20s&x=1", f"q=user%3Da%26password%3D{MASK}&x=1"),
        ("api_key%3as", f"api_key%3a{MASK}"),
    ],
    "`--password value`, for the same names and `token`": [
        ("run --db-password 'two words' --n 1", f"run --db-password '{MASK}' --n 1"),
        ("['x', '--hf_token', 's', '--n']", f"['x', '--hf_token', '{MASK}', '--n']"),
        ("--api-key s", f"--api-key {MASK}"),
    ],
    "the password in a URL, and what stands alone in its place in one of `http` or `https`": [
        ("clone https://s@git.example:443/x", f"clone https://{MASK}@git.example:443/x"),
        ("connect to postgres://user:p@ss:w@db:5432/x?y=1@z", f"connect to postgres://user:{MASK}@db:5432/x?y=1@z"),
        ("redis://:pw@host", f"redis://:{MASK}@host"),
    ],
    "the signature or key in a URL's query: `sig`, `signature`, `X-Amz-Signature`, `key` and their like": [
        ("GET https://s3.example/m.pt?X-Amz-Date=1&X-Amz-Signature=ab12&x=2",
         f"GET https://s3.example/m.pt?X-Amz-Date=1&X-Amz-Signature={MASK}&x=2"),
        ("https://maps.example/?key=abc", f"https://maps.example/?key={MASK}"),
    ],
    "credentials after `Bearer` or `Basic`": [
        ("sent Bearer abcDEF123456=", f"sent Bearer {MASK}"),
        ("['x', 'basic dXNlcjpwYXNz']", f"['x', 'basic {MASK}']"),
    ],
    "JSON Web Tokens": [(f"got {JWT}, fine", f"got {MASK}, fine")],
    "keys of AWS (`AKIA…`, `ASIA…`)": [("id AKIA" + "IOSFODNN7EXAMPLE.", f"id {MASK}.")],
    "keys of Google (`AIza…`, `ya29.…`, `GOCSPX-…`)": [
        ("AI" + "za" + "a1-_b" * 7, MASK), ("ya29" + ".a0AfH6SMBx1234567890", MASK), ("GOCSPX" + "-" + "x1" * 12, MASK),
    ],
    "tokens of GitHub and GitLab (`ghp_…`, `github_pat_…`, `glpat-…`)": [
        (f"clone with {GITHUB}", f"clone with {MASK}"), ("github" + "_pat_" + "11ABC_" * 5, MASK),
        ("glpat" + "-" + "abc12" * 4, MASK),
    ],
    "tokens of Slack (`xoxb-…`, `xapp-…`)": [("xoxb" + "-123456789-abcdef", MASK), ("xapp" + "-1-A1-22-abcdef", MASK)],
    "keys of OpenAI, Anthropic and others that begin with `sk-`; of Stripe (`sk_live_…`)": [
        ("sk" + "-proj-abcDEF123456789012345", MASK), ("sk" + "_live_" + "a1" * 12, MASK),
    ],
    "tokens of Hugging Face, PyPI, npm and logfire": [
        ("hf" + "_" + "aB1" * 11, MASK), ("pypi" + "-" + "AgEI1" * 12, MASK), ("npm" + "_" + "a1b2" * 9, MASK),
        ("pylf" + "_v1_us_" + "a1b2" * 8, MASK),
    ],
    "tokens of SendGrid and Databricks": [
        ("SG" + "." + "a1b2" * 5 + "." + "c3d4" * 10, MASK), ("dapi" + "0123456789abcdef" * 2, MASK),
    ],
}  # fmt: skip

HARMLESS = (
    "Inference complete",
    "Basic Authentication failed",
    "bearer authentication is off",
    "Unexpected token: <",
    "pad_token=12345678, eos-token: a1234567",
    "max_tokens=1234567890 token_count=12345678",
    "the password is wrong",
    "password == other",
    "def connect(password: str, token=None):",
    "KeyError: 'digit'",
    "http://127.0.0.1:8080/predictions/digits@1?x=1",
    "2026-11-21T10:31:57.103514Z took 12:30, 3.5 ms",
    "sk-learn-extensions-are-nice-things",
    "disk-0123456789012345678901234",
    "author: somebody, keys: 3, monkey=4",
    "a@b.example, 4111 1111 1111 1111",
    "forward pass: 3 ms, first pass=done, tests pass: 12, compass=north, bypass: on, pass=3",
    "run --max-tokens 512 --pad-token x --password --n 1 -- password",
    "50%3D of it, git clone ssh://git@git.example:22/x and mail to https://x/a@b",
)


class TestKeys:
    @pytest.mark.parametrize("key", [
        "password", "Password", "db_password", "dbPassword", "DB-PASSWORD", "db.password", "dbpassword", "passwords",
        "password2", "passwordHash", "user.passwd", "pwd", "secret", "clientSecret", "client_secrets", "token",
        "pass", "DB_PASS", "smtpPass", "dbpass", "pass_phrase",
        "accessToken", "X-Auth-Token", "access_tokens", "hf_token", "authorization", "Authorization",
        "http.request.header.authorization", "proxy-authorization", "auth_header", "api_key", "apikey", "x-api-key",
        "OPENAI_API_KEY", "apiKeys", "cookie", "Set-Cookie", "cookies", "sessionid", "PHPSESSID", "connect.sid",
        "aws_secret_access_key", "private_key", "privateKey", "credentials", "jwt", "X-CSRFToken", "_xsrf",
        b"authorization",
    ])  # fmt: skip
    def test_that_hide_their_values(self, key: Any) -> None:
        assert REDACTION.mapping({key: "x", "other": "x"}) == {key: MASK, "other": "x"}

    @pytest.mark.parametrize("key", [
        "token_count", "max_tokens", "tokens", "input_tokens", "token_type_ids", "tokenizer", "pad_token", "eosToken",
        "author", "authority", "authenticated", "password_length", "secretary", "key", "keys", "monkey", "compass",
        "forward_pass", "api_key_id", "cookie_policy", "session_id", "trace_id", "digit", "", 7, None, ("password",),
        "bypass", "passes",
    ])  # fmt: skip
    def test_that_do_not(self, key: Any) -> None:
        fields = {key: "x"}
        assert REDACTION.mapping(fields) is fields

    @pytest.mark.parametrize("value", ["x", 7, 0, 0.5, ["x"], {"user": "x"}, object()])
    def test_hide_a_value_of_any_kind(self, value: Any) -> None:
        assert REDACTION.mapping({"password": value}) == {"password": MASK}

    @pytest.mark.parametrize("value", [None, True, False, "", [], {}, [MASK], (MASK, MASK)])
    def test_tell_that_there_is_no_value_and_yes_and_no(self, value: Any) -> None:
        assert REDACTION.mapping({"password": value}) == {"password": value}

    def test_hide_at_any_depth_and_in_pairs(self) -> None:
        value = {"user": {"name": "x", "keys": [{"api_key": "x"}]}, "headers": [("Cookie", "x"), ("Host", "x")]}
        assert REDACTION.value(value) == {
            "user": {"name": "x", "keys": [{"api_key": MASK}]},
            "headers": [("Cookie", MASK), ("Host", "x")],
        }

    def test_a_value_too_deep_to_be_looked_through_is_masked(self) -> None:
        value: Any = "hunter2"
        for _ in range(1_000):
            value = {"inner": [value]}
        assert "hunter2" not in str(REDACTION.value(value))

    def test_memory_of_keys_and_texts_is_bounded(self) -> None:
        redaction = Redaction()
        for number in range(5_000):
            redaction.mapping({f"key {number}": f"text {number}", "x" * 300 + str(number): "y" * 300 + str(number)})
        assert len(redaction.hidden) <= 1_024
        assert len(redaction.clean) <= 1_024
        assert max(map(len, (*redaction.clean, *redaction.hidden))) <= 256


class TestTexts:
    @pytest.mark.parametrize(("text", "masked"), [example for examples in EXAMPLES.values() for example in examples])
    def test_that_look_like_secrets(self, text: str, masked: str) -> None:
        assert REDACTION.text(text) == masked
        assert REDACTION.text(f"é {text} \U0001f600") == f"é {masked} \U0001f600"
        assert REDACTION.text(masked) == masked, "a second time changes nothing"

    def test_every_kind_has_an_example_that_it_alone_masks(self) -> None:
        assert list(EXAMPLES) == [row.what for row in TEXT_PATTERNS]
        for row in TEXT_PATTERNS:
            for text, _ in EXAMPLES[row.what]:
                assert re.search(row.at + row.pattern, text), (row.what, text)

    @pytest.mark.parametrize("text", HARMLESS)
    def test_that_do_not(self, text: str) -> None:
        assert REDACTION.text(text) == text

    @given(st.text(max_size=80), st.sampled_from([text for examples in EXAMPLES.values() for text, _ in examples]))
    def test_what_stands_around_is_kept_or_masked_but_the_secret_goes(self, around: str, text: str) -> None:
        masked = REDACTION.text(f"{around}\n{text}\n{around}")
        assert MASK in masked

    def test_a_secret_that_the_longest_text_would_cut_is_not_half_there(self) -> None:
        for start in range(MAX_CHARACTERS - 60, MAX_CHARACTERS + 5, 7):
            text = REDACTION.text(("x" * start + " " + GITHUB).ljust(MAX_CHARACTERS * 2))
            assert len(text) <= MAX_CHARACTERS
            assert "ghp_" not in text
        # What was masked before it makes room for what lies behind the limit.
        room = f"password={'a' * 4_000} "
        for start in range(MAX_CHARACTERS + 900, MAX_CHARACTERS + 1_100, 7):
            text = REDACTION.text((room.ljust(start, "x") + " " + GITHUB).ljust(MAX_CHARACTERS * 2))
            assert "ghp" not in text
        assert MAX_CHARACTERS == MAX_SHOWN

    HOSTILE = (
        "eyJ", "eyJ-", "eyJaaaaaaaa.", "password", "password=", "password='", 'password="\\', "password=\\'",
        "token=", "token", "pad_token=", "authorization: ", "authorization", "cookie: {", "://", "://a:", "://a:b",
        "http://a:b@", "?sig=", "&key", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "bearer ", "bearer aaaaaaaa",
        "basic\t", "sk-", "sk-a_", "ghp_", "xoxb-", "ya29.", "SG.", "SG.aaaaaaaaaaaaaaaaaaaa.", "AKIA",
        "password=[", "password=[\n", "password=['", 'password=[""\n', "\"password=['", "secret=(a]b'\n", "cookie=(\n",
        "authorization: a=b, ", 'authorization="', "--", "--password\t", "password%3D", "https://a", "db_pass: ", "[",
        "a@", "a.", "a@a.", "1", "4 ", "4-", " ", "'", '"', "\\", "a", "=",
    )  # fmt: skip

    @pytest.mark.parametrize("unit", HOSTILE)
    def test_hostile_text_takes_time_in_proportion_to_its_length(self, unit: str) -> None:
        redaction = Redaction(["email", "card", "customer_id"])
        # Every pattern is looked for, and none of them finds the end that it needs.
        hints = " ".join(hint for row in TEXT_PATTERNS for hint in row.hints) + " customer = @ : . _ ? &"

        def seconds(length: int, repeats: int) -> float:
            text = unit * ((length - len(hints)) // len(unit)) + hints
            spent = []
            for _ in range(repeats):
                started = time.thread_time()
                redaction.text(text)
                spent.append(time.thread_time() - started)
            return min(spent)

        # Eight times the length: eight times the time if linear, sixty-four times if quadratic.
        assert seconds(64_000, 2) < 24 * seconds(8_000, 5)


class TestItems:
    def test_a_name_hides_a_key_by_the_same_rule_and_in_texts(self) -> None:
        redaction = Redaction(["customer_id"])
        fields = {"billingCustomerId": 7, "customer-ids": ["x"], "customer": "x", "m": "for customerId=7, x"}
        assert redaction.mapping(fields) == {
            "billingCustomerId": MASK, "customer-ids": MASK, "customer": "x", "m": f"for customerId={MASK}, x",
        }  # fmt: skip

    def test_a_regular_expression_masks_what_it_matches(self) -> None:
        assert Redaction([r"/ACME-(\d{3,})/"]).text("see ACME-12345 and ACME-1") == f"see {MASK} and ACME-1"

    def test_email_masks_addresses(self) -> None:
        assert Redaction(["email"]).text("to Jane.Doe+x@mail.example.com.") == f"to {MASK}."

    @pytest.mark.parametrize("number", [CARD, "4111111111111111", "378282246310005", "5555-5555-5555-4444"])
    def test_card_masks_numbers_of_cards(self, number: str) -> None:
        assert Redaction(["card"]).text(f"paid with {number}, thanks") == f"paid with {MASK}, thanks"

    def test_card_masks_a_number_that_is_no_text(self) -> None:
        assert Redaction(["card"]).value({"n": 4111111111111111, "m": 12}) == {"n": MASK, "m": 12}

    @pytest.mark.parametrize(
        "number", ["4111 1111 1111 1112", "1700000000123456789", "41111111111111111111111", "4111"]
    )
    def test_card_leaves_other_numbers(self, number: str) -> None:
        assert Redaction(["card"]).text(number) == number

    def test_options_are_off_without_their_item(self) -> None:
        for option in OPTIONS:
            assert Redaction([option]).text("a@b.example 4111111111111111") != REDACTION.text(
                "a@b.example 4111111111111111"
            )

    def test_tightened_adds_and_leaves_the_first_as_it_was(self) -> None:
        first = Redaction(["customer_id"])
        second = first.tightened(["email", "customer_id"])
        assert second.items == ("customer_id", "email")
        assert first.items == ("customer_id",)
        assert first.tightened(["customer_id"]) is first

    def test_a_list_is_split_at_commas_outside_of_expressions(self) -> None:
        assert split_items(r" customer_id ,/a{1,2}\/,b/, email,,/x/ ") == (
            "customer_id",
            r"/a{1,2}\/,b/",
            "email",
            "/x/",
        )

    @pytest.mark.parametrize("item", ["a b", "/[/", "/x*/", "", "*", "/(a/", "--", "/"])
    def test_one_that_cannot_be_used_is_told(self, item: str) -> None:
        assert check_item(item)
        with pytest.raises(ValueError, match="accepted is"):
            Redaction([item])


class TestSetting:
    def test_a_wrong_item_is_named_and_the_others_hold(self) -> None:
        settings = _config.load({"TS_OTEL_LOGGING_REDACT": "customer_id, /[/, email"})
        assert settings["REDACT"] == ("customer_id", "email")
        [problem] = settings.problems
        assert (problem.variable, problem.value) == ("TS_OTEL_LOGGING_REDACT", "/[/")
        assert "unterminated character set" in problem.accepted
        assert settings.origins["TS_OTEL_LOGGING_REDACT"] == "environment"

    def test_configure_says_which_item_is_wrong(self) -> None:
        with pytest.raises(ValueError, match=r"redact='/\[/'.*unterminated"):
            configure(redact=["email", "/[/"])


class Account(NamedTuple):
    user: str
    password: str


class Vault:
    def __repr__(self) -> str:
        return "Vault(password='hunter2')"


def log_everything(logger: logging.Logger) -> None:
    try:
        try:
            raise ConnectionError("no postgres://user:hunter2@db")  # noqa: TRY301
        except ConnectionError as error:
            raise ValueError("password=hunter2") from error
    except ValueError:
        logger.exception(
            "login with %s", {"password": "hunter2"}, stack_info=True,
            extra={
                "api_key": "hunter2", "vault": Vault(), "nested": {"a": [{"token": "hunter2", "n": 1}]}, "digit": 7,
                "url": "redis://:hunter2@host", "bytes": b"password=hunter2", "plain": {"a": [1]},
            },
        )  # fmt: skip


class TestEvents:
    def test_message_values_traceback_and_causes_are_masked_and_the_rest_is_kept(
        self, logger: logging.Logger, lines: Lines
    ) -> None:
        logger.addHandler(BridgeHandler(stream=lines))
        log_everything(logger)
        line = lines.last
        stacktrace = line["exception"].pop("stacktrace")
        assert line["event"] == f"login with {{'password': '{MASK}'}}"
        assert (line["api_key"], line["digit"], line["plain"]) == (MASK, 7, {"a": [1]})
        assert line["nested"] == {"a": [{"token": MASK, "n": 1}]}
        assert (line["vault"], line["url"]) == (f"Vault(password='{MASK}')", f"redis://:{MASK}@host")
        assert line["exception"]["message"] == f"password={MASK}"
        assert line["exception"]["causes"][0]["message"] == f"no postgres://user:{MASK}@db"
        assert "ConnectionError" in stacktrace
        assert "hunter2" not in lines.getvalue()

    def test_the_log_record_says_what_the_line_says(self, logger: logging.Logger, lines: Lines) -> None:
        exporter = InMemoryLogRecordExporter()
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        logger.addHandler(BridgeHandler(stream=lines, logger_provider=provider))
        log_everything(logger)
        [finished] = exporter.get_finished_logs()
        record, line = finished.log_record, lines.last
        attributes = dict(record.attributes)
        assert record.body == line["event"]
        for name in ("api_key", "vault", "nested", "url", "bytes", "digit", "stack_info"):
            assert json.loads(json.dumps(attributes[name])) == line[name]
        for name in ("type", "message", "stacktrace"):
            assert attributes[f"exception.{name}"] == line["exception"][name]
        assert "hunter2" not in repr(record)

    def test_sinks_get_the_masked_event_their_traceback_too(self, logger: logging.Logger, lines: Lines) -> None:
        class Sink(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append(f"{self.format(record)} {vars(record)}")

        seen: list[str] = []

        def drop_key(_logger: Any, _method: str, fields: dict[str, Any]) -> dict[str, Any]:
            del fields["api_key"]
            return fields

        logger.addHandler(logging.StreamHandler(Lines()))  # it formats the record first, and keeps the text there
        logger.addHandler(BridgeHandler(stream=lines, sinks=[Sink()], processors=[drop_key]))
        log_everything(logger)
        assert "Traceback" in seen[0]
        assert MASK in seen[0]
        assert "hunter2" not in seen[0]

    def test_processors_see_the_secret_and_what_they_add_is_masked(self, logger: logging.Logger, lines: Lines) -> None:
        seen: list[Any] = []

        def add(_logger: Any, _method: str, fields: dict[str, Any]) -> dict[str, Any]:
            seen.append(fields["api_key"])
            return {**fields, "event": "Bearer abcDEF123456", "cookie": "x", "more": {"pwd": "x"}}

        logger.addHandler(BridgeHandler(stream=lines, processors=[add], renderer=structlog.processors.JSONRenderer()))
        logger.info("x", extra={"api_key": "hunter2"})
        assert seen == ["hunter2"]
        line = lines.last
        assert (line["event"], line["cookie"], line["more"], line["api_key"]) == (
            f"Bearer {MASK}", MASK, {"pwd": MASK}, MASK,
        )  # fmt: skip

    def test_a_named_tuple_is_masked_by_its_fields(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(BridgeHandler(stream=lines))
        logger.info("x", extra={"account": Account("u", "hunter2"), "more": [Account("v", "hunter2")]})
        assert lines.last["account"] == {"user": "u", "password": MASK}
        assert lines.last["more"] == [{"user": "v", "password": MASK}]

    def test_the_record_itself_stays_as_it_was(self, logger: logging.Logger, lines: Lines) -> None:
        records: list[logging.LogRecord] = []
        logger.addHandler(BridgeHandler(stream=lines))
        logger.addFilter(lambda record: records.append(record) or True)
        value = {"password": "hunter2"}
        logger.info("%s", "password=hunter2", extra={"value": value})
        logger.filters.clear()
        assert records[0].getMessage() == "password=hunter2"
        assert value == {"password": "hunter2"}

    def test_more_is_masked_on_request(self, logger: logging.Logger, lines: Lines) -> None:
        logger.addHandler(BridgeHandler(stream=lines, redact=["customer_id", "card"]))
        logger.info("x", extra={"customerId": 7, "number": 4111111111111111, "other": 8})
        line = lines.last
        assert (line["customerId"], line["number"], line["other"]) == (MASK, MASK, 8)

    def test_the_line_of_last_resort_is_masked(self, logger: logging.Logger, lines: Lines, monkeypatch: Any) -> None:
        from ts_otel_logging import _bridge, _diagnostics

        def broken(_record: Any) -> None:
            raise RuntimeError

        monkeypatch.setattr(_diagnostics, "reraise", False)
        monkeypatch.setattr(_bridge, "Event", broken)
        logger.addHandler(BridgeHandler(stream=lines))
        logger.error("password=hunter2 is wrong")
        assert lines.objects[0]["event"] == f"password={MASK} is wrong"

    def test_what_could_not_be_looked_through_is_masked_whole(
        self, logger: logging.Logger, lines: Lines, monkeypatch: Any
    ) -> None:
        from ts_otel_logging import _diagnostics

        def broken(*_: Any) -> Any:
            raise RuntimeError

        monkeypatch.setattr(_diagnostics, "reraise", False)
        monkeypatch.setattr(Redaction, "value", broken)
        logger.addHandler(BridgeHandler(stream=lines))
        try:
            raise ValueError("hunter2")  # noqa: TRY301
        except ValueError:
            logger.exception("hunter2", extra={"a": {"b": "hunter2"}})
        line = lines.objects[0]
        assert (line["level"], line["event"], line["a"], line["exception"]) == ("error", MASK, MASK, MASK)
        assert "hunter2" not in lines.getvalue()


class TestExport:
    @pytest.fixture
    def exported(self, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
        environ = {f"OTEL_{signal}_EXPORTER": "otlp_json_file" for signal in ("TRACES", "LOGS")}
        with room({**environ, "OTEL_METRICS_EXPORTER": "none"}, file_dir=str(tmp_path)) as opened:

            def read() -> str:
                assert opened.flush()
                return "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))

            yield opened, read

    @pytest.mark.parametrize("scope", ["theirs", _names.SCOPE_NAME])
    def test_spans_are_masked_everywhere_but_for_other_processors(self, exported: Any, scope: str) -> None:
        opened, read = exported
        own = InMemorySpanExporter()
        opened.providers.tracer_provider.add_span_processor(SimpleSpanProcessor(own))
        link = Link(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1)), {"pwd": "hunter2", "kept": "link"})
        tracer = opened.providers.tracer_provider.get_tracer(scope)
        span = tracer.start_span(
            "GET http://u:hunter2@h/", links=[link], attributes={"password": "hunter2", "kept": "span", "n": 3}
        )
        span.add_event("password=hunter2", {"cookie": ["hunter2"], "kept": "event"})
        span.record_exception(ValueError("api_key=hunter2"))
        span.set_status(Status(StatusCode.ERROR, "token='hunter2hunter2'"))
        span.end()
        text = read()
        assert "hunter2" not in text
        found = json.loads(text.splitlines()[0])["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        assert found["name"] == f"GET http://u:{MASK}@h/"
        assert found["status"]["message"] == f"token='{MASK}'"
        assert [event["name"] for event in found["events"]] == [f"password={MASK}", "exception"]
        for kept in ('"span"', '"event"', '"link"', '"ValueError"'):
            assert kept in text
        assert "hunter2" in own.get_finished_spans()[0].attributes["password"]

    def test_a_span_of_ours_is_looked_at_whatever_was_in_those_before(self, exported: Any) -> None:
        opened, read = exported
        tracer = opened.providers.tracer_provider.get_tracer(_names.SCOPE_NAME)
        kept: Any = {"kept": "one", "also": "two", "n": 4111111111111111}
        for name, changes, more in (
            ("predict", {}, []),
            ("predict", {}, []),
            ("predict", {"password": "two"}, []),
            ("password=one", {}, []),
            ("predict", {"kept": "password=hunter2"}, []),
            ("predict", {"kept": ["one", "password=hunter2"]}, []),
            ("predict", {}, ["card"]),
        ):
            opened.providers.set_redaction(Redaction(more))
            # What is clean is remembered from the second on.
            for _ in range(2):
                tracer.start_span("predict", attributes=kept).end()
                tracer.start_span(name, attributes={**kept, **changes, "of": "these"}).end()
                text = read()
        assert "hunter2" not in text
        spans = [
            (span["name"], {item["key"]: item["value"] for item in span["attributes"]})
            for line in text.splitlines()
            for resource in json.loads(line)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]
        found = [(name, values) for name, values in spans if "of" in values][1::2]
        assert [name for name, _ in found] == ["predict"] * 3 + [f"password={MASK}"] + ["predict"] * 3
        assert found[2][1]["password"] == {"stringValue": MASK}
        assert [values["n"] for _, values in found] == [{"intValue": "4111111111111111"}] * 6 + [{"stringValue": MASK}]

    def test_the_id_of_a_request_leaves_as_it_is_unless_a_pattern_of_the_users_masks_it(self, exported: Any) -> None:
        opened, read = exported
        tracer = opened.providers.tracer_provider.get_tracer(_names.SCOPE_NAME)
        ids = [str(uuid.uuid4()) for _ in range(3)]
        for request_id, items in zip(ids, ([], ["/[0-9a-f]{12}/"], ["tenant"])):
            opened.providers.set_redaction(Redaction(items))
            tracer.start_span("predict", attributes={_names.ATTR_REQUEST_ID: request_id}).end()
            text = read()
        assert [request_id in text for request_id in ids] == [True, False, True]
        assert ids[1][:-12] + MASK in text

    def test_each_part_of_a_span_of_ours_is_looked_at(self, exported: Any) -> None:
        opened, read = exported
        tracer = opened.providers.tracer_provider.get_tracer(_names.SCOPE_NAME)
        for _ in range(2):
            tracer.start_span("predict").end()
            read()
        event, link, status = (tracer.start_span("predict") for _ in range(3))
        event.add_event("password=hunter2")
        link.add_link(SpanContext(1, 2, is_remote=True), {"note": "password=hunter2"})
        status.set_status(StatusCode.ERROR, "password=hunter2")
        for span in (event, link, status):
            span.end()
        text = read()
        assert "hunter2" not in text
        assert text.count(f"password={MASK}") == 3

    @pytest.mark.parametrize("scope", ["t", _names.SCOPE_NAME])
    def test_counts_of_what_was_dropped_are_kept(self, tmp_path: Path, scope: str) -> None:
        environ = {
            "OTEL_TRACES_EXPORTER": "otlp_json_file", "OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1", "OTEL_SPAN_EVENT_COUNT_LIMIT": "1",
        }  # fmt: skip
        with room(environ, file_dir=str(tmp_path)) as opened:
            span = opened.providers.tracer_provider.get_tracer(scope).start_span(
                "x", attributes={"a": 1, "pwd": "hunter2"}
            )
            span.add_event("first")
            span.add_event("password=hunter2")
            span.end()
            assert opened.flush()
            [path] = tmp_path.glob("traces-*.jsonl")
            found = json.loads(path.read_text())["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        assert (found["droppedAttributesCount"], found["droppedEventsCount"]) == (1, 1)
        assert found["events"][0]["name"] == f"password={MASK}"

    def test_log_records_of_others_are_masked(self, exported: Any) -> None:
        opened, read = exported
        logger = opened.providers.logger_provider.get_logger("theirs")
        logger.emit(LogRecord(body={"text": "password=hunter2"}, attributes={"cookie": "hunter2", "kept": "this"}))
        text = read()
        assert "hunter2" not in text
        assert '"this"' in text

    def test_more_is_masked_from_the_moment_it_is_said(self, exported: Any) -> None:
        opened, read = exported
        opened.providers.set_redaction(Redaction(["customer_id"]))
        opened.span(customer_id="hunter2")
        assert "hunter2" not in read()

    def test_a_span_that_cannot_be_looked_through_leaves_without_its_texts(
        self, exported: Any, monkeypatch: Any
    ) -> None:
        from ts_otel_logging import _diagnostics

        def broken(*_: Any) -> Any:
            raise RuntimeError

        monkeypatch.setattr(_diagnostics, "reraise", False)
        opened, read = exported
        opened.span("hunter2", a="hunter2")
        opened.log("hunter2", a="hunter2")
        monkeypatch.setattr(Redaction, "mapping", broken)
        text = read()
        assert "hunter2" not in text
        assert text.count(MASK) == 2


class TestPage:
    PAGE = Path(__file__).parents[2] / "docs" / "redaction.md"

    def test_lists_exactly_the_names_and_looks_that_hold(self) -> None:
        page = self.PAGE.read_text(encoding="utf-8")
        words = " ".join(page.split())
        for names in (SECRET_NAMES, QUALIFIERS, MODEL_TOKENS, TOKEN_KINDS, PASS_KINDS):
            assert f" {', '.join(f'`{name}`' for name in names)}" in words
        looks = page.partition("## Looks of texts")[2].partition("## More")[0]
        assert [line[2:] for line in looks.splitlines() if line.startswith("- ")] == [row.what for row in TEXT_PATTERNS]
        for option, meaning in OPTIONS.items():
            assert f"`{option}`: {meaning}" in page

    def test_its_example_runs(self) -> None:
        result = doctest.testfile(str(self.PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
        logging.getLogger("acme.login").handlers.clear()
        assert (result.failed, result.attempted) == (0, 5)


TRACE_LINES = st.sampled_from(
    (
        *(f'  File "/srv/model-{number}.py", line {number}, in predict' for number in range(9)),
        "    self.login(password = (", "        'hunter2', 'hunter3'))", "ValueError: api_key=0123456789abcdef",
        "-----BEGIN PRIVATE KEY-----", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "-----END PRIVATE KEY-----", "", "acme 7",
    )
)  # fmt: skip


class TestStackTraces:
    @pytest.mark.parametrize("items", [(), ("/predict\\s+self/", "/acme \\d/"), ("model",)], ids=str)
    def test_lines_that_were_in_others_are_masked_as_in_the_first(self, items: tuple[str, ...]) -> None:
        often = Redaction(items)

        @given(st.lists(TRACE_LINES, min_size=1, max_size=20))
        def check(lines: list[str]) -> None:
            # A first one that has more new lines than are looked through one by one.
            trace = "\n".join(
                ["Traceback (most recent call last):", *lines, *map("frame {} of many".format, range(20))]
            )
            assert often.text(trace) == Redaction(items).text(trace)

        check()
