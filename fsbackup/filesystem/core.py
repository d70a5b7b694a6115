"""What all methods of the filesystem stand on: its sets, what it remembers, and the loop that its I/O runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from fsspec.asyn import AsyncFileSystem
from fsspec.utils import tokenize

from fsbackup.filesystem import paths
from fsbackup.filesystem.blocks import BlockCache
from fsbackup.filesystem.directories import EmptyDirectories
from fsbackup.filesystem.sets import Sets
from fsbackup.filesystem.versions import Version, VersionCache
from fsbackup.loop import get_loop

P = ParamSpec("P")
T = TypeVar("T")

#: Objects that are moved or removed side by side.
_AT_ONCE = 16

#: The tasks that work for one call; tasks inherit it from those that make them.
_begun: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("_begun", default=None)


def on_io(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run a coroutine method on fsbackup's own loop, whichever loop awaits it."""

    @wraps(method)
    async def bridged(*args: P.args, **kwargs: P.kwargs) -> T:
        loop = get_loop()
        if asyncio.get_running_loop() is loop:
            _note_task()
            return await method(*args, **kwargs)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(method(*args, **kwargs), loop))

    return bridged


@asynccontextmanager
async def whole_call() -> AsyncIterator[None]:
    """End what the block leaves running in other tasks: fsspec makes some and does not end them itself."""
    begun: set[asyncio.Task[Any]] = set()
    _begun.set(begun)
    try:
        yield
    finally:
        left = begun - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


def _note_task() -> None:
    task, begun = asyncio.current_task(), _begun.get()
    if begun is not None and task is not None:
        begun.add(task)
        task.add_done_callback(begun.discard)


async def side_by_side(work: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Do `work` on all, some at a time; the first error is raised when all have ended."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(item: T) -> None:
        async with gate:
            await work(item)

    for error in await asyncio.gather(*map(one, items), return_exceptions=True):
        if error is not None:
            raise error


class FileSystemBase(AsyncFileSystem):  # type: ignore[misc]
    """See `FsbackupFileSystem`."""

    protocol = paths.PROTOCOL
    root_marker = ""
    cachable = True

    def __init__(self, config: str, cache_size: int, **options: Any) -> None:
        super().__init__(**{**options, "loop": get_loop(), "use_listings_cache": False})
        self.config = config
        self.sets = Sets(config)
        self.cache = BlockCache(cache_size)
        self.versions = VersionCache()
        self.made = EmptyDirectories(config)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that all I/O runs on; a forked child has its own."""
        return get_loop()

    @property
    def fsid(self) -> str:
        """The kind of this filesystem."""
        return paths.PROTOCOL

    @property
    def storage_options(self) -> dict[str, Any]:
        """What another process needs to make the same filesystem: the configuration's path, and never a secret."""
        return {**self._given, "config": self.config}

    @storage_options.setter
    def storage_options(self, given: dict[str, Any]) -> None:
        self._given = given

    @property
    def _fs_token(self) -> str:
        # The same in every process, unlike the instance cache's, so that dask knows a task again.
        return str(tokenize(paths.PROTOCOL, self.config))

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return paths.strip_all(path)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget which versions were seen; proven blocks stay, since a block's content never changes."""
        if path is None:
            self.versions.forget_all()
        else:
            self.versions.forget(paths.strip(path))
        super().invalidate_cache(path)

    async def version(self, path: str, *, unseen: bool = False) -> Version:
        """Return the newest version of the object at `path`; see `VersionCache.find`."""
        name, key = paths.split(path)
        return await self.versions.find(self.sets[name], path, paths.readable_key(key), unseen=unseen)
