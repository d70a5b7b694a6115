"""Copying and moving. A move is a copy, then the removal of what was copied and of nothing else.

Two paths can name one object, or share copies of it: sets may have backends in common, under whatever names. So
addresses are compared, and a copy that belongs to the target is never removed.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fsbackup.engine import delete
from fsbackup.engine.source import StreamSource
from fsbackup.filesystem import paths
from fsbackup.filesystem.base import on_io_loop, side_by_side
from fsbackup.filesystem.pipe import Pipe
from fsbackup.filesystem.versions import Version
from fsbackup.filesystem.writing import WriteMethods
from fsbackup.keys import encode_key

#: What fsspec takes for paths: one, or a list.
Paths = str | os.PathLike[str] | list[str]


class Moving(WriteMethods):
    """The methods that copy and move."""

    @on_io_loop
    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:  # noqa: ARG002
        source, target = paths.strip(path1), paths.strip(path2)
        if await self._isdir(source):
            await self._makedirs(target, exist_ok=True)
            return
        version = await self.version(source)
        if source != target:
            await self._store_again(version, target)

    async def _copy(self, path1: Paths, path2: Paths, *args: Any, **kwargs: Any) -> None:
        if (
            not isinstance(path1, list)
            and not isinstance(path2, list)
            and paths.strip(path1) == paths.strip(path2)
        ):
            await self._info(path1)
        else:
            await super()._copy(path1, path2, *args, **kwargs)

    async def _store_again(self, version: Version, path: str) -> None:
        """Store the bytes of a version under another path."""
        pipe = Pipe()
        storing = asyncio.create_task(
            self._store(path, StreamSource(pipe.as_stream(), version.path, allow_empty=True), version.size)
        )
        # Also when it fails: whoever still writes must hear of it instead of waiting for room.
        storing.add_done_callback(lambda _: pipe.fail(OSError("the copy has ended")))
        try:
            async with aclosing(version.reader.pieces()) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(pipe.write, piece)
            pipe.end()
        except BaseException as error:
            if not storing.done():
                pipe.fail(error if isinstance(error, Exception) else OSError("the copy was cancelled"))
                await asyncio.wait({storing})
                raise
        await storing

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

        What is named moves, and no more: a ``*`` is a letter. Onto itself nothing moves. Between sets that share
        backends, the copies on those stay, since they are the target's.

        Raises
        ------
        ValueError
            Before anything moves: a directory would go below itself, or a file over another one of the same move.
        FileNotFoundError, NoHealthyReplicaError
            Before anything moves: it is not there, or not all of a directory could be listed.
        ConflictError
            A newer version was stored meanwhile, and stays; the copy of the older one is at its target.
        """
        named = [await self._resolved(*pair) for pair in _pairs(path1, path2)]
        moves: dict[str, str] = {}
        for source, target in named:
            files = await self._files(source, target, recursive=recursive, maxdepth=maxdepth)
            moves.update({file: target + file.removeprefix(source) for file in files})
        self._check(moves)
        await side_by_side(lambda move: self._mv_file(*move), moves.items())
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
            await self._store_again(version, target)
            await self._remove_moved(version, target)
            self.versions.discard(source)

    async def _remove_moved(self, version: Version, path: str) -> None:
        """Remove the copies of a version, except those that belong to the object at `path`."""
        name, key = paths.split(version.path)
        targets, kept = self.sets[name].replica_set, self._addresses(path)
        stores = tuple(store for store in targets.stores if store.address(encode_key(key)) not in kept)
        if not stores:
            return
        manifest = version.reader.manifest
        generation = manifest.generation if manifest else None
        report = await delete.delete(replace(targets, stores=stores), key, generation=generation)
        if not report:
            raise report.failure()

    async def _resolved(self, path1: str, path2: str) -> tuple[str, str]:
        """Return what moves, and the name that it gets."""
        source, target = paths.strip(path1), paths.strip(path2)
        if source == target or os.fspath(path1).endswith("/"):
            return source, target
        into = os.fspath(path2).endswith("/") or await self._isdir(target)
        return source, f"{target}/{source.rpartition('/')[2]}" if into else target

    async def _files(self, source: str, target: str, *, recursive: bool, maxdepth: int | None) -> list[str]:
        kind = await self._type(source)
        if kind is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object or directory", source)
        if source == target:
            return []
        files = await self.files_at(source, kind, "move", recursive=recursive, maxdepth=maxdepth)
        above = tuple(f"{address}/" for address in self._addresses(source))
        if kind == "directory" and any(each.startswith(above) for each in self._addresses(target)):
            raise ValueError(f"cannot move the directory {source} below itself, to {target}; nothing moved")
        return files

    def _check(self, moves: Mapping[str, str]) -> None:
        """Refuse a move in which one file would replace another that moves as well."""
        sources = {address: source for source in moves for address in self._addresses(source)}
        targets: dict[str, str] = {}
        for source, target in moves.items():
            paths.split_for_write(target)
            for address in self._addresses(target):
                for other in (sources.get(address, source), targets.setdefault(address, source)):
                    if other != source:
                        raise ValueError(f"cannot move {source} to {target}: {other} is in its way; nothing moved")

    def _addresses(self, path: str) -> set[str]:
        """Return where the copies of an object lie, or would."""
        name, key = paths.split(path)
        return {store.address(encode_key(key)) for store in self.sets[name].replica_set.stores}


def _pairs(path1: Paths, path2: Paths) -> list[tuple[str, str]]:
    """Return what goes where; files of a list go into a directory, or one by one to the names of another list."""
    if not isinstance(path1, list):
        return [(os.fspath(path1), os.fspath(path2))]  # type: ignore[arg-type]
    if isinstance(path2, list):
        return list(zip(path1, path2, strict=True))
    return [(each, f"{os.fspath(path2)}/") for each in path1]
