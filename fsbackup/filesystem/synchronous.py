"""The plain methods: each waits for its coroutine on fsbackup's loop, and Ctrl-C ends that coroutine too.

fsspec makes them as well, but its own only stop waiting: what was interrupted would go on and be stored.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.exceptions import FSTimeoutError

from fsbackup.filesystem.core import FileSystemBase, on_io, whole_call
from fsbackup.loop import run

AnyCore = TypeVar("AnyCore", bound=type[FileSystemBase])


def synchronous(cls: AnyCore) -> AnyCore:
    """Give a class the plain method of every coroutine method, where it has none of its own."""
    for name in dir(cls):
        plain = name.removeprefix("_")
        default = getattr(AbstractFileSystem, plain, None)
        method = getattr(cls, name)
        if default and getattr(cls, plain) is default and inspect.iscoroutinefunction(method):
            setattr(cls, plain, _plain(method, default.__doc__))
    return cls


def _plain(method: Callable[..., Coroutine[Any, Any, Any]], doc: str | None) -> Callable[..., Any]:
    @wraps(method)
    def waiting(self: FileSystemBase, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        return run(_within(timeout or None, on_io(method)(self, *args, **kwargs)))

    waiting.__name__ = method.__name__.removeprefix("_")
    waiting.__doc__ = doc or method.__doc__
    return waiting


async def _within(timeout: float | None, work: Coroutine[Any, Any, Any]) -> Any:
    limit = asyncio.timeout(timeout)
    try:
        async with limit, whole_call():
            return await work
    except TimeoutError as error:
        if limit.expired():
            raise FSTimeoutError from error
        raise
