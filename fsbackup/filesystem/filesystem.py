"""`FsbackupFileSystem`: fsspec's interface over replication sets."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from fsspec.compression import compr
from fsspec.core import get_compression

from fsbackup.filesystem import paths
from fsbackup.filesystem.append import AppendMethods
from fsbackup.filesystem.base import add_sync_methods
from fsbackup.filesystem.metadata import MetadataMethods
from fsbackup.filesystem.moving import MoveMethods
from fsbackup.filesystem.read_file import AsyncReadFile, ReadFile
from fsbackup.filesystem.reading import ReadMethods
from fsbackup.filesystem.undone import UndoneFile
from fsbackup.filesystem.write_file import AsyncWriteFile, CompressedFile, WriteFile
from fsbackup.sizing import MIB
from fsbackup.stages.undo import IdentityFiles
from fsbackup.threads import in_daemon_thread

if TYPE_CHECKING:
    from fsbackup.config import ConfigLike, Snapshot
    from fsbackup.replication.storage import ReplicatedStorage

#: Default size of the block cache, in bytes.
CACHE_SIZE = 32 * MIB


@add_sync_methods
class FsbackupFileSystem(ReadMethods, MoveMethods, AppendMethods, MetadataMethods):
    """The replication sets of a configuration as a filesystem: ``fsbackup://SET/KEY``.

    A read takes each block from a replica that proves it, also when another one stops answering or sends wrong
    bytes in the middle. A write goes to all replicas; the object exists whole when enough of them have confirmed
    it, or not at all. A path is "not found" only when every replica reports so; any other failure is an `OSError`
    that names the replicas.

    No backend has directories: they are common prefixes of keys. An empty one made by `mkdir` exists in this
    process only.

    Parameters
    ----------
    config
        The configuration: the path of its file, by default ``$FSBACKUP_CONFIG``, else where the command line
        looks; a mapping with what such a file has; what `load_config` returned; or a `ReplicatedStorage`, which
        is then the only set. It is read when fsspec is asked for the filesystem: where the file, a variable or a
        secret file has changed since, that is a new one. This object goes on with what it has until `reload`.

        Pickles, JSON and dask graphs carry the path of the file, or the mapping, and never a secret: in a mapping,
        write ``${NAME}`` for each secret, which other processes take from their own environment. One with a
        secret in it, and a loaded configuration, work in this process and are a `ConfigError` when they are
        pickled. (A mapping that you hand to dask yourself is in its graph as you wrote it.)
    cache_size
        Bytes of proven blocks to cache; 32 MiB by default.
    identity
        The path of a file with an age identity or a private SSH key, or several paths: encrypted objects are read
        as what they were. A key itself is a `ConfigError`: it would be in pickles. By default the file that
        ``$FSBACKUP_AGE_IDENTITY`` names; with neither, reading one is a `ConfigError`, unless it is opened with
        ``raw=True``.
    store_dropped
        Store also a file that is dropped without being closed, as s3fs does. By default it is discarded with a
        `NotStoredWarning`, because a writer that failed half-way drops its file, too. DuckDB's ``EXPORT DATABASE``
        needs it: it never closes the two scripts beside the tables.
    anon
        Ignored; pandas passes it when it tries again after a `PermissionError`.
    **options
        fsspec's own: `asynchronous`, `batch_size`, `loop`, `skip_instance_cache`. Those of its listings cache have
        no effect: there is no such cache here. Mappings under the name of another protocol (``hf``, ``s3``) are
        for that one, and ignored.

    Raises
    ------
    TypeError
        For an unknown option: a misspelt `config` would otherwise open another configuration.
    ConfigError
        When there is no configuration file, and from any method that needs it when it is wrong.
    """

    def __init__(
        self,
        config: ConfigLike | Snapshot | ReplicatedStorage | None = None,
        *,
        cache_size: int = CACHE_SIZE,
        anon: bool | None = None,  # noqa: ARG002
        identity: IdentityFiles | None = None,
        store_dropped: bool = False,
        **options: Any,
    ) -> None:
        # The metaclass has resolved it: it must know what it is before an instance is made.
        super().__init__(cast("Snapshot | ReplicatedStorage", config), cache_size, identity, **options)
        self._store_dropped = store_dropped

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

        A file opened to write is not stored when an exception leaves its ``with`` block, also as text or
        compressed.
        """
        if "b" not in mode or mode == "rb":
            return super().open(path, mode, block_size, cache_options, compression, **kwargs)
        kind = get_compression(paths.strip(path), compression)
        file = super().open(path, mode, block_size, cache_options, **kwargs)
        return file if kind is None else CompressedFile(compr[kind](file, mode=mode[0]), file)

    async def open_async(self, path: str, mode: str = "rb", **kwargs: Any) -> AsyncReadFile | AsyncWriteFile:
        """Return a file whose `read`, `write` and `close` are coroutines; on any loop.

        Raises
        ------
        NotImplementedError
            For text, for `compression`, and to read an encrypted object.
        """
        if "b" not in mode or kwargs.get("compression"):
            raise NotImplementedError(
                f"open_async opens files as they are, not with mode {mode!r} or a compression: "
                "use `fs.open` in a thread"
            )
        if mode == "rb":
            return await self.open_to_read(path)
        open_file: Callable[..., WriteFile] = partial(self._open_to_write, mode=mode)
        if mode == "ab":
            open_file = self.open_to_append
        return AsyncWriteFile(await in_daemon_thread(partial(open_file, path, **kwargs)))

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | str | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        sha256: str | None = None,
        raw: bool = False,
        **kwargs: Any,
    ) -> ReadFile | UndoneFile | WriteFile:
        options = {"block_size": block_size, "cache_options": cache_options, **kwargs}
        if mode == "rb":
            return self.open_version(path, sha256, raw=raw, **options)
        if mode == "ab":
            return self.open_to_append(path, autocommit=autocommit, **options)
        return self._open_to_write(path, mode, autocommit=autocommit, **options)

    def _open_to_write(self, path: str, mode: str, **options: Any) -> WriteFile:
        if mode not in ("wb", "xb"):
            raise io.UnsupportedOperation(
                f"mode {mode!r} is not supported: an object is replaced whole; open it with 'wb' or 'xb'"
            )
        path, create_only = paths.strip(path), mode == "xb"
        paths.split_for_write(path)
        if create_only and self.exists(path):
            raise paths.exists_error(path)
        start_upload = partial(self.start_upload, self.sets[paths.split(path)[0]], path, create_only=create_only)
        return WriteFile(self, path, mode, start_upload, store_dropped=self._store_dropped, **options)
