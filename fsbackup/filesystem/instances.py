"""Which instance of `FsbackupFileSystem` a caller gets.

fsspec keeps instances by their options, and returns the same one for ever. The option of ours is a configuration,
which changes: the file under its path, the path that ``$FSBACKUP_CONFIG`` or the current directory leads to, the
variables and secrets that it uses. So it is resolved *before* fsspec looks (`ConfiguredInstances.__call__`), and a
snapshot of it takes its place among the options. Its repr, of which fsspec makes the token, has no secret.

An instance goes on with the snapshot that it was made with, until its `reload`. One whose configuration has
changed is not returned again; who still has it may use it, its open files included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.config import apply_config

from fsbackup.filesystem.identity import portable
from fsbackup.filesystem.paths import PROTOCOL
from fsbackup.replication.storage import ReplicatedStorage

#: The options of ours, and those that fsspec passes to any filesystem, or accepts for it.
_OWN_OPTIONS = ("config", "cache_size", "anon", "identity", "store_dropped")
_FSSPEC_OPTIONS = frozenset(
    {"asynchronous", "batch_size", "listings_expiry_time", "loop", "max_paths", "use_listings_cache"}
)


class ConfiguredInstances(type(AsyncFileSystem)):  # type: ignore[misc]
    """The metaclass of `FsbackupFileSystem`: see the module."""

    def __call__(cls, config: Any = None, **options: Any) -> Any:
        """Return an instance for what the configuration says now, a cached one where there is one."""
        from fsbackup.config import take

        options = apply_config(cls, options if config is None else {**options, "config": config})
        options = {name: value for name, value in options.items() if not _is_of_another(name, value)}
        _check_known(options)
        if "identity" in options:
            options["identity"] = portable(options["identity"])
        given = options.pop("config", None)
        if isinstance(given, ReplicatedStorage):
            # It has an instance of its own (`ReplicatedStorage.fs`); what it consists of is no key for a cache.
            options["skip_instance_cache"] = True
        else:
            given = take(given)
            cls._forget(lambda each: each.sets.is_outdated(given))
        return super().__call__(config=given, **options)

    def _forget(cls, is_concerned: Any) -> None:
        """Remove instances from fsspec's cache."""
        with cls._instantiation_lock:
            for token, instance in list(cls._cache.items()):
                if is_concerned(instance):
                    del cls._cache[token]


def _check_known(options: Mapping[str, Any]) -> None:
    """Raise `TypeError` for an unknown option: a misspelt `config` would otherwise open another configuration."""
    known = [*_OWN_OPTIONS, *sorted(_FSSPEC_OPTIONS)]
    if unknown := sorted(options.keys() - {*known, "skip_instance_cache"}):
        names = ", ".join(map(repr, unknown))
        raise TypeError(f"fsbackup:// has no option {names}; it takes {', '.join(known)}")


def _is_of_another(name: str, value: Any) -> bool:
    """Tell whether an option is a mapping of options for another filesystem, under the name of its protocol.

    fsspec's chained URLs and Hugging Face's `datasets` (``hf={...}``) hand them to everybody.
    """
    return isinstance(value, Mapping) and name not in (PROTOCOL, "config") and name in fsspec.available_protocols()
