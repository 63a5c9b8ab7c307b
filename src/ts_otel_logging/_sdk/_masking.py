"""Masks secrets in what leaves: on the export thread, in copies, so that other processors see what was recorded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Optional

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link, Status

from ts_otel_logging._diagnostics import swallowed
from ts_otel_logging._otlp_log import EventLogRecord
from ts_otel_logging._redaction import MASK, Redaction
from ts_otel_logging._sdk._request_spans import RequestSpan

if TYPE_CHECKING:
    from collections.abc import Mapping


_UUID: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class ExportRedaction:
    """Masks spans and log records.

    Attributes:
        redaction: What is masked; may be replaced at any time.
    """

    def __init__(self) -> None:
        self.redaction = Redaction()

    def _masked(self, text: str) -> str:
        redaction = self.redaction
        # TorchServe's id of a request, another one on each span, which looks like no secret of the built-in list.
        return text if not redaction.items and _UUID.fullmatch(text) else redaction.text(text)

    def span(self, span: ReadableSpan) -> ReadableSpan:
        """Return a span whose name, attributes, events, links and status have their secrets masked; itself if none."""
        redaction = self.redaction
        # With card numbers, numbers have to be looked at as well.
        if (
            type(span) is RequestSpan
            and not redaction.sees_numbers
            and span.is_clean(redaction.clean, redaction.hidden, self._masked)
        ):
            return span
        try:
            changes = _changes(span, redaction)
        except Exception as error:  # noqa: BLE001 - whatever it was, what could not be looked through must not leave
            swallowed("redaction", error)
            code = Status(span.status.status_code)
            changes = {"_name": MASK, "_attributes": {}, "_events": (), "_links": (), "_status": code}
        if not changes:
            return span
        masked = ReadableSpan.__new__(ReadableSpan)
        masked.__dict__.update(span.__dict__)
        masked.__dict__.update(changes)
        return masked

    def log_record(self, readable: ReadableLogRecord) -> ReadableLogRecord:
        """Return a log record whose body and attributes have their secrets masked; itself if none."""
        record = readable.log_record
        if type(record) is EventLogRecord:
            return readable
        try:
            body = self.redaction.value(record.body)
            attributes: Any = _attributes(record.attributes, self.redaction)
        except Exception as error:  # noqa: BLE001 - as above
            swallowed("redaction", error)
            body, attributes = MASK, {}
        if body is record.body and attributes is None:
            return readable
        masked = record.__class__.__new__(record.__class__)
        masked.__dict__.update(record.__dict__, body=body)
        if attributes is not None:
            masked.__dict__["attributes"] = attributes
        return ReadableLogRecord(masked, readable.resource, readable.instrumentation_scope, readable.limits)


def _changes(span: ReadableSpan, redaction: Redaction) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    name = redaction.text(span.name)
    if name is not span.name:
        changes["_name"] = name
    attributes = _attributes(_of(span), redaction)
    if attributes is not None:
        changes["_attributes"] = attributes
    status = span.status
    if status.description:
        description = redaction.text(status.description)
        if description is not status.description:
            changes["_status"] = Status(status.status_code, description)
    # The properties copy; most spans have neither.
    if getattr(span, "_events", True):
        events = _all(span.events, _event, redaction)
        if events is not None:
            changes["_events"] = _bounded(events, span.dropped_events)
    if getattr(span, "_links", True):
        links = _all(span.links, _link, redaction)
        if links is not None:
            changes["_links"] = _bounded(links, span.dropped_links)
    return changes


def _of(item: Any) -> Optional[Mapping[str, Any]]:
    # The public property wraps the mapping, which makes looking at it five times as slow.
    attributes: Optional[Mapping[str, Any]] = getattr(item, "_attributes", None)
    return item.attributes if attributes is None else attributes


def _attributes(mapping: Optional[Mapping[str, Any]], redaction: Redaction) -> Optional[BoundedAttributes]:
    """Return attributes with their secrets masked, or None if they have none."""
    if not mapping:
        return None
    # The SDK's mapping is written in Python, with a lock; the dict in it is not. Any other mapping works, slower.
    fields = getattr(mapping, "_dict", mapping)
    fields = fields if type(fields) is dict else dict(fields)
    masked = redaction.mapping(fields)
    if masked is fields:
        return None
    result = BoundedAttributes(attributes=masked)
    result.dropped = getattr(mapping, "dropped", 0)
    return result


def _all(items: Any, mask: Any, redaction: Redaction) -> Optional[list[Any]]:
    masked = [mask(item, redaction) for item in items]
    return None if all(new is old for new, old in zip(masked, items)) else masked


def _event(event: Event, redaction: Redaction) -> Event:
    name = redaction.text(event.name)
    attributes = _attributes(_of(event), redaction)
    if name is event.name and attributes is None:
        return event
    return Event(name, event.attributes if attributes is None else attributes, event.timestamp)


def _link(link: Link, redaction: Redaction) -> Link:
    attributes = _attributes(_of(link), redaction)
    return link if attributes is None else Link(link.context, attributes)


def _bounded(items: list[Any], dropped: int) -> BoundedList[Any]:
    result: BoundedList[Any] = BoundedList.from_seq(max(len(items), 1), items)
    result.dropped = dropped
    return result
