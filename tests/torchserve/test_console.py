"""The console of a switched-on TorchServe: JSON lines, the workers' untouched, TorchServe's own in the same shape."""

from __future__ import annotations

import re

import console_lines
import pytest
from torchserve_server import wait_for

pytestmark = pytest.mark.torchserve

CONTROL = re.compile(r"\[PID\]\d+|Torch worker started\.|\[METRICS\].*")
HANDLERS_LOGGER = "acme.model"
AWKWARD = {
    "quotes": 'say "yes" \\ and \\n',
    "newlines": "first\nsecond\r\nthird",
    "line ends that Java knows": "a\u0085b\u2028c\u2029d",
    "control characters": "bell \x07 escape \x1b[31m null \x00",
    "other scripts": "naïve 日本語 \N{SNOWMAN} \N{GRINNING FACE}",
    "a lone surrogate": "broken \ud83d half",
    "JSON": '{"event": "not mine", "trace_id": "0"}',
    "percent signs": "100 %d %s",
}


def is_access_log(line: str) -> bool:
    """Whether it tells that a prediction of the model `phases` was answered."""
    return '"url.path":"/predictions/phases"' in line


@pytest.fixture
def lines(server) -> list[str]:
    """The console so far, with at least one request's lines."""
    since = server.console_size_bytes()
    server.predict("phases", {"inference": {"log": [{"message": "a request for the console"}]}})
    server.wait_for_line(is_access_log, "the end of the request", since)
    return server.console_lines()


def test_every_line_is_strict_json(lines):
    for line in lines:
        console_lines.parse(line)


def test_what_bypasses_log4j_is_an_event_too(lines):
    by_logger = {event["event"]: event for event in console_lines.events(lines) if event["logger"].startswith("jvm.")}
    assert by_logger["Model server started."]["level"] == "info"


def test_every_line_begins_with_time_level_logger_and_event(lines):
    for event in console_lines.events(lines):
        assert list(event)[:4] == ["timestamp", "level", "logger", "event"]
        assert console_lines.TIMESTAMP.fullmatch(event["timestamp"])
        assert event["level"] in console_lines.LEVELS
        assert isinstance(event["event"], str)


def test_no_line_is_wrapped_in_another(lines):
    for event in console_lines.events(lines):
        assert not event["event"].lstrip().startswith('{"timestamp"')


def test_workers_and_frontend_both_speak(lines):
    kinds = {console_lines.is_from_frontend(event) for event in console_lines.events(lines)}
    assert kinds == {True, False}


def test_control_lines_reach_torchserve_raw(lines):
    events = [event for event in console_lines.events(lines) if event["logger"] != HANDLERS_LOGGER]
    control = [event for event in events if CONTROL.fullmatch(event["event"])]
    assert control
    # TorchServe logs what it read: had the worker sent JSON, another logger would be here and no worker would be ready.
    assert {event["logger"] for event in control} == {"MODEL_LOG"}


@pytest.mark.parametrize("text", ["Torch worker started.", "[PID]1", "[METRICS]Fake.ms:1|#Level:Model|#hostname:x,1"])
def test_a_handlers_line_is_no_control_line_whatever_it_says(server, text):
    since = server.console_size_bytes()
    server.predict("phases", {"inference": {"log": [{"message": text}]}})
    line = server.wait_for_line(lambda line: text in line, text, since)
    assert (console_lines.parse(line)["event"], console_lines.parse(line)["logger"]) == (text, HANDLERS_LOGGER)


def test_what_a_handler_prints_is_one_event(server):
    since = server.console_size_bytes()
    server.predict("phases", {"inference": {"print": 'printed "as it is"'}})
    line = server.wait_for_line(lambda line: "printed" in line, "the print", since)
    assert console_lines.parse(line)["event"] == 'printed "as it is"'


@pytest.mark.parametrize(
    ("secret", "masked"),
    [
        ("dbPassword = 'hun ter2', n=1", "dbPassword = '[REDACTED]', n=1"),
        ('{"api_key": "a\\"b"} was sent', '{"api_key": "[REDACTED]"} was sent'),
        ("Authorization: Bearer abcDEF123456, x", "Authorization: [REDACTED], x"),
        (
            "GET https://u:hun@ter2@h/m.mar?x=1&X-Amz-Signature=ab12 200",
            "GET https://u:[REDACTED]@h/m.mar?x=1&X-Amz-Signature=[REDACTED] 200",
        ),
        (
            "Basic Authentication failed, max_tokens=1234567890, token: <s>",
            "Basic Authentication failed, max_tokens=1234567890, token: <s>",
        ),
        ("-----BEGIN RSA PRIVATE " + "KEY----- MIIE", "[REDACTED]"),
    ],
)
def test_the_frontend_masks_secrets_that_a_handler_prints(server, secret, masked):
    since = server.console_size_bytes()
    server.predict("phases", {"inference": {"print": f"printed <<{secret}"}})
    line = server.wait_for_line(lambda line: "printed <<" in line, "the print", since)
    assert console_lines.parse(line)["event"] == f"printed <<{masked}"


@pytest.mark.parametrize("level", ["INFO", "WARNING", "ERROR", "CRITICAL"])
def test_a_handlers_level_is_kept(server, level):
    message = f"a line of level {level}"
    server.predict("phases", {"inference": {"log": [{"level": level, "message": message}]}})
    line = server.wait_for_line(lambda line: message in line, message)
    assert console_lines.parse(line)["level"] == level.lower()


def test_a_line_below_the_level_is_not_printed(server):
    since = server.console_size_bytes()
    log = [{"level": "DEBUG", "message": "too detailed"}, {"level": "INFO", "message": "detailed enough"}]
    server.predict("phases", {"inference": {"log": log}})
    server.wait_for_line(lambda line: "detailed enough" in line, "the second line", since)
    assert [line for line in server.console_lines(since) if "too detailed" in line] == []


@pytest.mark.parametrize("name", AWKWARD)
def test_whatever_a_message_holds_it_is_one_strict_line(server, name):
    # The key in front is found again whatever becomes of the rest.
    mark = f"awkward {name}: "
    since = server.console_size_bytes()
    log = [{"message": mark + AWKWARD[name], "extra": {"value": AWKWARD[name]}}]
    assert server.predict("phases", {"inference": {"log": log}}).is_success
    line = console_lines.parse(server.wait_for_line(lambda line: mark in line, mark, since))
    if name == "a lone surrogate":  # no UTF-8 can hold it: rendered somehow, never lost
        assert line["event"].startswith(mark + "broken ")
    else:
        assert (line["event"], line["value"]) == (mark + AWKWARD[name], AWKWARD[name])
    server.wait_for_line(is_access_log, "the end of the request", since)
    assert len([line for line in server.console_lines(since) if mark in line]) == 1


def test_an_extra_that_collides_with_a_field_is_kept_beside_it(server):
    extra = {"trace_id": "mine", "level": "mine", "request_id": "mine", "event": "mine", "digit": 7}
    server.predict("phases", {"inference": {"log": [{"message": "a collision", "extra": extra}]}})
    line = console_lines.parse(server.wait_for_line(lambda line: '"a collision"' in line, "a collision"))
    assert {f"extra.{key}": "mine" for key in extra if key != "digit"}.items() <= line.items()
    assert (line["event"], line["level"], line["digit"]) == ("a collision", "info", 7)
    assert "mine" not in (line["trace_id"], line["request_id"])


def test_a_long_event_is_cut_validly_and_marked(server):
    mark = "a long event "
    server.predict("phases", {"inference": {"log": [{"message": mark + "x" * 100_000}]}})
    raw = server.wait_for_line(lambda line: mark in line, mark)
    line = console_lines.parse(raw)
    assert len(raw.encode()) <= 16_000
    assert line["truncated"]
    assert line["event"].startswith(mark + "xxx")


def test_lines_of_two_workers_are_never_interleaved(server):
    since = server.console_size_bytes()
    log = [{"message": f"interleaved {number} " + "y" * 3_000} for number in range(100)]
    for model in ("phases", "own"):
        assert server.predict(model, {"inference": {"log": log}}).is_success
    found = server.wait_for_lines(lambda line: '"event":"interleaved ' in line.replace(": ", ":"), 200, "lines", since)
    assert len(found) == 200
    for model in ("phases", "own"):
        events = [event for event in console_lines.events(found) if event["model_name"] == model]
        assert [int(event["event"].split()[1]) for event in events] == list(range(100))


def test_torchserves_own_metrics_are_on_its_metrics_page(server, lines):
    names = {"CPUUtilization", "MemoryUsed", "DiskUtilization", "PredictionTime", "HandlerTime", "WorkerThreadTime"}

    def missing() -> set[str]:
        page = server.metrics_page()
        return {name for name in names if not re.search(rf"^{name}\{{.*\}} ", page, re.MULTILINE)}

    wait_for(lambda: not missing(), f"all of {sorted(names)} on the metrics page")


def test_torchserve_parses_what_its_collector_prints(lines):
    assert [line for line in lines if "Parse metrics failed" in line or "Failed to parse metrics" in line] == []


def test_torchserves_log_files_are_not_json(server, lines):
    access_log = wait_for(lambda: (server.logs / "access_log.log").read_text(encoding="utf-8"), "an access log")
    assert re.match(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - /127\.0\.0\.1:\d+ \"GET /ping HTTP/1\.1\" 200 \d+\n", access_log
    )
