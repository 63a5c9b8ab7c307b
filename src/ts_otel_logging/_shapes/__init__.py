"""Shapes of a line: each module turns an event into the text of one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from ts_otel_logging._config import SHAPE_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_otel_logging._event import Event

Shape = Callable[["Event"], str]
"""Returns an event's line without the newline: one JSON object, safe within one line of UTF-8.

`console` alone returns text for people, whose further lines are indented.
"""


def build_shape(name: str, resource: Mapping[str, Any], *, colors: bool) -> Shape:
    """Return a shape by its name.

    Args:
        name: One of `_config.SHAPE_NAMES`.
        resource: What the process is, as OpenTelemetry's resource attributes: some shapes name the service.
        colors: Whether the lines for people are coloured.

    Raises:
        ValueError: There is no such shape.
    """
    # One at a time: nearly nobody needs another than the first.
    if name == "structlog":
        from ts_otel_logging._shapes._structlog import StructlogShape

        return StructlogShape()
    if name == "otel":
        from ts_otel_logging._shapes._otel import OtelShape

        return OtelShape(resource)
    if name == "ecs":
        from ts_otel_logging._shapes._ecs import EcsShape

        return EcsShape(resource)
    if name == "gcp":
        from ts_otel_logging._shapes._gcp import GcpShape

        return GcpShape(resource)
    if name == "datadog":
        from ts_otel_logging._shapes._datadog import DatadogShape

        return DatadogShape(resource)
    if name == "console":
        from ts_otel_logging._shapes._console import ConsoleShape

        return ConsoleShape(colors=colors)
    raise ValueError(f"renderer {name!r}: accepted are {', '.join(SHAPE_NAMES)} or a structlog renderer")
