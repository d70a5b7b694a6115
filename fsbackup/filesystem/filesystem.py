"""`FsbackupFileSystem`: what fsspec asks of a filesystem, over replication sets."""

from __future__ import annotations

import io
import os
from typing import Any

from fsspec.compression import compr
from fsspec.core import get_compression

from fsbackup.filesystem import paths
from fsbackup.filesystem.base import add_sync_methods
from fsbackup.filesystem.metadata import MetadataMethods
from fsbackup.filesystem.moving import Moving
from fsbackup.filesystem.read_file import ReadFile
from fsbackup.filesystem.reading import ReadMethods
from fsbackup.filesystem.writing import WriteMethods
from fsbackup.filesystem.written import CompressedFile, WriteFile
from fsbackup.sizing import MIB

#: Bytes of proven blocks that one filesystem remembers by default.
CACHE_SIZE = 32 * MIB
#: What fsspec gives, or lets one give, to any filesystem.
_OPTIONS = frozenset(
    {"asynchronous", "batch_size", "listings_expiry_time", "loop", "max_paths", "use_listings_cache"}
)


@add_sync_methods
class FsbackupFileSystem(ReadMethods, Moving, WriteMethods, MetadataMethods):
    """The replication sets of a configuration as a filesystem: ``fsbackup://SET/KEY``.

    Reads come from whichever replica proves each block, also when one dies, lies or rots in the middle; writes go
    to all replicas, and are there whole when enough of them have confirmed, or not at all. A name is "not found"
    only when every replica says so; anything else is an `OSError` that names the replicas.

    There are no directories on the backends: one is what keys have in common. Those that are made here and still
    empty are known to this process only.

    Parameters
    ----------
    config
        The configuration's path. By default ``$FSBACKUP_CONFIG``, else where the command line looks. Pickles, JSON
        and dask graphs carry this path, and nothing else: never a secret.
    cache_size
        Bytes of proven blocks to remember; 32 MiB by default.
    anon
        Ignored; pandas passes it when it tries again after a `PermissionError`.
    **options
        fsspec's own: `asynchronous`, `batch_size`, `loop`, `skip_instance_cache`, and those of listings caches, of
        which there is none here.

    Raises
    ------
    TypeError
        For an option that there is not: a misspelt one would otherwise open another configuration.
    ConfigError
        When there is no configuration, and from any method that needs it when it is wrong.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | None = None,
        cache_size: int = CACHE_SIZE,
        anon: bool | None = None,  # noqa: ARG002
        **options: Any,
    ) -> None:
        from fsbackup.config import find_config

        if unknown := sorted(options.keys() - _OPTIONS):
            known = ", ".join(["config", "cache_size", "anon", *sorted(_OPTIONS)])
            raise TypeError(f"fsbackup:// has no option {', '.join(map(repr, unknown))}; it takes {known}")
        found = find_config(os.fspath(config) if config is not None else None)
        super().__init__(os.path.abspath(found), cache_size, **options)

    def open(
        self,
        path: str | os.PathLike[str],
        mode: str = "rb",
        block_size: int | str | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return a file opened to read or write; see fsspec's `AbstractFileSystem.open`.

        What an exception leaves in ``with fs.open(path, "wb")`` is not stored, also as text or compressed.
        """
        if "b" not in mode or mode == "rb":
            return super().open(path, mode, block_size, cache_options, compression, **kwargs)
        kind = get_compression(paths.strip(path), compression)
        file = super().open(path, mode, block_size, cache_options, **kwargs)
        return file if kind is None else CompressedFile(compr[kind](file, mode=mode[0]), file)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | str | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        sha256: str | None = None,
        **kwargs: Any,
    ) -> ReadFile | WriteFile:
        _check_mode(mode)
        options = {"block_size": block_size, "cache_options": cache_options, **kwargs}
        if mode == "rb":
            return self.open_version(path, sha256, **options)
        paths.split_for_write(path)
        if mode == "xb" and self.exists(path):
            raise paths.exists_error(path)
        return WriteFile(self, paths.strip(path), mode, autocommit=autocommit, **options)


def _check_mode(mode: str) -> None:
    """Raise for a mode that would change an object in place.

    Raises
    ------
    io.UnsupportedOperation
        For ``"ab"``, ``"r+b"`` and the like.
    """
    if mode not in ("rb", "wb", "xb"):
        raise io.UnsupportedOperation(
            f"mode {mode!r} is not supported: an object is replaced whole; open it with 'wb' or 'xb'"
        )
