"""Connections that drop, fall silent or are shared by many calls."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import paramiko
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fsbackup.errors import BackendUnavailableError, TransientError
from fsbackup.loop import run
from fsbackup.stores.base import Part, WritePlan
from fsbackup.stores.generic.store import GenericStore
from fsbackup.testing.driving import list_names, random_bytes, split, write
from tests.contract.raw_access import directory_access, memory_access
from tests.contract.sftpd import running_sftpd
from tests.servers.sftp_or_ftp import SftpServer


class Wire:
    """What the test does to all connections, and what it sees of them."""

    def __init__(self) -> None:
        self.opened = 0
        self.dead: set[int] = set()
        self.threads: set[int] = set()
        self.silent: dict[str, threading.Event] = {}
        self.entered = threading.Event()
        self.fails: dict[str, Exception] = {}

    def cut_all(self) -> None:
        """Let every connection made so far be dead."""
        self.dead = set(range(1, self.opened + 1))


WIRE = Wire()


class WiredFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Memory behind a connection."""

    protocol = "wired"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        WIRE.opened += 1
        self.number = WIRE.opened

    def _travel(self, call: str) -> None:
        WIRE.threads.add(threading.get_ident())
        if call in WIRE.silent:
            WIRE.entered.set()
            WIRE.silent[call].wait(30)
        if self.number in WIRE.dead:
            raise ConnectionResetError("connection reset")
        if call in WIRE.fails:
            raise WIRE.fails[call]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("wired://", "memory://")))

    def info(self, path: str, **kwargs: Any) -> Any:
        self._travel("info")
        return super().info(path, **kwargs)

    def ls(self, path: str, **kwargs: Any) -> Any:
        self._travel("ls")
        return super().ls(path, **kwargs)

    def cat_file(self, path: str, **kwargs: Any) -> Any:
        self._travel("cat_file")
        return super().cat_file(path, **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        self._travel("open")
        file = super()._open(path, mode=mode, **kwargs)
        original = file.write

        def written(data: bytes) -> int:
            self._travel("write")
            return int(original(data))

        file.write = written
        return file


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """Return a new wire; whatever is silent goes on at the end."""
    made = Wire()
    monkeypatch.setattr(f"{__name__}.WIRE", made)
    fsspec.register_implementation("wired", WiredFileSystem, clobber=True)
    yield made
    for event in made.silent.values():
        event.set()


@pytest.fixture
def root() -> str:
    """Return a directory that nobody else uses."""
    return secrets.token_hex(8)


@pytest.fixture
def store(wire: Wire, root: str) -> GenericStore:
    """Return a store with an object in it."""
    assert not wire.opened
    memory_access(root).put("kept", b"old")
    return GenericStore(f"wired://{root}", timeout=20)


@pytest.mark.parametrize("operation", ["stat", "read", "list", "remove", "put"])
def test_a_dropped_connection_is_made_again(store: GenericStore, wire: Wire, operation: str) -> None:
    """An operation over a connection that died meanwhile connects anew and succeeds."""
    run(store.stat("kept"))
    wire.cut_all()
    if operation == "stat":
        assert run(store.stat("kept")) is not None
    elif operation == "read":
        assert run(store.read("kept")) == b"old"
    elif operation == "list":
        assert run(list_names(store.list())) == ["kept"]
    elif operation == "remove":
        run(store.remove("kept"))
    else:
        run(store.put("kept", b"new"))
    assert wire.opened == 2


def test_a_server_that_stays_away_is_unavailable(store: GenericStore, wire: Wire) -> None:
    """One more try is all: what fails on the new connection too is reported."""
    wire.dead = set(range(100))
    with pytest.raises(BackendUnavailableError, match="connection reset"):
        run(store.stat("kept"))
    assert wire.opened == 2


def test_an_odd_failure_keeps_the_connection(store: GenericStore, wire: Wire, root: str) -> None:
    """A failure over a connection that still answers ends no write that goes through it."""

    async def scenario() -> None:
        parts = split(random_bytes(2000), 1000)
        writer = store.writer("new", WritePlan(2000, 1000), lambda _: None)
        await writer.write(parts[0])
        wire.fails["cat_file"] = OSError("Failure")
        with pytest.raises(TransientError):
            await store.read("kept")
        del wire.fails["cat_file"]
        await writer.write(parts[1])
        await writer.commit()

    run(scenario())
    assert (wire.opened, memory_access(root).get("new")) == (1, random_bytes(2000))


def test_a_connection_that_drops_under_a_write(store: GenericStore, wire: Wire, root: str) -> None:
    """What was sent is lost and cannot be sent again: the write fails, leaves nothing, and the next one works."""

    async def scenario() -> None:
        parts = split(random_bytes(2000), 1000)
        writer = store.writer("kept", WritePlan(2000, 1000), lambda _: None)
        await writer.write(parts[0])
        wire.cut_all()
        with pytest.raises(BackendUnavailableError):
            await writer.write(parts[1])
        await writer.abort()

    run(scenario())
    assert (memory_access(root).names(), memory_access(root).get("kept")) == ({"kept"}, b"old")
    run(write(store, "kept", random_bytes(2000), 1000))
    assert memory_access(root).get("kept") == random_bytes(2000)


def test_one_thread_uses_a_connection(store: GenericStore, wire: Wire) -> None:
    """However many operations there are at once, the client below sees one thread, and not the loop's."""

    async def scenario() -> int:
        await asyncio.gather(
            *(store.put(f"a{n}", b"x") for n in range(10)), *(store.read("kept") for _ in range(10))
        )
        return threading.get_ident()

    loop_thread = run(scenario())
    assert len(wire.threads) == 1
    assert loop_thread not in wire.threads


@pytest.mark.parametrize("call", ["info", "cat_file", "ls"])
def test_silence_is_unavailable(wire: Wire, root: str, call: str) -> None:
    """A server that does not answer is given up with its connection; the next operation gets a new one."""
    store = GenericStore(f"wired://{root}", timeout=0.2)
    memory_access(root).put("kept", b"old")
    wire.silent[call] = threading.Event()
    operations = {"info": store.stat("kept"), "cat_file": store.read("kept"), "ls": list_names(store.list())}
    with pytest.raises(BackendUnavailableError, match="did not answer"):
        run(operations.pop(call))
    for unused in operations.values():
        unused.close()
    wire.silent.pop(call).set()
    assert run(store.read("kept")) == b"old"
    assert wire.opened == 2


def test_a_write_that_falls_silent(wire: Wire, root: str) -> None:
    """A write to a silent server fails, and when the server comes back late the old object is still there."""

    async def scenario() -> None:
        store = GenericStore(f"wired://{root}", timeout=0.2)
        writer = store.writer("kept", WritePlan(None, 1000), lambda _: None)
        await writer.write(Part(1, 0, random_bytes(1000), last=False))
        gate = wire.silent["write"] = threading.Event()
        with pytest.raises(BackendUnavailableError, match="did not answer"):
            await writer.write(Part(2, 1000, random_bytes(1000), last=True))
        with pytest.raises(BackendUnavailableError, match="abandoned"):
            await writer.commit()
        gate.set()
        await writer.abort()

    memory_access(root).put("kept", b"old")
    run(scenario())
    assert (memory_access(root).names(), memory_access(root).get("kept")) == ({"kept"}, b"old")


def test_a_hanging_server_leaves_the_loop_alone(store: GenericStore, wire: Wire) -> None:
    """While one server hangs, others are served."""

    async def scenario() -> bytes:
        wire.silent["cat_file"] = threading.Event()
        stuck = asyncio.create_task(store.read("kept"))
        await asyncio.to_thread(wire.entered.wait, 30)
        healthy = GenericStore(f"memory://{secrets.token_hex(8)}")
        await healthy.put("a", b"x")
        found = await healthy.read("a")
        assert not stuck.done()
        wire.silent["cat_file"].set()
        await stuck
        return found

    assert run(scenario()) == b"x"


def test_parts_out_of_order_are_refused(store: GenericStore) -> None:
    """A stream has no offsets: a part that is not the next one is never written in its place."""

    async def scenario() -> None:
        writer = store.writer("a", WritePlan(None, 10), lambda _: None)
        with pytest.raises(ValueError, match="out of order"):
            await writer.write(Part(2, 10, b"x" * 10, last=False))
        await writer.abort()

    run(scenario())


@pytest.fixture(scope="module")
def server() -> Iterator[SftpServer]:
    """Return a running SFTP server."""
    with running_sftpd() as running:
        yield running


def test_sftp_connection_that_drops(server: SftpServer, root: str) -> None:
    """The same over a real connection: closed under us, it is made again, and a write in flight fails cleanly."""
    door = directory_access(server.directory / root)
    store = GenericStore(server.url + root, options=server.storage_options)

    def drop() -> None:
        store._pool.session._filesystem.client.get_transport().sock.close()

    async def scenario() -> None:
        await store.put("kept", b"old")
        drop()
        assert await store.read("kept") == b"old"
        drop()
        await store.put("kept", b"older")
        writer = store.writer("kept", WritePlan(None, 1000), lambda _: None)
        await writer.write(Part(1, 0, random_bytes(1000), last=False))
        drop()
        with pytest.raises(TransientError):
            await writer.write(Part(2, 1000, random_bytes(1000), last=True))
        await writer.abort()

    run(scenario())
    assert (door.names(), door.get("kept")) == ({"kept"}, b"older")
    run(store.close())


@pytest.mark.parametrize(("mode", "kept"), [(None, 0o600), (0o106644, 0o644)])
def test_sftp_files_are_private(server: SftpServer, root: str, mode: int | None, kept: int) -> None:
    """On the server, too, a file is its owner's only unless its source said otherwise, from its first byte on."""
    directory = server.directory / root

    async def scenario() -> list[int]:
        store = GenericStore(server.url + root, options=server.storage_options)
        writer = store.writer("a", WritePlan(None, 10, mode=mode), lambda _: None)
        await writer.write(Part(1, 0, b"x", last=True))
        unfinished = [path.stat().st_mode & 0o777 for path in directory.iterdir()]
        await writer.commit()
        await store.close()
        return unfinished

    assert run(scenario()) == [kept]
    assert (directory / "a").stat().st_mode & 0o777 == kept


def test_sftp_requests_are_sent_at_once(server: SftpServer, root: str) -> None:
    """Small requests do not wait for each other in the kernel."""
    store = GenericStore(server.url + root, options=server.storage_options)
    run(store.stat("a"))
    sock = store._pool.session._filesystem.client.get_transport().sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    run(store.close())


def test_sftp_errors_of_pipelined_writes(server: SftpServer, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that nobody waited for one by one are waited for at the end of their part, errors and all."""
    answers = iter([paramiko.SFTPError("disk full")])
    convert = paramiko.SFTPClient._convert_status

    def failing(self: paramiko.SFTPClient, message: Any) -> None:
        convert(self, message)
        if armed.is_set() and (error := next(answers, None)):
            raise OSError(str(error))

    async def scenario() -> None:
        store = GenericStore(server.url + root, options=server.storage_options, confirm="size")
        writer = store.writer("a", WritePlan(None, 1 << 20), lambda _: None)
        await writer.write(Part(1, 0, bytes(1 << 20), last=False))
        armed.set()
        with pytest.raises(TransientError, match="disk full"):
            await writer.write(Part(2, 1 << 20, bytes(1 << 20), last=True))
        armed.clear()
        await writer.abort()
        await store.close()

    armed = threading.Event()
    monkeypatch.setattr(paramiko.SFTPClient, "_convert_status", failing)
    run(scenario())
    assert directory_access(server.directory / root).names() == set()


def test_sftp_after_a_fork(server: SftpServer, root: str) -> None:
    """A forked child makes a connection of its own, and the parent's goes on."""
    script = (
        "import json, os, sys\n"
        "from fsbackup.stores.generic.store import GenericStore\n"
        "from fsbackup.loop import run\n"
        "store = GenericStore(sys.argv[1], options=json.loads(sys.argv[2]))\n"
        "run(store.put('a', b'x'))\n"
        "child = os.fork()\n"
        "found = run(store.read('a'))\n"
        "if child == 0: os._exit(0 if found == b'x' else 1)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "sys.exit(code or run(store.read('a')) != b'x')\n"
    )
    options = json.dumps(server.storage_options)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, server.url + root, options]
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == 0
