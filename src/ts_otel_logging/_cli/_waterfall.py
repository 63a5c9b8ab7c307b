"""A trace as rows of a terminal: its spans on one time axis, with their log lines in between, in clock order."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Union

from rich.text import Text

from ts_otel_logging import _names
from ts_otel_logging._cli._otlp_files import LogLine, Span, Trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

# https://github.com/open-telemetry/opentelemetry-proto, trace.proto: Span.SpanKind. INTERNAL says nothing new.
_KIND_NAMES: Final = {2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
# The lowest severity number of each: https://opentelemetry.io/docs/specs/otel/logs/data-model/#severity-fields
_LEVEL_STYLES: Final = ((17, "bold red"), (13, "yellow"), (9, "green"), (0, "dim"))
_FIRST_CLIENT_ERROR_STATUS: Final = 400
# These are the span's, or have a place of their own in the rows.
_HIDDEN_ATTRIBUTES: Final = ("torchserve.", "exception.", "log.", "code.")

# What would be rounded up to 1000 of a smaller unit, or to 60 s, takes the next one.
_MILLISECONDS_FROM_NANOS: Final = 999_500
_SECONDS_FROM_NANOS: Final = 999_500_000
_MINUTES_FROM_NANOS: Final = 59_950_000_000

_MARGIN: Final = "   "
_GAP: Final = "  "
_TRUNK, _BRANCH, _LAST_BRANCH, _NO_BRANCH = "│  ", "├─ ", "└─ ", "   "
_OFFSET_CELLS: Final = 8
_MIN_BAR_CELLS: Final = 8
_MIN_NAME_CELLS: Final = 12
_MAX_LEVEL_CELLS: Final = 8
_MAX_EXCEPTION_ROWS: Final = 3
# So many digits of a linked trace's id tell it from the others, and `show` finds it by them.
_LINKED_ID_DIGITS: Final = 8
_MAX_LINKED_IDS: Final = 4

ASCII_DRAWING: Final = str.maketrans("━╸╺─├└│·✓✗µ…", "===-|`|-+xu~")
"""For terminals whose encoding lacks what the rows are drawn with: one cell for one cell."""


class _Outside(NamedTuple):
    """A span that others name but the folder does not hold: the caller's, or one that was lost."""

    span_id: str
    is_local: bool
    start_nanos: int


_Item = Union[Span, LogLine, _Outside]


class _Node(NamedTuple):
    item: _Item
    lead: str
    """The tree's branches in front of its row."""
    below: str
    """The branches in front of what hangs from it."""


def draw(trace: Trace, console: Console, *, with_stacks: bool = False) -> list[Text]:
    """Return the rows of a trace, none wider than the console but for stack traces that go elsewhere than a terminal.

    Args:
        trace: What the folder holds of it.
        console: Where the rows will be printed.
        with_stacks: Whether the stack traces of exceptions follow their messages.
    """
    return _Drawing(trace, console, with_stacks=with_stacks).rows()


class _Drawing:
    def __init__(self, trace: Trace, console: Console, *, with_stacks: bool) -> None:
        self._trace = trace
        self._console = console
        self._width = console.width
        self._with_stacks = with_stacks
        # The same span twice is an export that was repeated.
        self._spans = list({span.span_id: span for span in trace.spans}.values())
        self._parent_ids = {span.parent_span_id for span in self._spans}
        self._start_nanos = trace.start_nanos
        self._axis_nanos = max((span.end_nanos for span in self._spans), default=self._start_nanos) - self._start_nanos
        self._nodes = list(_tree(self._spans, _lines(trace, self._spans)))
        # A latency field that became a span is in that span's row.
        self._reported_names = {span.name for span in self._spans if _is_reported(span)}
        self._share_width()

    def _share_width(self) -> None:
        """Settle the cells of the columns: name, bar, duration, status."""
        names = [len(node.lead) + _name(node.item).cell_len for node in self._nodes if isinstance(node.item, Span)]
        lines = [node.item for node in self._nodes if isinstance(node.item, LogLine)]
        self._level_cells = min(max((len(line.level) for line in lines), default=0), _MAX_LEVEL_CELLS)
        self._duration_cells = max((len(_duration(span)) for span in self._spans), default=0)
        widest_status = max((_status(span).cell_len for span in self._spans), default=0)
        self._status_cells = min(widest_status, self._width // 4)
        taken = len(_GAP) * (3 if self._status_cells else 2) + self._duration_cells + self._status_cells
        room = max(self._width - taken, 0)
        self._name_cells = min(max(names, default=0), max(room * 3 // 5, _MIN_NAME_CELLS))
        self._bar_cells = room - self._name_cells if room - self._name_cells >= _MIN_BAR_CELLS else 0

    def rows(self) -> list[Text]:
        rows = [*self._header(), Text()]
        for node in self._nodes:
            if isinstance(node.item, Span):
                rows.append(self._span_row(node.item, node.lead))
                if node.item.linked_trace_ids:
                    rows.append(self._links_row(node))
            elif isinstance(node.item, LogLine):
                rows.extend(self._line_rows(node.item, node.lead))
            else:
                rows.append(_outside_row(node.item))
        for row in rows:
            row.rstrip()
            if row.overflow != "ignore":
                row.truncate(self._width, overflow="ellipsis")
        return rows

    def _header(self) -> Iterator[Text]:
        trace = self._trace
        title = Text("── trace ", "dim").append(visible(trace.trace_id), "not dim bold").append(" ")
        yield title.append("─" * max(self._width - title.cell_len, 0))
        service_names = sorted({span.service_name for span in self._spans} - {""})
        facts = [
            *(Text(visible(name), "bold cyan") for name in service_names),
            Text(format_time(self._start_nanos)),
            Text(format_duration(self._axis_nanos), "bold"),
            Text(_count(len(self._spans), trace.span_count - len(trace.spans), "span")),
            Text(_count(len(trace.lines), trace.line_count - len(trace.lines), "line")),
        ]
        failed = sum(span.is_error for span in self._spans)
        if failed:
            facts.append(Text(f"{failed:,} failed", "bold red"))
        # A narrow terminal gets a second row rather than a cut one.
        row = Text(_MARGIN).append_text(facts[0])
        for fact in facts[1:]:
            if row.cell_len + 3 + fact.cell_len > self._width:
                yield row
                row = Text(_MARGIN).append_text(fact)
            else:
                row.append(" · ", "dim").append_text(fact)
        yield row

    def _span_row(self, span: Span, lead: str) -> Text:
        row = self._lead(lead).append_text(_name(span))
        row.truncate(self._name_cells, overflow="ellipsis", pad=True)
        if self._bar_cells:
            row.append(_GAP).append(self._bar(span), _bar_style(span))
        row.append(_GAP).append(_duration(span).rjust(self._duration_cells))
        if self._status_cells:
            status = _status(span)
            status.truncate(self._status_cells, overflow="ellipsis")
            row.append(_GAP).append_text(status)
        return row

    def _links_row(self, node: _Node) -> Text:
        trace_ids = node.item.linked_trace_ids if isinstance(node.item, Span) else ()
        named = ", ".join(visible(trace_id[:_LINKED_ID_DIGITS]) for trace_id in trace_ids[:_MAX_LINKED_IDS])
        more = f" and {len(trace_ids) - _MAX_LINKED_IDS:,} more" if len(trace_ids) > _MAX_LINKED_IDS else ""
        trunk = _TRUNK if node.item.span_id in self._parent_ids else _NO_BRANCH
        return self._lead(node.below + trunk).append(f"linked with trace {named}{more}", "dim")

    def _lead(self, lead: str) -> Text:
        # Of a very deep tree the innermost branches.
        return Text().append(lead[-max(self._name_cells // 2, 3) :], "dim")

    def _bar(self, span: Span) -> str:
        """Place the span on the axis in steps of half a cell; the shortest is half a cell long."""
        halves = 2 * self._bar_cells
        scale = halves / (self._axis_nanos or 1)
        first = min(math.floor((span.start_nanos - self._start_nanos) * scale), halves - 1)
        end = max(min(math.ceil((span.end_nanos - self._start_nanos) * scale), halves), first + 1)
        covered = [first <= half < end for half in range(halves)]
        return "".join(_HALVES[pair] for pair in zip(covered[::2], covered[1::2]))

    def _line_rows(self, line: LogLine, branches: str) -> Iterator[Text]:
        lead = self._lead(branches)
        offset_nanos = line.time_nanos - self._start_nanos
        offset = f"{'-' if offset_nanos < 0 else '+'}{format_duration(abs(offset_nanos))}"
        row = lead.copy().append(offset.ljust(_OFFSET_CELLS), "dim").append(_GAP)
        level = visible(line.level)[: self._level_cells].ljust(self._level_cells)
        row.append(level, _level_style(line.severity)).append(_GAP).append(visible(line.message))
        for key, value in line.attributes.items():
            if not key.startswith(_HIDDEN_ATTRIBUTES) and key not in self._reported_names:
                row.append(_GAP).append(f"{visible(key)}=", "dim").append(_attribute(value), "cyan")
        yield row
        if line.exception is None:
            return
        indent = lead.copy().append(" " * (_OFFSET_CELLS + len(_GAP)))
        type_name, message, stacktrace = line.exception
        raised = Text(visible(type_name), "bold red")
        if message:
            raised.append(": " if type_name else "").append(visible(message), "not bold")
        folded = self._folded(raised, indent)
        yield from folded[:_MAX_EXCEPTION_ROWS]
        if len(folded) > _MAX_EXCEPTION_ROWS:
            yield indent.copy().append("…", "dim")
        if self._with_stacks:
            for stack_row in stacktrace.splitlines():
                text = Text(visible(stack_row), "dim")
                if self._console.is_terminal:
                    yield from self._folded(text, indent)
                else:
                    # Paths and code are there to be copied and searched for.
                    row = indent.copy().append_text(text)
                    row.overflow = "ignore"
                    yield row

    def _folded(self, text: Text, indent: Text) -> list[Text]:
        room = max(self._width - indent.cell_len, 1)
        return [indent.copy().append_text(part) for part in text.wrap(self._console, room, overflow="fold")]


_HALVES: Final = {(True, True): "━", (True, False): "╸", (False, True): "╺", (False, False): " "}


def _lines(trace: Trace, spans: Iterable[Span]) -> list[LogLine]:
    """Return log lines and span events; an exception that is both appears once, as the log line."""
    logged = {line.exception[:2] for line in trace.lines if line.exception}
    events = (event for span in spans for event in span.events)
    return [*trace.lines, *(event for event in events if not event.exception or event.exception[:2] not in logged)]


def _tree(spans: list[Span], lines: list[LogLine]) -> Iterator[_Node]:
    """Yield every span and line once, parents first, siblings in clock order."""
    below: dict[str, list[_Item]] = {}
    for span in spans:
        below.setdefault(span.parent_span_id, []).append(span)
    for line in lines:
        below.setdefault(line.span_id, []).append(line)
    known = {"", *(span.span_id for span in spans)}
    roots = list(below.get("", ()))
    for span_id, items in below.items():
        if span_id not in known:
            # A line always belongs to a span of its own process.
            is_local = all(not isinstance(item, Span) or item.parent_is_local for item in items)
            roots.append(_Outside(span_id, is_local, min(map(_time_nanos, items))))
    seen: set[str] = set()
    yield from _walk(roots, below, seen)
    # Spans that name each other as parents hang from nothing: begin with the earliest.
    for span in sorted(spans, key=_clock_order):
        yield from _walk([span], below, seen)


def _walk(roots: list[_Item], below: dict[str, list[_Item]], seen: set[str]) -> Iterator[_Node]:
    # A stack of our own: a trace may be deeper than Python's recursion.
    stack = [_Node(item, "", "") for item in sorted(roots, key=_clock_order, reverse=True)]
    while stack:
        node = stack.pop()
        if isinstance(node.item, LogLine):
            yield node
            continue
        if node.item.span_id in seen:
            continue
        seen.add(node.item.span_id)
        yield node
        # The stack's top comes out first, so the last one goes in first.
        is_last = True
        for item in sorted(below.get(node.item.span_id, ()), key=_clock_order, reverse=True):
            trunk = node.below + (_NO_BRANCH if is_last else _TRUNK)
            if isinstance(item, LogLine):
                stack.append(_Node(item, trunk, trunk))
            else:
                stack.append(_Node(item, node.below + (_LAST_BRANCH if is_last else _BRANCH), trunk))
                is_last = False


def _clock_order(item: _Item) -> tuple[int, int, str, str]:
    # Of what begins at the same instant the longer span is the outer one, and lines belong to what has begun.
    if isinstance(item, Span):
        return (item.start_nanos, item.start_nanos - item.end_nanos, item.name, item.span_id)
    return (_time_nanos(item), 1, item.message if isinstance(item, LogLine) else "", item.span_id)


def _time_nanos(item: _Item) -> int:
    return item.time_nanos if isinstance(item, LogLine) else item.start_nanos


def _outside_row(outside: _Outside) -> Text:
    span_id = visible(outside.span_id)
    return Text(f"(span {span_id} is not in the folder)" if outside.is_local else f"(remote parent {span_id})", "dim")


def _name(span: Span) -> Text:
    name = Text(visible(span.name), "bold")
    if span.kind in _KIND_NAMES:
        name.append(f" {_KIND_NAMES[span.kind]}", "not bold dim")
    return name


def _duration(span: Span) -> str:
    return format_duration(span.end_nanos - span.start_nanos)


def _is_reported(span: Span) -> bool:
    return bool(span.attributes.get(_names.ATTR_SPAN_SOURCE) == _names.SPAN_SOURCE_LOG)


def _bar_style(span: Span) -> str:
    if span.is_error:
        return "red"
    if _is_reported(span):
        return "magenta"
    return "cyan" if span.kind in _KIND_NAMES else "blue"


def _status(span: Span) -> Text:
    code = span.attributes.get(_names.ATTR_RESPONSE_STATUS_CODE)
    refused = isinstance(code, int) and code >= _FIRST_CLIENT_ERROR_STATUS
    if span.is_error:
        mark, style = "✗", "bold red"
    elif span.error_type or refused:
        mark, style = "✗", "yellow"
    elif code is not None:
        mark, style = "✓", "green"
    else:
        return Text()
    words = (mark, "" if code is None else visible(str(code)), visible(span.error_type))
    return Text(" ".join(filter(None, words)), style)


def _level_style(severity: int) -> str:
    return next((style for lowest, style in _LEVEL_STYLES if severity >= lowest), "dim")


def _attribute(value: Any) -> str:
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _count(shown: int, left_out: int, noun: str) -> str:
    of = f"last {shown:,} of " if left_out else ""
    return f"{of}{shown + left_out:,} {noun}{'' if shown + left_out == 1 else 's'}"


def visible(text: str) -> str:
    """Return the text on one row: what would move a terminal's cursor, or cannot be encoded, as an escape.

    Args:
        text: Anything that a model, a client or a library wrote.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def format_duration(nanos: int) -> str:
    """Return a duration with three digits in the unit that suits it: `830 µs`, `12.4 ms`, `1.25 s`, `2 min 05 s`.

    Args:
        nanos: Nanoseconds, not negative.
    """
    if nanos < _MILLISECONDS_FROM_NANOS:
        return f"{nanos / 1e3:.0f} µs"
    if nanos < _SECONDS_FROM_NANOS:
        return f"{nanos / 1e6:#.3g}".rstrip(".") + " ms"
    if nanos < _MINUTES_FROM_NANOS:
        return f"{nanos / 1e9:#.3g}".rstrip(".") + " s"
    minutes, seconds = divmod(round(nanos / 1e9), 60)
    return f"{minutes:,} min {seconds:02} s"


def format_time(nanos: int) -> str:
    """Return a time in UTC to the millisecond: `2026-11-21T09:43:12.345Z`, as log lines have it.

    Args:
        nanos: Nanoseconds since the epoch, below 2**64.
    """
    moment = dt.datetime.fromtimestamp(nanos // 10**9, dt.timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanos // 10**6 % 1000:03}Z"
