"""The methods that copy and move. A move is a copy, then the removal of the copied files and of nothing else.

Two paths can name one object or share replicas of it: sets may have backends in common, under any names. Therefore
`store.address` of every replica is compared, and a replica that belongs to the target is never removed. A move:

1. `_mv` resolves the paths, lists directories, and checks all files; up to here nothing has changed.
2. `_mv_file`, for each file, stores the newest version under the target, then deletes that version (no newer one)
   from the replicas that the target does not use.

A crash leaves files at both paths, or at the target only.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from fsbackup.engine import delete
from fsbackup.engine.server_copy import CopySource, find_copyable
from fsbackup.engine.stream_source import StreamSource
from fsbackup.filesystem import paths
from fsbackup.filesystem.base import on_io_loop
from fsbackup.filesystem.pipe import Pipe
from fsbackup.filesystem.versions import Version
from fsbackup.filesystem.writing import WriteMethods, run_concurrently
from fsbackup.keys import encode_key
from fsbackup.threads import in_daemon_thread

#: What fsspec accepts as paths.
Paths = str | os.PathLike[str] | list[str]


class MoveMethods(WriteMethods):
    """Copies and moves."""

    @on_io_loop
    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:  # noqa: ARG002
        source, target = paths.strip(path1), paths.strip(path2)
        if await self._isdir(source):
            await self._makedirs(target, exist_ok=True)
            return
        version = await self.version(source, now=True)
        if source != target:
            await self._copy_version(version, target)

    async def _copy(self, path1: Paths, path2: Paths, *args: Any, **kwargs: Any) -> None:
        single = not isinstance(path1, list) and not isinstance(path2, list)
        if single and paths.strip(path1) == paths.strip(path2):  # type: ignore[arg-type]
            await self._info(path1)
        elif single and await self._is_literal(paths.strip(path1)):  # type: ignore[arg-type]
            source, target = await self._resolve_target(path1, path2)  # type: ignore[arg-type]
            await super()._copy([source], [target], *args, **kwargs)
        else:
            await super()._copy(path1, path2, *args, **kwargs)

    async def _copy_version(self, version: Version, path: str) -> None:
        """Store the bytes of a version under another path, by the services that have them where they can copy."""
        manifest = version.reader.manifest
        if manifest is None:
            await self._copy_bytes(version, path)
            return
        (origin, _), (target, key) = paths.split(version.path), paths.split_for_write(path)
        origins, targets = (self.sets[each].replica_set.stores for each in (origin, target))
        copyable = await find_copyable(origins, targets, manifest, key)
        source = CopySource(version.reader, manifest, copyable)
        try:
            await self._store(path, source)
        finally:
            await source.stop()

    async def _copy_bytes(self, version: Version, path: str) -> None:
        """Store the bytes of a version that nothing proves."""
        pipe = Pipe()
        source = StreamSource(pipe.as_stream(), version.path, allow_empty=True)
        upload = asyncio.create_task(self._store(path, source, size=version.size))
        # Also after a failure: otherwise the writer below would wait for room for ever.
        upload.add_done_callback(lambda _: pipe.fail(OSError("the copy has ended")))
        try:
            async with aclosing(version.reader.pieces()) as pieces:
                async for piece in pieces:
                    await in_daemon_thread(partial(pipe.write, piece))
            pipe.end()
        except BaseException as error:
            if not upload.done():
                pipe.fail(error if isinstance(error, Exception) else OSError("the copy was cancelled"))
                await asyncio.wait({upload})
                raise
        await upload

    @on_io_loop
    async def _mv(
        self,
        path1: Paths,
        path2: Paths,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,  # noqa: ARG002 - options of other filesystems
    ) -> None:
        """Move files, or with `recursive` directories, into `path2` where that is a directory, else to that name.

        A ``*`` has no special meaning. A move onto itself changes nothing. Between sets that share backends the
        replicas on those stay, since they belong to the target.

        Raises
        ------
        ValueError
            Before anything moves: a directory would move below itself, or a file onto another file of this move.
        FileNotFoundError, NoHealthyReplicaError
            Before anything moves: a path is absent, or a directory could not be listed on every replica.
        ConflictError
            A newer version was stored meanwhile. It stays, and the older one is at the target.
        """
        named = [await self._resolve_target(*pair) for pair in _pairs(path1, path2)]
        moves: dict[str, str] = {}
        for source, target in named:
            files = await self._files_to_move(source, target, recursive=recursive, maxdepth=maxdepth)
            moves.update({file: target + file.removeprefix(source) for file in files})
        self._check_moves(moves)
        await run_concurrently(lambda move: self._mv_file(*move), moves.items())
        for source, target in named:
            if source != target and maxdepth is None:
                self.empty_directories.move(source, target)

    @on_io_loop
    async def _mv_file(self, path1: str, path2: str) -> None:
        """Move one file to exactly this name."""
        source, target = paths.strip(path1), paths.strip(path2)
        self.versions.discard(source)
        version = await self.version(source)
        if source != target:
            await self._copy_version(version, target)
            await self._delete_moved(version, target)
            self.versions.discard(source)

    async def _delete_moved(self, version: Version, target: str) -> None:
        """Delete a version from its replicas, except from those that the object at `target` has too."""
        name, key = paths.split(version.path)
        replicas, kept = self.sets[name].replica_set, self._addresses(target)
        stores = tuple(store for store in replicas.stores if store.address(encode_key(key)) not in kept)
        if not stores:
            return
        manifest = version.reader.manifest
        generation = manifest.generation if manifest else None
        report = await delete.delete(replace(replicas, stores=stores), key, generation=generation)
        if not report:
            raise report.failure()

    async def _resolve_target(self, path1: str, path2: str) -> tuple[str, str]:
        """Return the source, and its path after the move: inside `path2` where that is a directory."""
        source, target = paths.strip(path1), paths.strip(path2)
        if source == target or os.fspath(path1).endswith("/"):
            return source, target
        into = os.fspath(path2).endswith("/") or await self._isdir(target)
        return source, f"{target}/{source.rpartition('/')[2]}" if into else target

    async def _files_to_move(
        self, source: str, target: str, *, recursive: bool, maxdepth: int | None
    ) -> list[str]:
        kind = await self._type(source)
        if kind is None:
            raise FileNotFoundError(errno.ENOENT, "no such object or directory", source)
        if source == target:
            return []
        files = await self._select_files(source, kind, "move", recursive=recursive, maxdepth=maxdepth)
        prefixes = tuple(f"{address}/" for address in self._addresses(source))
        if kind == "directory" and any(each.startswith(prefixes) for each in self._addresses(target)):
            raise ValueError(f"cannot move the directory {source} below itself, to {target}; nothing was moved")
        return files

    def _check_moves(self, moves: Mapping[str, str]) -> None:
        """Raise when one file would replace another that moves as well."""
        sources = {address: source for source in moves for address in self._addresses(source)}
        targets: dict[str, str] = {}
        for source, target in moves.items():
            paths.split_for_write(target)
            for address in self._addresses(target):
                for other in (sources.get(address, source), targets.setdefault(address, source)):
                    if other != source:
                        raise ValueError(
                            f"cannot move {source} to {target}: {other} is in its way; nothing was moved"
                        )

    def _addresses(self, path: str) -> set[str]:
        """Return the addresses of all replicas of the object at a path, whether or not it exists."""
        name, key = paths.split(path)
        return {store.address(encode_key(key)) for store in self.sets[name].replica_set.stores}


def _pairs(path1: Paths, path2: Paths) -> list[tuple[str, str]]:
    """Return (source, target) pairs: a list moves into a directory, or one by one to the paths of another list."""
    if not isinstance(path1, list):
        return [(os.fspath(path1), os.fspath(path2))]  # type: ignore[arg-type]
    if isinstance(path2, list):
        return list(zip(path1, path2, strict=True))
    return [(each, f"{os.fspath(path2)}/") for each in path1]
