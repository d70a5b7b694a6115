"""One connection in one thread: the clients below fsspec's filesystems are not safe to share between threads."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from fsbackup.errors import BackendUnavailableError
from fsbackup.stores.generic.address import Address
from fsbackup.stores.generic.errors import is_answer, translate
from fsbackup.threads import IdleTimeoutError, Job, Workers

T = TypeVar("T")


class FilesystemSession:
    """A filesystem and the one thread that uses it; a session that fell silent is given up with its thread."""

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._filesystem: Any = None
        self.workers = Workers(name, 1)
        self.abandoned = False
        #: Directories that this session has made or seen.
        self.directories: set[str] = set()

    def use(self, operation: Callable[[Any], T], *, again: bool) -> T:
        """Run `operation` on the filesystem, in the session's thread.

        With `again`, an error over a connection that turns out to be dead is met with a new one and one more try.
        """
        try:
            return operation(self._connected())
        except Exception as error:
            if not again or is_answer(error) or self._alive():
                raise
            self.disconnect()
        return operation(self._connected())

    def _alive(self) -> bool:
        """Tell whether the connection still answers; a write that goes through it would not survive a new one."""
        try:
            self._connected().info(self._address.root or "/")
        except Exception as error:  # noqa: BLE001 - each library has its own
            return is_answer(error)
        return True

    def _connected(self) -> Any:
        if self.abandoned:
            raise BackendUnavailableError("the connection was given up")
        if self._filesystem is None:
            self._filesystem = self._address.open()
            _send_at_once(self._filesystem)
        return self._filesystem

    def disconnect(self) -> None:
        """Close what can be closed; the next use connects anew."""
        filesystem, self._filesystem = self._filesystem, None
        self.directories.clear()
        # fsspec has no word for it: sftp keeps its connection in `client`, ftp in `ftp`.
        for attribute in ("client", "ftp"):
            client = getattr(filesystem, attribute, None)
            if client is not None:
                with suppress(Exception):
                    client.close()


def _send_at_once(filesystem: Any) -> None:
    """Turn off Nagle's algorithm under SFTP: with it, a small request may wait 40 ms for the one before it."""
    get_transport = getattr(getattr(filesystem, "client", None), "get_transport", None)
    sock = getattr(get_transport(), "sock", None) if get_transport else None
    if isinstance(sock, socket.socket):  # it may also be a proxy command's pipe
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class SessionPool:
    """The session in use, replaced when it falls silent."""

    def __init__(self, address: Address, name: str, timeout: float) -> None:
        self._address, self._name, self._timeout = address, name, timeout
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._session = FilesystemSession(self._address, self._name)

    @property
    def session(self) -> FilesystemSession:
        """The session for new operations; a forked child gets its own, the parent's sockets are not its to use."""
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
        again: bool = True,
    ) -> T:
        """Run one blocking `call` on the filesystem and translate its errors.

        Parameters
        ----------
        operation, name
            For errors: what is done, to which object.
        session
            The session that it belongs to, for a write; by default the current one.
        again
            Whether the call may be made twice.
        """
        used = session or self.session
        if used.abandoned:
            raise BackendUnavailableError(
                "its connection fell silent and was given up", backend=self._name, operation=operation, key=name
            )
        job = used.workers.submit(partial(used.use, call, again=again))
        try:
            return await self.wait(job, used)
        except Exception as error:  # noqa: BLE001 - each library has its own
            failure = translate(error, self._address.scrub, backend=self._name, operation=operation, name=name)
        except BaseException:
            job.cancel()
            raise
        raise failure

    async def wait(self, job: Job[T], session: FilesystemSession) -> T:
        """Wait for a job of `session`, which is given up when it falls silent."""
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
