"""Public names of a package, each imported from its module on first use: who needs one does not load all."""

from __future__ import annotations

#: As in `typing`, whose import takes a tenth of the time of a call that finds its work done.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def names_of(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package.

    Parameters
    ----------
    package
        The package's name.
    modules
        By public name, the module that has it.
    """

    def get(name: str) -> Any:
        if name in modules:
            from importlib import import_module

            return getattr(import_module(modules[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
