"""The base of all method classes: the sets, the caches, and the bridge to the loop that all I/O runs on.

A call from synchronous code takes this way: the plain method that `add_sync_methods` made → `loop.run` →
`on_io_loop`, which runs the coroutine method on fsbackup's own loop. fsspec makes such plain methods as well, but
on Ctrl-C its own only stop waiting: an interrupted upload would go on and be stored. These cancel the coroutine,
and every task that it started.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.exceptions import FSTimeoutError
from fsspec.utils import tokenize

from fsbackup.aio import cancel_and_wait
from fsbackup.engine.breaker import Outage
from fsbackup.engine.results import Report
from fsbackup.errors import FsbackupError
from fsbackup.filesystem import paths
from fsbackup.filesystem.caches import BlockCache
from fsbackup.filesystem.directories import EmptyDirectories
from fsbackup.filesystem.instances import ConfiguredInstances
from fsbackup.filesystem.sets import OpenSets
from fsbackup.filesystem.versions import Version, VersionCache
from fsbackup.lazy import cached_property
from fsbackup.loop import get_loop, run
from fsbackup.replication.storage import ReplicatedStorage
from fsbackup.stages import Undo
from fsbackup.stages.undo import IdentityFiles

if TYPE_CHECKING:
    from fsbackup.config import Snapshot

P = ParamSpec("P")
T = TypeVar("T")

#: The tasks of the current call; a task inherits the variable from the task that starts it.
_call_tasks: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("_call_tasks", default=None)


class FileSystemBase(AsyncFileSystem, metaclass=ConfiguredInstances):  # type: ignore[misc]
    """See `FsbackupFileSystem`."""

    protocol = paths.PROTOCOL
    root_marker = ""
    cachable = True

    def __init__(
        self,
        config: Snapshot | ReplicatedStorage,
        cache_size: int,
        identity: IdentityFiles | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**{**options, "loop": get_loop(), "use_listings_cache": False})
        self.sets = OpenSets(config)
        self._identity = identity
        self.block_cache = BlockCache(cache_size)
        self.versions = VersionCache(self.block_cache)
        self.empty_directories = EmptyDirectories(self.sets.place)
        #: The report of the last object that this filesystem stored or removed, None before the first.
        self.last_report: Report | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that all I/O runs on; a forked child has its own."""
        return get_loop()

    @cached_property
    def undo(self) -> Undo:
        """Undoes the stages of encrypted objects, with the identity that is configured."""
        return Undo(self._identity)

    @property
    def fsid(self) -> str:
        """The kind of this filesystem."""
        return paths.PROTOCOL

    @property
    def config(self) -> Any:
        """The option `config` that opens the same sets in another process: a path, or values without a secret.

        Where there is no such option, it is an object that is refused when it is pickled.
        """
        return self.sets.option

    @property
    def storage_options(self) -> dict[str, Any]:
        """The options that open the same filesystem in another process."""
        return {**self._given_options, "config": self.config}

    @storage_options.setter
    def storage_options(self, options: dict[str, Any]) -> None:
        self._given_options = options

    def to_dict(self, **options: Any) -> dict[str, Any]:
        """Return the filesystem as values for JSON; what is refused when it is pickled is refused here."""
        if not isinstance(self.config, str | dict):
            self.config.__reduce__()
        return dict(super().to_dict(**options))

    @property
    def _fs_token(self) -> str:
        # The same in every process, unlike the token of the instance cache: dask compares tasks by it.
        return str(tokenize(paths.PROTOCOL, self.sets.identity))

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return paths.strip_all(path)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget the cached versions; proven blocks stay, since they are cached by their content."""
        if path is None:
            self.versions.clear()
        else:
            self.versions.discard(paths.strip(path))
        super().invalidate_cache(path)

    def reload(self) -> None:
        """Read the configuration again, and go on with what it, its variables and its secrets are now.

        Files that are open go on with what they had. Another file that ``$FSBACKUP_CONFIG`` or the current
        directory leads to by now is not looked for: that is another filesystem, ``fsspec.filesystem("fsbackup")``.

        Raises
        ------
        ConfigError
            When there is no such file any more. The filesystem is then as it was.
        """
        sets = self.sets.again()
        type(self)._forget(lambda each: each is self)
        self.sets, self.versions = sets, VersionCache(self.block_cache)
        self.__dict__.pop("undo", None)  # the identity is read again, too

    def health(self) -> dict[str, dict[str, Outage | None]]:
        """Return, for each set that was used, its replicas: None, or since when and why one does not answer.

        It asks nobody. What does not answer is not waited for again, by anything in this process; it is asked in
        the background whether it is back, and its first answer counts.
        """
        return self.sets.health()

    async def version(
        self, path: str, *, check_data: bool = True, at_once: bool = False, now: bool = False
    ) -> Version:
        """Return the newest version of the object at `path`; see `VersionCache.find`."""
        name, key = paths.split(path)
        return await self.versions.find(
            self.sets[name], path, paths.check_read_key(key), check_data=check_data, at_once=at_once, now=now
        )


FileSystemClass = TypeVar("FileSystemClass", bound=type[FileSystemBase])


def on_io_loop(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run a coroutine method on fsbackup's own loop, whichever loop awaits it; its errors name the method."""
    operation = method.__name__.removeprefix("_").removesuffix("_file")

    async def named(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except FsbackupError as error:
            if error.key is None or error.operation is None:
                raise
            # Of several methods that call one another the outermost counts: it is what was asked for.
            asked = operation if error.backend is None else error.operation
            name = _set_of(error.key, *args, **kwargs)
            raise error.of(asked, error.key, set_name=name).with_traceback(
                error.__traceback__
            ) from error.__cause__

    @wraps(method)
    async def bridged(*args: P.args, **kwargs: P.kwargs) -> T:
        loop = get_loop()
        if asyncio.get_running_loop() is loop:
            _register_task()
            return await named(*args, **kwargs)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(named(*args, **kwargs), loop))

    return bridged


def _set_of(key: str, fs: Any, *args: Any, **kwargs: Any) -> str | None:
    """Return the set that a call with these arguments, paths among them, means by an error's `key`."""
    for arg in (*args, *kwargs.values()):
        for path in arg if isinstance(arg, list | dict) else [arg]:
            if isinstance(path, str | os.PathLike):
                name, own = paths.split(os.fspath(path))
                if name in fs.sets.names() and (not own or key == own or key.startswith(f"{own}/")):
                    return name
    return None


def add_sync_methods(cls: FileSystemClass) -> FileSystemClass:
    """Give a class the plain method of each coroutine method, where fsspec has one and the class has not."""
    for name in dir(cls):
        plain = name.removeprefix("_")
        default = getattr(AbstractFileSystem, plain, None)
        method = getattr(cls, name)
        if default and getattr(cls, plain) is default and inspect.iscoroutinefunction(method):
            setattr(cls, plain, _sync_method(method, default.__doc__))
    return cls


def _sync_method(method: Callable[..., Coroutine[Any, Any, Any]], doc: str | None) -> Callable[..., Any]:
    @wraps(method)
    def call(self: FileSystemBase, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        return run(_with_timeout(timeout or None, on_io_loop(method)(self, *args, **kwargs)))

    call.__name__ = method.__name__.removeprefix("_")
    call.__doc__ = doc or method.__doc__
    return call


async def _with_timeout(timeout: float | None, work: Coroutine[Any, Any, Any]) -> Any:
    limit = asyncio.timeout(timeout)
    try:
        async with limit, _cancel_remaining_tasks():
            return await work
    except TimeoutError as error:
        if limit.expired():
            raise FSTimeoutError from error
        raise


@asynccontextmanager
async def _cancel_remaining_tasks() -> AsyncIterator[None]:
    """Cancel the tasks of this call that still run when the block ends: fsspec starts some and leaves them."""
    tasks: set[asyncio.Task[Any]] = set()
    _call_tasks.set(tasks)
    try:
        yield
    finally:
        await cancel_and_wait({task for task in tasks if task is not asyncio.current_task()})


def _register_task() -> None:
    task, tasks = asyncio.current_task(), _call_tasks.get()
    if tasks is not None and task is not None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)
