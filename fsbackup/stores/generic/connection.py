"""One connection in one thread, because the clients below fsspec's filesystems are not thread-safe.

`SessionPool.call` submits an operation to the thread of the current `FilesystemSession`. When an operation shows
no sign of life for `timeout` seconds, the session is abandoned with its thread, and the next call starts a new
one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from fsbackup.aio import IdleTimeoutError
from fsbackup.errors import BackendUnavailableError
from fsbackup.stores.generic.address import Address
from fsbackup.stores.generic.errors import is_definite, translate
from fsbackup.threads import Job, Workers

T = TypeVar("T")


class FilesystemSession:
    """A filesystem and the one thread that uses it."""

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._filesystem: Any = None
        self.workers = Workers(name, 1)
        self.abandoned = False
        #: Directories that this session has created or seen.
        self.directories: set[str] = set()

    def use(self, operation: Callable[[Any], T], *, retry: bool) -> T:
        """Run `operation` on the filesystem, in the session's thread.

        With `retry`, an operation that failed because the connection is dead is repeated once on a new connection.
        """
        try:
            return operation(self._connect())
        except Exception as error:
            if not retry or is_definite(error) or self._is_alive():
                raise
            self.disconnect()
        return operation(self._connect())

    def _is_alive(self) -> bool:
        """Tell whether the connection still works; reconnecting would end the writes that use it."""
        try:
            self._connect().info(self._address.root or "/")
        except Exception as error:  # noqa: BLE001 - each library has its own
            return is_definite(error)
        return True

    def _connect(self) -> Any:
        if self.abandoned:
            raise BackendUnavailableError("the connection was abandoned")
        if self._filesystem is None:
            self._filesystem = self._address.open()
            _disable_nagle(self._filesystem)
        return self._filesystem

    def disconnect(self) -> None:
        """Close the connection as far as possible; the next use reconnects."""
        filesystem, self._filesystem = self._filesystem, None
        self.directories.clear()
        # fsspec has no common method: sftp has its connection in `client`, ftp in `ftp`.
        for attribute in ("client", "ftp"):
            client = getattr(filesystem, attribute, None)
            if client is not None:
                with suppress(Exception):
                    client.close()


def _disable_nagle(filesystem: Any) -> None:
    """Disable Nagle's algorithm under SFTP, which delays a small request by up to 40 ms."""
    get_transport = getattr(getattr(filesystem, "client", None), "get_transport", None)
    sock = getattr(get_transport(), "sock", None) if get_transport else None
    if isinstance(sock, socket.socket):  # a proxy command has a pipe instead
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class SessionPool:
    """Runs blocking operations in the current session, and replaces a session that does not answer."""

    def __init__(self, address: Address, name: str, timeout: float) -> None:
        self._address, self._name, self._timeout = address, name, timeout
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._session = FilesystemSession(self._address, self._name)

    @property
    def session(self) -> FilesystemSession:
        """The session for new operations; a forked child gets its own and never uses its parent's sockets."""
        if self._session.abandoned or self._pid != os.getpid():
            self._renew()
        return self._session

    async def call(
        self,
        operation: str,
        name: str,
        call: Callable[[Any], T],
        *,
        session: FilesystemSession | None = None,
        retry: bool = True,
    ) -> T:
        """Run one blocking `call` on the filesystem and translate its errors.

        Parameters
        ----------
        operation, name
            The operation and the object, for errors.
        session
            The session of the write that the call belongs to; default: the current one.
        retry
            Whether the call may run twice.
        """
        used = session or self.session
        if used.abandoned:
            raise BackendUnavailableError(
                "the connection stopped answering and was abandoned",
                backend=self._name,
                operation=operation,
                key=name,
            )
        job = used.workers.submit(partial(used.use, call, retry=retry))
        try:
            return await self.wait(job, used)
        except Exception as error:  # noqa: BLE001 - each library has its own
            failure = translate(error, self._address.scrub, backend=self._name, operation=operation, name=name)
        except BaseException:
            job.cancel()
            raise
        raise failure

    async def wait(self, job: Job[T], session: FilesystemSession) -> T:
        """Wait for a job of `session`; abandons the session when the job shows no sign of life."""
        try:
            return await job.result(self._timeout)
        except IdleTimeoutError:
            session.abandoned = True
            raise

    async def close(self) -> None:
        """Close the connection."""
        session = self.session
        with suppress(IdleTimeoutError):
            await self.wait(session.workers.submit(session.disconnect), session)
