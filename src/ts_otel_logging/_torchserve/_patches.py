"""Attributes of other people's modules and classes, replaced and put back."""

from __future__ import annotations

from typing import Any, Callable, Final

from ts_otel_logging._diagnostics import swallowed

_MISSING: Final = object()


class Patches:
    """Attributes that were replaced, newest last, so that all can be put back."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any]] = []
        self._on_undo: list[Callable[[], None]] = []

    def on_undo(self, callback: Callable[[], None]) -> None:
        """Call a function when everything has been put back."""
        self._on_undo.append(callback)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a module or class."""
        before = vars(owner).get(name, _MISSING)
        setattr(owner, name, value)
        self._replaced.append((owner, name, before))

    def undo(self) -> None:
        """Put every attribute back as it was; one that cannot be put back does not keep the others."""
        while self._replaced:
            owner, name, value = self._replaced.pop()
            try:
                if value is _MISSING:
                    delattr(owner, name)
                else:
                    setattr(owner, name, value)
            except Exception as error:  # noqa: BLE001 - the owner's own code
                swallowed("undo of a patch", error)
        while self._on_undo:
            self._on_undo.pop()()
