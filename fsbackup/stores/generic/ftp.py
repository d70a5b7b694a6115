"""A stricter variant of fsspec's FTP filesystem.

fsspec's own reports every refusal of the server as "no such file", lists an unreadable directory as empty, and
sends a file in chunks of 64 KiB, each as a transfer of its own. None of the three is acceptable for backups.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from ftplib import Error, error_perm, error_reply
from typing import Any

from fsspec.implementations.ftp import FTPFileSystem

_CHUNK = 256 * 1024


class StrictFTPFileSystem(FTPFileSystem):  # type: ignore[misc]
    """FTP that distinguishes absent from refused; it needs a server with MLSD (RFC 3659)."""

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        try:
            listed = list(self.ftp.mlsd(path))
        except error_perm as error:
            raise self._translate(path, error, directory=True) from error
        # For a file, some servers list the file itself, like a directory that contains a file of its own name.
        if [name for name, _ in listed] == [path.rpartition("/")[2]] and self.info(path)["type"] == "file":
            raise NotADirectoryError(path)
        found = [_entry(path, name, facts) for name, facts in listed if facts["type"] not in ("cdir", "pdir")]
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path == "/":
            return {"name": path, "size": 0, "type": "directory"}
        for entry in self.ls(self._parent(path)):
            if entry["name"] == path:
                return dict(entry)
        raise FileNotFoundError(path)

    def _translate(self, path: str, error: error_perm, *, directory: bool) -> Exception:
        """Return the error for a refusal; 550 means "not found" or "not allowed", so list the parent."""
        if str(error)[:3] in ("500", "502"):
            return NotImplementedError("the server has no MLSD, without which absent and refused look the same")
        if not str(error).startswith("55"):
            return error
        kind = self.info(path)["type"]
        if directory and kind == "file":
            return NotADirectoryError(path)
        return PermissionError(13, str(error), path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        path = self._strip_protocol(path)
        try:
            return self._retrieve(path, start or 0, end)
        except error_perm as error:
            if start and start >= self.info(path)["size"]:
                return b""
            raise self._translate(path, error, directory=False) from error

    def _retrieve(self, path: str, start: int, end: int | None) -> bytes:
        self.ftp.voidcmd("TYPE I")
        chunks, remaining = [], None if end is None else end - start
        with self.ftp.transfercmd(f"RETR {path}", rest=start or None) as data:
            while remaining != 0 and (chunk := data.recv(_CHUNK if remaining is None else min(_CHUNK, remaining))):
                chunks.append(chunk)
                remaining = None if remaining is None else remaining - len(chunk)
        try:
            self.ftp.voidresp()
        except (Error, error_reply):
            if remaining != 0:  # otherwise the range is complete, and the server reports the closed connection
                raise
        return b"".join(chunks)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if mode != "wb":
            return super()._open(path, mode=mode, **kwargs)
        # A connection that receives a file serves nothing else meanwhile, so each upload has its own.
        return _Upload(type(self)(**self.storage_options, skip_instance_cache=True), self._strip_protocol(path))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        path = self._strip_protocol(path)
        try:
            self.info(path)
        except FileNotFoundError:
            self.makedirs(self._parent(path), exist_ok=True)
            self.ftp.mkd(path)
        else:
            if not exist_ok:
                raise FileExistsError(path)

    def __del__(self) -> None:
        with suppress(AttributeError):  # it never connected
            self.ftp.close()


class _Upload:
    """A file being stored over a connection of its own; `close` waits for the server's confirmation."""

    def __init__(self, filesystem: StrictFTPFileSystem, path: str) -> None:
        self._ftp = filesystem.ftp
        self._filesystem = filesystem  # its destructor closes the connection
        self._ftp.voidcmd("TYPE I")
        self._data = self._ftp.transfercmd(f"STOR {path}")

    def write(self, data: bytes) -> int:
        self._data.sendall(data)
        return len(data)

    def close(self) -> None:
        try:
            self._data.close()
            self._ftp.voidresp()
        finally:
            self._ftp.close()


def _entry(directory: str, name: str, facts: dict[str, str]) -> dict[str, Any]:
    kind = {"file": "file", "dir": "directory"}.get(facts["type"].lower(), "other")
    return {
        "name": f"{directory.rstrip('/')}/{name}",
        "type": kind,
        "size": int(facts.get("size", 0)) if kind == "file" else 0,
        "mtime": _time(facts.get("modify")),
    }


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    return datetime.strptime(text[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
