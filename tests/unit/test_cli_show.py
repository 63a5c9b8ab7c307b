"""`ts-otel-logging show FOLDER` and `version`, through the command's own entry point."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from importlib import metadata

import pytest
from rich.text import Text

from ts_otel_logging._cli import _otlp_files, main
from ts_otel_logging._version import __version__

MS = 10**6
START = 1_795_255_138_605_000_000  # 2026-11-21T09:58:58.605Z
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"

# What opentelemetry-exporter-otlp-json-file 0.66b1 wrote, with only the resource made shorter.
UPSTREAM_SPANS = (
    '{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"torchserve"}},'
    '{"key":"process.pid","value":{"intValue":"101"}}]},"scopeSpans":[{"scope":{"name":"ts_otel_logging"},"spans":'
    '[{"traceId":"1fd83bb7c07efbd716e658370fce94c2","spanId":"79e888119613d1e9","parentSpanId":"8d8743c66dab91f0",'
    '"flags":768,"name":"predict digits","kind":2,"startTimeUnixNano":"1795255138626892137",'
    '"endTimeUnixNano":"1795255138634138912","attributes":[{"key":"torchserve.model.name","value":{"stringValue":'
    '"digits"}},{"key":"torchserve.response.status_code","value":{"intValue":"200"}}],"status":{}}]}]}]}\n'
)
UPSTREAM_LOGS = (
    '{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"torchserve"}}]},'
    '"scopeLogs":[{"scope":{"name":"digits.handler"},"logRecords":[{"timeUnixNano":"1795255138633126261",'
    '"observedTimeUnixNano":"1795255138633195545","severityNumber":9,"severityText":"INFO","body":{"stringValue":'
    '"Inference complete"},"attributes":[{"key":"torchserve.request.id","value":{"stringValue":"a-b"}},{"key":"digit",'
    '"value":{"intValue":"7"}},{"key":"confidence","value":{"doubleValue":0.9813}}],"flags":1,'
    '"traceId":"1fd83bb7c07efbd716e658370fce94c2","spanId":"79e888119613d1e9"}]}]}]}\n'
)


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def show(capsys, tmp_path):
    """Run the command on the test's folder; gives exit code, rows and what stderr says."""

    def run(*options, folder=tmp_path):
        code = main(["show", str(folder), *options])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


def value(content):
    if isinstance(content, bool):
        return {"boolValue": content}
    if isinstance(content, int):
        return {"intValue": str(content)}
    if isinstance(content, float):
        return {"doubleValue": content}
    if isinstance(content, list):
        return {"arrayValue": {"values": [value(element) for element in content]}}
    if isinstance(content, dict):
        return {"kvlistValue": {"values": attributes(content)}}
    return {"stringValue": content}


def attributes(items):
    return [{"key": key, "value": value(content)} for key, content in items.items()]


def span(name, span_id, start_ms, end_ms, *, parent="", trace_id=TRACE, remote=False, error=False, kind=1, **more):  # noqa: PLR0913
    return {
        "traceId": trace_id,
        "spanId": span_id,
        "parentSpanId": parent,
        "flags": 0x301 if remote else 0x101,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(START + int(start_ms * MS)),
        "endTimeUnixNano": str(START + int(end_ms * MS)),
        "status": {"code": 2} if error else {},
        "attributes": attributes(more.pop("attributes", {})),
        **more,
    }


def event(name, time_ms, content):
    return {"name": name, "timeUnixNano": str(START + int(time_ms * MS)), "attributes": attributes(content)}


def log(message, span_id, time_ms, *, level="INFO", trace_id=TRACE, **content):
    severity = {"DEBUG": 5, "INFO": 9, "WARNING": 13, "ERROR": 17}[level]
    return {
        "timeUnixNano": str(START + int(time_ms * MS)),
        "severityNumber": severity,
        "severityText": level,
        "body": value(message),
        "traceId": trace_id,
        "spanId": span_id,
        "attributes": attributes({key.replace("__", "."): item for key, item in content.items()}),
    }


def spans_line(*spans, service="torchserve"):
    resource = {"attributes": attributes({"service.name": service})}
    data = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]}
    return json.dumps(data) + "\n"


def logs_line(*records):
    return json.dumps({"resourceLogs": [{"resource": {}, "scopeLogs": [{"logRecords": list(records)}]}]}) + "\n"


def write(folder, *, spans=(), logs=(), worker="box-101"):
    if spans:
        (folder / f"traces-{worker}.jsonl").write_text(spans_line(*spans))
    if logs:
        (folder / f"logs-{worker}.jsonl").write_text(logs_line(*logs))


def request(number):
    """One request's spans, a second after the one before."""
    at = number * 1_000
    trace_id = f"{number:032x}"
    return span("predict digits", f"{number:016x}", at, at + 5, trace_id=trace_id, kind=2)


def titles(rows):
    return [row.split()[2] for row in rows if row.startswith("── trace ")]


def row_with(rows, text):
    found = [row for row in rows if text in row]
    assert len(found) == 1, (text, rows)
    return found[0]


DIGITS_SPANS = (
    span("preprocess", "a1", 0.1, 0.9, parent="a0"),
    span("inference_latency", "a4", 1.2, 6.2, parent="a2", attributes={"torchserve.span.source": "log"}),
    span("inference", "a2", 1.0, 6.4, parent="a0"),
    span("postprocess", "a3", 6.5, 7.9, parent="a0"),
    span(
        "predict digits",
        "a0",
        0,
        8,
        parent=CALLER,
        remote=True,
        kind=2,
        attributes={"torchserve.response.status_code": 200, "torchserve.model.name": "digits"},
    ),
)
DIGITS_LOGS = (
    log("Low contrast", "a1", 0.5, level="WARNING", contrast=0.25),
    log(
        "Inference complete",
        "a2",
        6.3,
        torchserve__request__id="r-1",
        inference_latency=0.005,
        digit=7,
        confidence=0.98,
    ),
)


class TestWaterfall:
    def test_spans_and_lines_of_a_request_in_clock_order(self, show, tmp_path):
        write(tmp_path, spans=DIGITS_SPANS, logs=DIGITS_LOGS)
        code, rows, said = show()
        assert (code, said) == (0, "")
        assert rows == [
            "── trace 4bf92f3577b34da6a3ce929d0e0e4736 ──────────────────────────────────────",
            "   torchserve · 2026-11-21T09:58:58.605Z · 8.00 ms · 5 spans · 2 lines",
            "",
            "(remote parent 00f067aa0ba902b7)",
            "└─ predict digits SERVER    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  8.00 ms  ✓ 200",
            "   ├─ preprocess            ━━━━╸                                  800 µs",
            "   │     +500 µs   WARNING  Low contrast  contrast=0.25",
            "   ├─ inference                 ╺━━━━━━━━━━━━━━━━━━━━━━━━         5.40 ms",
            "   │  └─ inference_latency       ━━━━━━━━━━━━━━━━━━━━━━━          5.00 ms",
            "   │     +6.30 ms  INFO     Inference complete  digit=7  confidence=0.98",
            "   └─ postprocess                                        ━━━━━━━  1.40 ms",
            "",
        ]

    def test_links_name_the_traces_that_they_lead_to(self, show, tmp_path):
        links = [{"traceId": f"{number:08x}" + TRACE[8:], "spanId": "b1"} for number in range(1, 65)]
        batch = span("batch digits", "a1", 0, 10, links=links)
        phase = span("inference", "a2", 2, 8, parent="a1", links=links[:1])
        write(tmp_path, spans=[batch, phase])
        _, rows, _ = show()
        assert rows[4] == "│  linked with trace 00000001, 00000002, 00000003, 00000004 and 60 more"
        assert rows[5].startswith("└─ inference ")
        assert rows[6] == "      linked with trace 00000001"

    def test_files_of_the_upstream_exporter(self, show, tmp_path):
        (tmp_path / "traces-box-101.jsonl").write_text(UPSTREAM_SPANS)
        (tmp_path / "logs-box-101.jsonl").write_text(UPSTREAM_LOGS)
        code, rows, _ = show("--trace-id", "1FD8")
        assert code == 0
        assert "torchserve · 2026-11-21T09:58:58.626Z · 7.25 ms · 1 span · 1 line" in rows[1]
        assert "predict digits SERVER" in row_with(rows, "7.25 ms  ✓ 200")
        assert "INFO  Inference complete  digit=7  confidence=0.9813" in row_with(rows, "+6.23 ms")

    def test_the_same_whatever_order_the_file_has(self, show, tmp_path):
        spans, logs = list(DIGITS_SPANS), list(DIGITS_LOGS)
        outputs = set()
        for seed in range(5):
            random.Random(seed).shuffle(spans)
            random.Random(seed).shuffle(logs)
            write(tmp_path, spans=spans, logs=logs)
            outputs.add(tuple(show()[1]))
        assert len(outputs) == 1

    def test_a_trace_over_several_workers_and_rotated_files(self, show, tmp_path):
        (tmp_path / "traces-box-101.jsonl.1").write_text(spans_line(DIGITS_SPANS[0], DIGITS_SPANS[1]))
        (tmp_path / "traces-box-101.jsonl").write_text(spans_line(*DIGITS_SPANS[2:4]))
        (tmp_path / "traces-box-102.jsonl").write_text(spans_line(DIGITS_SPANS[4], service="ensemble"))
        (tmp_path / "logs-box-101.1.jsonl").write_text(logs_line(*DIGITS_LOGS))
        _, rows, _ = show()
        assert rows[1].split(" · ") == ["   ensemble", "torchserve", "2026-11-21T09:58:58.605Z", "8.00 ms", "5 spans"]
        assert rows[2] == "   2 lines"

    def test_a_span_that_was_exported_twice_is_one(self, show, tmp_path):
        write(tmp_path, spans=[*DIGITS_SPANS, *DIGITS_SPANS])
        _, rows, _ = show()
        assert sum("preprocess" in row for row in rows) == 1
        assert " · 5 spans · " in rows[1]

    def test_a_parent_of_this_process_that_never_ended(self, show, tmp_path):
        write(tmp_path, spans=DIGITS_SPANS[:1], logs=[log("Working", "a0", 0.05)])
        _, rows, _ = show()
        at = rows.index("(span a0 is not in the folder)")
        assert "Working" in rows[at + 1]
        assert rows[at + 2].startswith("└─ preprocess")

    def test_lines_outside_every_span_stand_alone(self, show, tmp_path):
        write(tmp_path, spans=[span("load digits", "b0", 0, 80)], logs=[log("Between", "", 90)])
        _, rows, _ = show()
        assert rows[-2] == "+90.0 ms  INFO  Between"

    def test_spans_that_are_each_others_parents_are_shown_once(self, show, tmp_path):
        write(tmp_path, spans=[span("one", "c1", 0, 2, parent="c2"), span("two", "c2", 1, 2, parent="c1")])
        _, rows, _ = show()
        assert row_with(rows, "one").startswith("one")
        assert row_with(rows, "two").startswith("└─ two")

    def test_kinds_other_than_internal_are_named(self, show, tmp_path):
        write(tmp_path, spans=[span("GET /features", "d0", 0, 5, kind=3), span("load", "d1", 1, 2, parent="d0")])
        _, rows, _ = show()
        assert row_with(rows, "GET /features").startswith("GET /features CLIENT ")
        assert "INTERNAL" not in "".join(rows)

    @pytest.mark.parametrize(
        ("nanos", "shown"),
        [
            (0, "0 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (12_345_678, "12.3 ms"),
            (999_499_999, "999 ms"),
            (999_500_000, "1.00 s"),
            (59_949_999_999, "59.9 s"),
            (59_950_000_000, "1 min 00 s"),
            (125 * 10**9, "2 min 05 s"),
            (3_600 * 10**9, "60 min 00 s"),
        ],
    )
    def test_durations_have_the_unit_that_suits_them(self, show, tmp_path, nanos, shown):
        write(tmp_path, spans=[span("load", "e0", 0, nanos / MS)])
        _, rows, _ = show()
        assert rows[3].endswith(f"  {shown}")

    def test_only_the_newest_of_a_trace_without_end(self, show, tmp_path):
        count = _otlp_files.MAX_ITEMS_PER_TRACE + 5
        spans = [span(f"request-{i}", f"{i + 1:x}", i, i + 1, parent=CALLER, remote=True) for i in range(count)]
        lines = [log(f"line-{i}", f"{i + 1:x}", i) for i in range(count)]
        write(tmp_path, spans=spans, logs=lines)
        _, rows, _ = show()
        facts = " ".join(" ".join(rows[1:3]).split())
        assert "last 1,000 of 1,005 spans" in facts
        assert "last 1,000 of 1,005 lines" in facts
        assert any("request-1004 " in row for row in rows)
        assert not any("request-4 " in row for row in rows)


ERROR = {
    "exception.type": "RuntimeError",
    "exception.message": "mat1 and mat2 shapes cannot be multiplied",
    "exception.stacktrace": 'Traceback (most recent call last):\n  File "handler.py", line 7\nRuntimeError: mat1',
}


class TestFailures:
    def failing(self, **attributes_of_span):
        return span(
            "predict digits",
            "a0",
            0,
            8,
            error=True,
            kind=2,
            attributes={"error.type": "RuntimeError", **attributes_of_span},
            events=[event("exception", 7, ERROR)],
        )

    def test_status_error_type_and_exception(self, show, tmp_path):
        record = log("Invoking custom service failed.", "a0", 7.5, level="ERROR")
        record["attributes"] = attributes(ERROR)
        write(tmp_path, spans=[self.failing(**{"torchserve.response.status_code": 503})], logs=[record])
        _, rows, _ = show()
        assert rows[1].endswith("· 1 failed")
        assert row_with(rows, "predict digits SERVER").endswith("✗ 503 RuntimeError")
        assert "ERROR  Invoking custom service failed." in row_with(rows, "+7.50 ms")
        assert row_with(rows, "RuntimeError: mat1").strip() == "RuntimeError: mat1 and mat2 shapes cannot be multiplied"
        assert "EVENT" not in "".join(rows)
        assert "Traceback" not in "".join(rows)

    def test_an_exception_that_only_the_span_recorded(self, show, tmp_path):
        write(tmp_path, spans=[self.failing()])
        _, rows, _ = show()
        assert "EVENT  exception" in row_with(rows, "+7.00 ms")
        assert row_with(rows, "RuntimeError: mat1")

    def test_stacks_on_demand(self, show, tmp_path):
        write(tmp_path, spans=[self.failing()])
        _, rows, _ = show("--stacks")
        at = next(i for i, row in enumerate(rows) if row.endswith("Traceback (most recent call last):"))
        assert rows[at + 1].endswith('  File "handler.py", line 7')

    @pytest.mark.parametrize("is_terminal", [True, False])
    def test_a_stack_is_folded_for_a_terminal_alone(self, show, tmp_path, monkeypatch, is_terminal):
        if is_terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
        place = f"File {'/a/long/path' * 10}/handler.py, line 7, in handle"
        failing = self.failing()
        failing["events"] = [event("exception", 7, {**ERROR, "exception.stacktrace": place})]
        write(tmp_path, spans=[failing])
        _, rows, _ = show("--stacks")
        assert any(place in row for row in rows) is not is_terminal
        assert any("line 7, in handle" in row for row in rows)

    def test_a_refused_request_is_marked_without_being_failed(self, show, tmp_path):
        refused = span("predict digits", "a0", 0, 8, kind=2, attributes={"torchserve.response.status_code": 400})
        write(tmp_path, spans=[refused])
        _, rows, _ = show()
        assert rows[3].endswith("✗ 400")
        assert "failed" not in rows[1]

    def test_other_span_events_are_lines(self, show, tmp_path):
        write(tmp_path, spans=[span("predict", "a0", 0, 8, events=[event("cache miss", 2, {"key": "k1"})])])
        _, rows, _ = show()
        assert rows[4] == "   +2.00 ms  EVENT  cache miss  key=k1"

    def test_a_long_exception_message_is_folded_and_cut(self, show, tmp_path):
        record = log("failed", "a0", 1, level="ERROR")
        record["attributes"] = attributes({"exception.type": "ValueError", "exception.message": "word " * 200})
        write(tmp_path, spans=[span("predict", "a0", 0, 8)], logs=[record])
        _, rows, _ = show()
        assert sum("word word" in row for row in rows) == 3
        assert rows[-2].strip() == "…"


class TestSelection:
    def test_the_five_newest_the_newest_last(self, show, tmp_path):
        write(tmp_path, spans=[request(n) for n in (3, 9, 1, 7, 8, 2, 6)])
        _, rows, _ = show()
        assert titles(rows) == [f"{n:032x}" for n in (3, 6, 7, 8, 9)]

    def test_last(self, show, tmp_path):
        write(tmp_path, spans=[request(n) for n in range(1, 8)])
        assert titles(show("--last", "2")[1]) == [f"{n:032x}" for n in (6, 7)]

    def test_newest_is_what_began_last_not_what_was_written_last(self, show, tmp_path):
        early, late = f"{1:032x}", f"{2:032x}"
        children = [span("inference", "c1", 100, 200, parent="b1", trace_id=early)]
        roots = [span("predict", "b2", 50, 60, trace_id=late), span("predict", "b1", 0, 300, trace_id=early)]
        write(tmp_path, spans=children + roots)
        assert titles(show("--last", "1")[1]) == [late]

    def test_trace_id_by_its_first_digits_in_either_case(self, show, tmp_path):
        one, other = request(1), request(2)
        one["traceId"] = "ABCDEF" + "0" * 26
        write(tmp_path, spans=[one, other])
        _, rows, _ = show("--trace-id", "abCd")
        assert titles(rows) == ["abcdef" + "0" * 26]

    def test_a_trace_that_left_only_lines_is_shown_by_its_id(self, show, tmp_path):
        write(tmp_path, spans=[request(1)], logs=[log("Not sampled", "f0", 3)])
        assert titles(show()[1]) == [f"{1:032x}"]
        code, rows, _ = show("--trace-id", TRACE)
        assert code == 0
        assert rows[1].split(" · ") == ["   2026-11-21T09:58:58.608Z", "0 µs", "0 spans", "1 line"]
        assert "Not sampled" in rows[-2]

    def test_errors_only(self, show, tmp_path):
        failed, refused, told, raised = (request(n) for n in (2, 3, 4, 5))
        failed["status"] = {"code": 2, "message": "no"}
        refused["attributes"] = attributes({"error.type": "PredictionException"})
        raised["events"] = [event("exception", 1, {"exception.type": "ValueError"})]
        write(
            tmp_path,
            spans=[request(1), failed, refused, told, raised, request(6)],
            logs=[
                log("bad", f"{4:016x}", 4_001, level="ERROR", trace_id=told["traceId"]),
                log("hm", f"{6:016x}", 6_001, level="WARNING", trace_id=f"{6:032x}"),
            ],
        )
        assert titles(show("--errors")[1]) == [f"{n:032x}" for n in (2, 3, 4, 5)]

    def test_nothing_found_is_said(self, show, tmp_path):
        write(tmp_path, spans=[request(1)])
        code, rows, said = show("--trace-id", "dead", "--errors")
        assert (code, rows) == (1, [])
        assert said == f"{tmp_path} holds no trace whose id begins with dead with an error.\n"

    def test_nothing_written_yet_is_said(self, show, tmp_path):
        (tmp_path / "traces-box-1.jsonl").write_text("")
        code, _, said = show()
        assert (code, said) == (1, f"{tmp_path} holds no trace yet.\n")

    @pytest.mark.parametrize(
        "options",
        [["--last", "0"], ["--last", "many"], ["--trace-id", "xyz"], ["--trace-id", ""], ["--trace-id", "0" * 33]],
    )
    def test_wrong_options_are_refused(self, capsys, tmp_path, options):
        with pytest.raises(SystemExit) as stopped:
            main(["show", str(tmp_path), *options])
        assert stopped.value.code == 2
        assert options[0] in capsys.readouterr().err

    def test_more_traces_than_are_remembered(self, show, tmp_path, monkeypatch):
        monkeypatch.setattr(_otlp_files, "_MAX_SUMMARIES", 20)
        numbers = list(range(1, 500))
        random.Random(7).shuffle(numbers)
        spans = [request(number) for number in numbers]
        next(span for span in spans if span["traceId"] == f"{3:032x}")["status"] = {"code": 2}
        write(tmp_path, spans=spans)
        assert titles(show("--last", "3")[1]) == [f"{n:032x}" for n in (497, 498, 499)]
        assert titles(show("--errors")[1]) == [f"{3:032x}"]

    def test_files_written_before_what_is_wanted_are_not_opened(self, show, tmp_path):
        old = tmp_path / "traces-box-1.jsonl"
        old.write_text("{ this would be reported\n")
        os.utime(old, ns=(START - 3_600 * 10**9,) * 2)
        write(tmp_path, spans=[request(n) for n in range(1, 6)])
        assert show()[2] == ""
        assert "traces-box-1.jsonl: line 1 was left out" in show("--last", "6")[2]


class TestDamage:
    @pytest.mark.parametrize(
        "damaged",
        [
            UPSTREAM_SPANS[:200],
            UPSTREAM_SPANS[:200] + UPSTREAM_SPANS.strip(),
            "[1, 2]",
            '"text"',
            "null",
            "[" * 100_000,
            '{"resourceSpans": 5}',
            '{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "no id"}]}]}]}',
            json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{**request(1), "startTimeUnixNano": "-1"}]}]}]}),
            json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{**request(1), "endTimeUnixNano": "9" * 30}]}]}]}),
            json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{**request(1), "kind": "SERVER"}]}]}]}),
            json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{**request(1), "traceId": 7}]}]}]}),
            "\x00\x01",
        ],
    )
    def test_a_damaged_line_is_said_and_the_rest_is_shown(self, show, tmp_path, damaged):
        (tmp_path / "traces-box-1.jsonl").write_text(spans_line(request(8)) + damaged + "\n" + spans_line(request(9)))
        code, rows, said = show()
        assert code == 0
        assert titles(rows) == [f"{n:032x}" for n in (8, 9)]
        assert said == "traces-box-1.jsonl: line 2 was left out: cut short, or not OTLP JSON.\n"

    def test_a_log_file_cut_in_the_middle(self, show, tmp_path):
        write(tmp_path, spans=DIGITS_SPANS)
        whole = logs_line(*DIGITS_LOGS)
        (tmp_path / "logs-box-1.jsonl").write_bytes(b"\xff\xfe{\n\n" + whole.encode() + whole[:-40].encode())
        _, rows, said = show()
        assert row_with(rows, "Inference complete")
        assert said == "logs-box-1.jsonl: 2 lines, the first is line 1, were left out: cut short, or not OTLP JSON.\n"

    def test_a_file_that_cannot_be_read(self, show, tmp_path):
        (tmp_path / "traces-box-2.jsonl").mkdir()
        write(tmp_path, spans=[request(1)])
        code, rows, said = show()
        assert (code, len(titles(rows))) == (0, 1)
        assert said == "traces-box-2.jsonl could not be read: Is a directory.\n"

    @pytest.mark.parametrize("missing", ["nowhere", "file", "empty"])
    def test_no_folder_or_nothing_in_it(self, show, tmp_path, missing):
        (tmp_path / "file").write_text("")
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "metrics-box-1.jsonl").write_text("")
        code, rows, said = show(folder=tmp_path / missing)
        assert (code, rows) == (2, [])
        assert said.startswith(str(tmp_path / missing))
        assert "Accepted: a folder of OTLP JSON lines files" in said


NASTY = "\x1b[2J\r\n\x00\u202eevil\ud800\u2028 界面 " + "x" * 300


class TestTerminal:
    @pytest.mark.parametrize("width", [1, 7, 20, 40, 60, 80, 120, 250])
    def test_no_row_is_wider_than_the_terminal(self, show, tmp_path, monkeypatch, width):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("FORCE_COLOR", "1")
        deep = [
            span(NASTY, f"{n + 1:x}", n, 99, parent=f"{n:x}" if n else "", attributes={"error.type": NASTY}, error=True)
            for n in range(60)
        ]
        record = log(NASTY, "3c", 50, level="ERROR")
        record["attributes"] = attributes({f"exception.{key}": NASTY for key in ("type", "message", "stacktrace")})
        write(tmp_path, spans=deep, logs=[record, log("fine", "1", 1, **{NASTY: NASTY})])
        code, rows, _ = show("--stacks")
        assert code == 0
        assert max(Text.from_ansi(row).cell_len for row in rows) <= width

    def test_sixty_columns_are_legible(self, show, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "60")
        write(tmp_path, spans=DIGITS_SPANS, logs=DIGITS_LOGS)
        rows = show()[1]
        assert "└─ predict digits SERVER   ━" in row_with(rows, "predict")
        assert row_with(rows, "predict").endswith("8.00 ms  ✓ 200")
        assert row_with(rows, "inference_laten…")
        assert row_with(rows, "Inference complete").endswith("digit=7  co…")
        assert rows[2] == "   2 lines"

    def test_a_long_error_type_leaves_room_for_the_bar(self, show, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "60")
        write(tmp_path, spans=[span("predict", "a0", 0, 8, attributes={"error.type": "package.module." * 9})])
        row = row_with(show()[1], "predict")
        assert "━━━━━━━━" in row
        assert row.endswith("✗ package.modu…")

    def test_nothing_written_by_a_model_reaches_the_terminal_raw(self, show, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        write(tmp_path, spans=[span("predict", "a0", 0, 8)], logs=[log(NASTY, "a0", 1)])
        row = row_with(show()[1], "INFO")
        assert r"\x1b[2J\r\n\x00\u202eevil\ud800\u2028 界面" in row

    def test_values_of_every_kind(self, show, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "120")
        record = log("kinds", "a0", 1, a=True, b=[1, "two"], c={"d": 1.5})
        record["body"] = value({"answer": [7]})
        record["attributes"] += [{"key": "e", "value": {"doubleValue": "NaN"}}, {"key": "f", "value": {}}]
        write(tmp_path, spans=[span("predict", "a0", 0, 8)], logs=[record])
        assert '{"answer": [7]}  a=true  b=[1, "two"]  c={"d": 1.5}  e=NaN  f=null' in row_with(show()[1], "INFO")

    def test_a_very_deep_trace(self, show, tmp_path):
        count = _otlp_files.MAX_ITEMS_PER_TRACE
        write(tmp_path, spans=[span("s", f"{n + 1:x}", n, count, parent=f"{n:x}" if n else "") for n in range(count)])
        code, rows, _ = show()
        assert (code, len(rows)) == (0, count + 4)

    def test_colours_only_on_a_terminal(self, show, tmp_path, monkeypatch):
        write(tmp_path, spans=DIGITS_SPANS, logs=DIGITS_LOGS)
        assert "\x1b" not in "".join(show()[1])
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert "\x1b[" in "".join(show()[1])

    def test_a_terminal_without_unicode(self, tmp_path, monkeypatch):
        write(tmp_path, spans=DIGITS_SPANS, logs=[log("naïve", "a1", 0.5)])
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        assert main(["show", str(tmp_path)]) == 0
        sys.stdout.flush()
        rows = raw.getvalue().decode("ascii").splitlines()
        assert rows[5].startswith("   |- preprocess            =====")
        assert rows[5].endswith(" 800 us")
        assert "na\\xefve" in rows[6]


class TestCommandLine:
    @pytest.mark.parametrize("spelling", ["version", "--version"])
    def test_version_names_what_is_installed(self, spelling, capsys, monkeypatch):
        installed = metadata.version

        def version(name):
            if name == "torchserve":
                raise metadata.PackageNotFoundError(name)
            return installed(name)

        monkeypatch.setattr(metadata, "version", version)
        assert main([spelling]) == 0
        shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert shown == {
            "ts-otel-logging": __version__,
            "python": sys.version.split()[0],
            "opentelemetry-sdk": installed("opentelemetry-sdk"),
            "structlog": installed("structlog"),
            "torchserve": "not installed",
        }

    def test_without_a_command_the_help(self, capsys):
        assert main([]) == 2
        said = capsys.readouterr().err
        assert all(command in said for command in ("doctor", "show", "version"))

    def test_heavy_packages_are_not_imported(self, tmp_path):
        write(tmp_path, spans=DIGITS_SPANS, logs=DIGITS_LOGS)
        program = (
            "import sys\n"
            "from ts_otel_logging._cli import main\n"
            f"assert main(['version']) == 0 == main(['show', {str(tmp_path)!r}])\n"
            "heavy = {'structlog', 'torch', 'ts', 'opentelemetry.sdk', 'opentelemetry.exporter'}\n"
            "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "[]\n")

    def test_the_module_runs_as_a_program(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "ts_otel_logging._cli", "show", str(tmp_path / "nowhere")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "does not exist" in done.stderr
