"""What is made on first use: public names of a package, each imported from its module, and cached properties."""

from __future__ import annotations

#: As in `typing`, whose import takes a tenth of the time of a call that finds its work done.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from functools import cached_property as cached_property
    from typing import Any
else:

    class cached_property:  # noqa: N801 - as in `functools`
        """As `functools.cached_property` from Python 3.12 on.

        Before, that holds one lock for all instances while it computes (python/cpython#87634): a process that is
        forked meanwhile finds it held for ever, and threads wait for each other's.
        """

        def __init__(self, compute):
            self._compute = compute
            self.__doc__ = compute.__doc__

        def __set_name__(self, owner, name):
            self._name = name

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            value = instance.__dict__[self._name] = self._compute(instance)
            return value


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
