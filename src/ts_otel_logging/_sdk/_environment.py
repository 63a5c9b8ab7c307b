"""Reading OpenTelemetry's variables from a given mapping, and letting the SDK read the same one."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# We read these ourselves; the SDK's providers and exporters do not.
_OURS = ("OTEL_TRACES_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_METRICS_EXPORTER")


def text(environ: Mapping[str, str], *names: str, default: str = "") -> str:
    """Return the first of the variables that is set; an empty value is an unset one, as the specification says."""
    for name in names:
        value = environ.get(name, "").strip()
        if value:
            return value
    return default


def number(environ: Mapping[str, str], name: str, default: float) -> float:
    """Return a variable's number; a value that is none, or not above 0, counts as unset."""
    try:
        value = float(text(environ, name) or default)
    except ValueError:
        return default
    return value if 0 < value < float("inf") else default


@contextmanager
def seen_by_the_sdk(environ: Mapping[str, str]) -> Iterator[None]:
    """Make `os.environ` agree with a mapping in all ``OTEL_`` variables while the SDK's objects are built.

    They read `os.environ` by themselves, an empty value is not an unset one to all of them, and some raise on a value
    that the caller has already told about, or written otherwise than in lower case.

    Args:
        environ: What the SDK shall see.
    """
    names = {name for name in (*environ, *os.environ) if name.startswith("OTEL_")} - set(_OURS)
    before = {name: os.environ.get(name) for name in names}
    wanted = {name: environ.get(name, "").strip() or None for name in names}
    changes = [name for name in names if before[name] != wanted[name]]
    try:
        for name in changes:
            _set(name, wanted[name])
        yield
    finally:
        for name in changes:
            _set(name, before[name])


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
