"""A callback right after a module was imported: by a finder that is gone once it was used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def after_import(module: str, callback: Callable[[], None]) -> Callable[[], None]:
    """Call back once a module is there: at once if it is, else right after its import.

    Args:
        module: The module's full name.
        callback: What it raises is raised into the import.

    Returns:
        What calls it off, if it has not happened yet.
    """
    if module in sys.modules:
        callback()
        return lambda: None
    hook = _ImportHook(module, callback)
    sys.meta_path.insert(0, hook)
    return hook.remove


class _ImportHook:
    def __init__(self, module: str, callback: Callable[[], None]) -> None:
        self._module = module
        self._callback = callback

    def remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Optional[ModuleSpec]:
        if name != self._module:
            return None
        self.remove()
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._callback)  # type: ignore[assignment]
        return spec


class _Loader:
    """A module's own loader, with something to do afterwards."""

    def __init__(self, loader: Any, callback: Callable[[], None]) -> None:
        self._loader = loader
        self._callback = callback

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        # The module keeps its own loader, as if we had never been there.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._callback()
