"""Traces out of a folder of OTLP JSON lines files, with bounded memory.

The format is OpenTelemetry's: https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/ (one TracesData or
LogsData a line) in the JSON encoding of https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding (ids in hex of
either case, 64-bit integers as strings, enumerations as numbers, fields that hold their default left out).
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Final, NamedTuple, Optional, TypeVar

from ts_otel_logging import _names

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

MAX_ITEMS_PER_TRACE: Final = 1_000
"""How many spans, and how many log lines, of one trace are kept: the newest. A client may reuse one trace for ever."""

# Rotated files keep the name and get a suffix.
SPAN_FILES: Final = "traces-*.jsonl*"
LOG_FILES: Final = "logs-*.jsonl*"

_MAX_SUMMARIES: Final = 50_000
# A file's time of modification and the times inside may come from two clocks.
_CLOCK_SLACK_NANOS: Final = 60 * 10**9
_TRACE_ID: Final = re.compile(rb'"traceId"\s*:\s*"([0-9A-Fa-f]+)"')
# https://opentelemetry.io/docs/specs/otel/logs/data-model/#severity-fields: 17 is the lowest ERROR.
_SEVERITY_ERROR: Final = 17
# https://github.com/open-telemetry/opentelemetry-proto, trace.proto: Status.StatusCode and SpanFlags.
_STATUS_ERROR: Final = 2
_FLAG_HAS_IS_REMOTE: Final = 0x100
_FLAG_IS_REMOTE: Final = 0x200
_EXCEPTION_EVENT: Final = "exception"
_UINT64_MAX: Final = 2**64 - 1
# What reading the values of a line that is no OTLP JSON can raise; deep nesting is the RecursionError.
_MALFORMED: Final = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)


class RecordedException(NamedTuple):
    """An exception as the semantic conventions record it."""

    type: str
    message: str
    stacktrace: str


class LogLine(NamedTuple):
    """A log record or a span event; times in nanoseconds since the epoch."""

    time_nanos: int
    trace_id: str
    span_id: str
    level: str
    severity: int
    message: str
    attributes: dict[str, Any]
    exception: Optional[RecordedException]


class Span(NamedTuple):
    """A finished span; times in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_span_id: str
    parent_is_local: bool
    name: str
    kind: int
    start_nanos: int
    end_nanos: int
    is_error: bool
    attributes: dict[str, Any]
    events: tuple[LogLine, ...]
    service_name: str
    linked_trace_ids: tuple[str, ...] = ()

    @property
    def error_type(self) -> str:
        """The value of `error.type`, or an empty string."""
        return str(self.attributes.get(_names.ATTR_ERROR_TYPE, ""))


_Item = TypeVar("_Item", Span, LogLine)


@dataclasses.dataclass
class Trace:
    """What the folder holds of one trace, at most the newest `MAX_ITEMS_PER_TRACE` spans and lines of it."""

    trace_id: str
    spans: deque[Span] = dataclasses.field(default_factory=lambda: deque(maxlen=MAX_ITEMS_PER_TRACE))
    lines: deque[LogLine] = dataclasses.field(default_factory=lambda: deque(maxlen=MAX_ITEMS_PER_TRACE))
    span_count: int = 0
    line_count: int = 0

    @property
    def start_nanos(self) -> int:
        """The earliest span's start; without spans the first line's time."""
        return min((span.start_nanos for span in self.spans), default=0) or min(
            (line.time_nanos for line in self.lines), default=0
        )


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which traces are wanted.

    Args:
        last: How many, counted from the newest start.
        trace_id_prefix: Lower-case hex digits that the trace id begins with; with them, traces that left log lines
            but no span count too.
        errors_only: Only traces with a failed span (status ERROR or `error.type`), an exception, or a line of level
            ERROR or higher.
    """

    last: int
    trace_id_prefix: str = ""
    errors_only: bool = False


@dataclasses.dataclass
class Problems:
    """What could not be read: lines by file, and whole files with the reason."""

    lines: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """File name: how many lines, number of the first one."""
    files: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Summary:
    start_nanos: int
    has_span: bool = False
    has_error: bool = False


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the folder's files of one signal, the last written first.

    Args:
        folder: An existing folder.
        pattern: `SPAN_FILES` or `LOG_FILES`.
    """
    return sorted(folder.glob(pattern), key=lambda path: (_written_nanos(path), path.name), reverse=True)


def read_traces(folder: Path, selection: Selection) -> tuple[list[Trace], Problems]:
    """Return the selected traces, the oldest first, and what could not be read.

    The files are read twice: once to find the traces, keeping a few words about each, and once to fetch the selected
    ones, decoding only the lines that name them. Files whose last write is older than what is wanted are not opened.

    Args:
        folder: An existing folder.
        selection: Which traces are wanted.
    """
    problems = Problems()
    start_by_id = _Search(folder, selection, problems).run()
    traces = {trace_id: Trace(trace_id) for trace_id in start_by_id}
    if traces:
        oldest_nanos = min(start_by_id.values())
        # The last written file comes last, so that a full deque keeps the newest items.
        for path in reversed(find_files(folder, SPAN_FILES)):
            if _may_hold(path, oldest_nanos):
                for span in _read(path, decode_spans, problems, traces):
                    if span.trace_id in traces:
                        traces[span.trace_id].spans.append(span)
                        traces[span.trace_id].span_count += 1
        for path in reversed(find_files(folder, LOG_FILES)):
            if _may_hold(path, oldest_nanos):
                for line in _read(path, decode_log_lines, problems, traces):
                    if line.trace_id in traces:
                        traces[line.trace_id].lines.append(line)
                        traces[line.trace_id].line_count += 1
    return sorted(traces.values(), key=lambda trace: (trace.start_nanos, trace.trace_id)), problems


class _Search:
    """The first reading: which traces are the newest that match, and when did each begin."""

    def __init__(self, folder: Path, selection: Selection, problems: Problems) -> None:
        self._folder = folder
        self._selection = selection
        self._problems = problems
        self._summaries: dict[str, _Summary] = {}

    def run(self) -> dict[str, int]:
        """Return the start in nanoseconds by trace id."""
        if self._selection.trace_id_prefix or self._selection.errors_only:
            self._search_lines()
        self._search_spans()
        return self._newest()

    def _search_lines(self) -> None:
        for path in find_files(self._folder, LOG_FILES):
            for line in _read(path, decode_log_lines, self._problems, self._selection.trace_id_prefix):
                has_error = line.severity >= _SEVERITY_ERROR or line.exception is not None
                if line.trace_id and (has_error or self._selection.trace_id_prefix):
                    self._note(line.trace_id, line.time_nanos, has_span=False, has_error=has_error)

    def _search_spans(self) -> None:
        for path in find_files(self._folder, SPAN_FILES):
            found = self._newest()
            # A file that was last written before the oldest of them began can add nothing newer.
            if len(found) == self._selection.last and not _may_hold(path, min(found.values())):
                break
            for span in _read(path, decode_spans, self._problems, self._selection.trace_id_prefix):
                has_error = span.is_error or bool(span.error_type) or any(event.exception for event in span.events)
                self._note(span.trace_id, span.start_nanos, has_span=True, has_error=has_error)

    def _note(self, trace_id: str, time_nanos: int, *, has_span: bool, has_error: bool) -> None:
        if not trace_id.startswith(self._selection.trace_id_prefix):
            return
        summary = self._summaries.get(trace_id)
        if summary is None:
            if len(self._summaries) >= _MAX_SUMMARIES:
                self._forget_half()
            summary = self._summaries[trace_id] = _Summary(time_nanos)
        summary.start_nanos = min(summary.start_nanos, time_nanos)
        summary.has_span |= has_span
        summary.has_error |= has_error

    def _forget_half(self) -> None:
        """Drop the older half, of those that do not match first: they cannot be among the newest any more."""
        newest_first = sorted(
            self._summaries.items(),
            key=lambda item: (self._matches(item[1]), item[1].start_nanos, item[0]),
            reverse=True,
        )
        self._summaries = dict(newest_first[: len(newest_first) // 2])

    def _matches(self, summary: _Summary) -> bool:
        is_shown = summary.has_span or bool(self._selection.trace_id_prefix)
        return is_shown and (summary.has_error or not self._selection.errors_only)

    def _newest(self) -> dict[str, int]:
        matching = (
            (summary.start_nanos, trace_id) for trace_id, summary in self._summaries.items() if self._matches(summary)
        )
        return {trace_id: start_nanos for start_nanos, trace_id in heapq.nlargest(self._selection.last, matching)}


def _written_nanos(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # rotated away in between
        return 0


def _may_hold(path: Path, time_nanos: int) -> bool:
    """Tell whether a file may hold anything that happened at this time or later."""
    return _written_nanos(path) + _CLOCK_SLACK_NANOS >= time_nanos


def _read(
    path: Path,
    decode: Callable[[dict[str, Any]], list[_Item]],
    problems: Problems,
    only: Collection[str],
) -> Iterator[_Item]:
    """Yield the items of the lines that name a trace of `only`: a set of ids, or the prefix of an id, empty for all."""
    unreadable, first = 0, 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                content = raw.strip()
                if not content:
                    continue
                try:
                    # The bracket is a cheap look at lines that need no decoding: a line cut short lacks it.
                    if only and content.endswith(b"}") and not _names_one(content, only):
                        continue
                    items = decode(json.loads(content))
                except _MALFORMED:
                    unreadable += 1
                    first = first or number
                    continue
                yield from items
    except OSError as error:
        problems.files[path.name] = error.strerror or str(error)
    if unreadable > problems.lines.get(path.name, (0, 0))[0]:
        problems.lines[path.name] = (unreadable, first)


def _names_one(content: bytes, only: Collection[str]) -> bool:
    ids = (match.lower().decode() for match in _TRACE_ID.findall(content))
    if isinstance(only, str):
        return any(trace_id.startswith(only) for trace_id in ids)
    return any(trace_id in only for trace_id in ids)


def decode_spans(data: dict[str, Any]) -> list[Span]:
    """Return the spans of one TracesData object.

    Raises:
        Exception: One of ValueError, TypeError, KeyError, AttributeError, ArithmeticError or RecursionError when the
            object is something else.
    """
    return [
        _decode_span(span, service_name)
        for resource_spans in data["resourceSpans"]
        for service_name in (_service_name(resource_spans),)
        for scope_spans in resource_spans.get("scopeSpans", ())
        for span in scope_spans.get("spans", ())
    ]


def decode_log_lines(data: dict[str, Any]) -> list[LogLine]:
    """Return the log records of one LogsData object.

    Raises:
        Exception: As `decode_spans`.
    """
    return [
        _decode_log_line(record)
        for resource_logs in data["resourceLogs"]
        for scope_logs in resource_logs.get("scopeLogs", ())
        for record in scope_logs.get("logRecords", ())
    ]


def _decode_span(span: dict[str, Any], service_name: str) -> Span:
    start_nanos = _nanos(span.get("startTimeUnixNano", 0))
    trace_id, span_id = _hex_id(span["traceId"]), _hex_id(span["spanId"])
    flags = int(span.get("flags", 0))
    return Span(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=_hex_id(span.get("parentSpanId", "")),
        parent_is_local=bool(flags & _FLAG_HAS_IS_REMOTE) and not flags & _FLAG_IS_REMOTE,
        name=str(span.get("name", "")),
        kind=int(span.get("kind", 0)),
        start_nanos=start_nanos,
        end_nanos=max(start_nanos, _nanos(span.get("endTimeUnixNano", 0))),
        is_error=int(span.get("status", {}).get("code", 0)) == _STATUS_ERROR,
        attributes=_decode_attributes(span),
        events=tuple(_decode_event(event, trace_id, span_id) for event in span.get("events", ())),
        service_name=service_name,
        linked_trace_ids=tuple(_hex_id(link.get("traceId", "")) for link in span.get("links", ())),
    )


def _decode_event(event: dict[str, Any], trace_id: str, span_id: str) -> LogLine:
    name = str(event.get("name", ""))
    attributes = _decode_attributes(event)
    exception = _exception(attributes)
    return LogLine(
        time_nanos=_nanos(event.get("timeUnixNano", 0)),
        trace_id=trace_id,
        span_id=span_id,
        level="EVENT",
        severity=_SEVERITY_ERROR if name == _EXCEPTION_EVENT else 0,
        message=name,
        attributes=attributes,
        exception=exception,
    )


def _decode_log_line(record: dict[str, Any]) -> LogLine:
    attributes = _decode_attributes(record)
    body = _decode_value(record.get("body", {}))
    return LogLine(
        time_nanos=_nanos(record.get("timeUnixNano", 0)) or _nanos(record.get("observedTimeUnixNano", 0)),
        trace_id=_hex_id(record.get("traceId", "")),
        span_id=_hex_id(record.get("spanId", "")),
        level=str(record.get("severityText", "")),
        severity=int(record.get("severityNumber", 0)),
        message="" if body is None else body if isinstance(body, str) else json.dumps(body, ensure_ascii=False),
        attributes=attributes,
        exception=_exception(attributes),
    )


def _exception(attributes: dict[str, Any]) -> Optional[RecordedException]:
    names = (_names.ATTR_EXCEPTION_TYPE, _names.ATTR_EXCEPTION_MESSAGE, _names.ATTR_EXCEPTION_STACKTRACE)
    values = [str(attributes.get(name, "")) for name in names]
    return RecordedException(*values) if any(values) else None


def _service_name(resource_item: dict[str, Any]) -> str:
    return str(_decode_attributes(resource_item.get("resource", {})).get("service.name", ""))


def _decode_attributes(item: dict[str, Any]) -> dict[str, Any]:
    attributes = item.get("attributes", ())
    return {str(attribute["key"]): _decode_value(attribute.get("value", {})) for attribute in attributes}


def _decode_value(value: dict[str, Any]) -> Any:
    """Decode an AnyValue: https://github.com/open-telemetry/opentelemetry-proto, common.proto."""
    if not value:
        return None
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "doubleValue":  # NaN and the infinities are strings
        return float(content)
    if kind == "arrayValue":
        return [_decode_value(element) for element in content.get("values", ())]
    if kind == "kvlistValue":
        return _decode_attributes({"attributes": content.get("values", ())})
    return content


def _nanos(value: Any) -> int:
    nanos = int(value)
    if not 0 <= nanos <= _UINT64_MAX:
        raise ValueError("not an unsigned 64-bit integer")
    return nanos


def _hex_id(value: str) -> str:
    """Return the id in lower case; the id of nothing, empty or all zeros, as an empty string."""
    lowered = value.lower()
    return lowered if lowered.strip("0") else ""
