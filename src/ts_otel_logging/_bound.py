"""structlog's context variables, for programs that use structlog: importing it takes a tenth of a second.

Its `dev` module, which it imports with everything else, imports rich where that is installed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def bound_contextvars() -> dict[str, Any]:
    """Return what ``structlog.contextvars.bind_contextvars`` has bound; a dict of the caller's own."""
    module = sys.modules.get("structlog.contextvars")
    if module is None:
        return {}
    # The variables that were ever bound, as structlog keeps them: most programs bind none, and asking for their values
    # takes a fifth of the time of an event. A release that keeps them elsewhere is asked each time.
    try:
        if not module._CONTEXT_VARS:  # noqa: SLF001 - as above
            return {}
    except AttributeError:
        pass
    # It may just be being imported.
    get_contextvars = getattr(module, "get_contextvars", dict)
    bound: dict[str, Any] = get_contextvars()
    return bound


def restore_contextvars(before: Mapping[str, Any]) -> None:
    """Let what is bound be what `bound_contextvars` returned before."""
    bound = bound_contextvars()
    if bound != before:
        from structlog.contextvars import bind_contextvars, unbind_contextvars

        unbind_contextvars(*(bound.keys() - before.keys()))
        bind_contextvars(**before)
