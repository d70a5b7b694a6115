"""An SFTP server of real files: the system calls that OpenSSH's server makes, in a process of its own.

`rclone serve sftp` is no opponent for this suite: it renames in two steps, and it burns a processor once it has
seen a directory. Run as ``python -m tests.contract.sftpd DIRECTORY PORT USER PASSWORD``; ends with its stdin.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paramiko

from tests.servers.ports import LOOPBACK
from tests.servers.process import ServerSpec, Workplace, running_server
from tests.servers.sftp_or_ftp import SftpServer

_USER, _PASSWORD = "tester", "correct horse battery staple"


class _Gate(paramiko.ServerInterface):  # type: ignore[misc]
    def __init__(self, user: str, password: str) -> None:
        self._expected = (user, password)

    def check_auth_password(self, username: str, password: str) -> int:
        good = (username, password) == self._expected
        return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002 - paramiko's signature
        return int(paramiko.OPEN_SUCCEEDED)


def _answer(call: Callable[[], Any]) -> Any:
    try:
        result = call()
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno or 0)
    return paramiko.SFTP_OK if result is None else result


class _Files(paramiko.SFTPServerInterface):  # type: ignore[misc]
    def __init__(self, server: paramiko.ServerInterface, root: Path) -> None:
        super().__init__(server)
        self._root = str(root)

    def _real(self, path: str) -> str:
        return self._root + os.path.normpath("/" + path)

    def list_folder(self, path: str) -> Any:
        return _answer(lambda: [self._attributes(entry) for entry in os.scandir(self._real(path))])

    @staticmethod
    def _attributes(entry: os.DirEntry[str]) -> paramiko.SFTPAttributes:
        return paramiko.SFTPAttributes.from_stat(entry.stat(follow_symlinks=False), entry.name)

    def stat(self, path: str) -> Any:
        return _answer(lambda: paramiko.SFTPAttributes.from_stat(os.stat(self._real(path))))

    def lstat(self, path: str) -> Any:
        return _answer(lambda: paramiko.SFTPAttributes.from_stat(os.lstat(self._real(path))))

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> Any:  # noqa: ARG002
        return _answer(lambda: self._handle(os.open(self._real(path), flags, 0o600), flags))

    @staticmethod
    def _handle(fd: int, flags: int) -> paramiko.SFTPHandle:
        handle = paramiko.SFTPHandle(flags)
        file = os.fdopen(fd, "wb" if flags & os.O_WRONLY else "rb", buffering=0)
        handle.readfile = handle.writefile = file
        handle.chattr = lambda attr: _answer(lambda: os.fchmod(fd, attr.st_mode))
        handle.stat = lambda: paramiko.SFTPAttributes.from_stat(os.fstat(fd))
        return handle

    def remove(self, path: str) -> Any:
        return _answer(lambda: os.remove(self._real(path)))

    def posix_rename(self, oldpath: str, newpath: str) -> Any:
        return _answer(lambda: os.replace(self._real(oldpath), self._real(newpath)))

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> Any:  # noqa: ARG002
        return _answer(lambda: os.mkdir(self._real(path)))

    def rmdir(self, path: str) -> Any:
        return _answer(lambda: os.rmdir(self._real(path)))


def _serve(client: socket.socket, root: Path, user: str, password: str, key: paramiko.PKey) -> None:
    transport = paramiko.Transport(client)
    transport.add_server_key(key)
    transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files, root)
    with suppress(paramiko.SSHException, EOFError, OSError):
        transport.start_server(server=_Gate(user, password))


def main(directory: str, port: str, user: str, password: str) -> None:
    """Serve until stdin ends."""
    key = paramiko.RSAKey.generate(2048)
    listener = socket.create_server((LOOPBACK, int(port)), backlog=64)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _serve(client, Path(directory), user, password, key)

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.buffer.read()


@contextmanager
def running_sftpd() -> Iterator[SftpServer]:
    """Run the server over an empty directory."""
    options = {"username": _USER, "password": _PASSWORD, "look_for_keys": False, "allow_agent": False}
    spec = ServerSpec(command=_command, probe=lambda place: _sign_in({**options, "port": place.port}))
    with running_server(spec) as place:
        yield SftpServer(f"sftp://{LOOPBACK}/", {**options, "port": place.port}, place.folder / "data")


def _command(place: Workplace) -> list[str]:
    data = place.folder / "data"
    data.mkdir()
    here = Path(__file__).parents[2]
    start = (
        f"import sys; sys.path[:0] = [{str(here)!r}]; from tests.contract.sftpd import main; main(*sys.argv[1:])"
    )
    return [sys.executable, "-c", start, str(data), str(place.port), _USER, _PASSWORD]


def _sign_in(options: dict[str, Any]) -> None:
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(LOOPBACK, **options)
        with client.open_sftp() as sftp:
            sftp.listdir("/")
