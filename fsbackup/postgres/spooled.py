"""What workers have done ahead, as files that ``wal-push`` and ``wal-fetch`` find without loading anything else.

In the spool of a cluster, ``NAME.ok`` says that a WAL file was confirmed by `min_copies` backends: its size, its
SHA-256 and into which archive. It is believed for just these bytes, which have the system identifier in them, and
this archive, and is removed by the call that used it. What a crash left, or another cluster, has no effect.

The configuration is not read for that: ``wal-push`` notes where the spool of a configuration file is, in the state
directory, with what the file system says of that file. When it has changed since, or anything else is not as
expected, the call does it the long way.

This module is imported before any other of the package, and imports next to nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from fsbackup.lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_CHUNK = 1 << 20
#: Held by the worker of a directory for as long as it lives.
LOCK = "worker.lock"
#: Behind the name of what a worker sends or fetches just now; what is there until it does; and the seconds between
#: two looks at these.
BUSY, STARTING, _TICK = ".busy", "starting", 0.01


def pushed_before(words: Sequence[str]) -> bool:
    """Return whether a command line is that of a ``wal-push`` whose file a worker has archived already.

    Only the form that stands in archive_command is looked at: ``-c FILE wal-push PATH --cluster NAME``, where
    ``$FSBACKUP_CONFIG`` may say the file.
    """
    given = words[:2] if words[:1] in (["-c"], ["--config"]) else ["-c", os.environ.get("FSBACKUP_CONFIG", "")]
    own = list(words[-4:])
    if len(words) not in (4, 6) or [*given, *own][-len(words) :] != list(words):
        return False
    if [own[0], own[2]] != ["wal-push", "--cluster"] or not given[1]:
        return False
    config, path, cluster = given[1], own[1], own[3]
    try:
        note = read_note(config, cluster)
        return note is not None and take(note["spool"], path, note["archive"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def fetched_before(words: Sequence[str]) -> bool:
    """Return whether a command line is that of a ``wal-fetch`` whose segment a worker has fetched; it is in place
    then.

    Any form: where a segment comes from is of no matter, once its bytes are proven.
    """
    if "wal-fetch" not in words or "--cluster" not in words:
        return False
    try:
        config = words[1] if words[0] in ("-c", "--config") else os.environ["FSBACKUP_CONFIG"]
        name, path = words[words.index("wal-fetch") + 1 : words.index("wal-fetch") + 3]
        note = read_note(config, words[words.index("--cluster") + 1])
        return note is not None and give(os.path.join(note["spool"], "fetch"), name, path, note["archive"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def describe_segment(place: str, name: str, archive: str, sha256: str, size: int) -> None:
    """Leave what a segment that was fetched ahead has to be."""
    _replace(os.path.join(place, f"{name}.json"), {"archive": archive, "sha256": sha256, "size": size})


def give(place: str, name: str, path: str, archive: str) -> bool:
    """Put a segment that was fetched ahead into its place; return whether there was one, and it was right."""
    if "/" in name or not wait_while_busy(place, name):
        return False
    source, temp = os.path.join(place, name), f"{path}.fsbackup-fetch"
    is_near = os.stat(source).st_dev == os.stat(os.path.dirname(path) or ".").st_dev
    with open(f"{source}.json", encoding="utf-8") as file:
        said = json.load(file)
    try:
        if is_near:
            size, sha256 = digest(source)
        else:
            with open(temp, "wb", opener=_for_owner) as file:
                size, sha256 = digest(source, file.write)
        if said != {"archive": archive, "sha256": sha256, "size": size}:
            return False
        os.replace(source if is_near else temp, path)
    finally:
        for each in (source, f"{source}.json", temp):
            with suppress(FileNotFoundError):
                os.unlink(each)
    return True


def wait_while_busy(place: str, name: str) -> bool:
    """Wait while a worker is at a file; return whether it lives."""
    while is_locked(place):
        if not any(os.path.exists(os.path.join(place, each)) for each in (name + BUSY, STARTING)):
            return True
        time.sleep(_TICK)
    return False


def is_locked(place: str) -> bool:
    """Return whether a worker lives that holds the lock of a directory."""
    try:
        lock = os.open(os.path.join(place, LOCK), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def note_path(config: str, cluster: str) -> str:
    """Return where it is noted where the spool of a cluster is."""
    place = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(place):
        place = "/var/lib" if os.geteuid() == 0 else os.path.expanduser("~/.local/state")
    name = hashlib.sha256(f"{os.path.abspath(config)}\0{cluster}".encode()).hexdigest()[:32]
    return os.path.join(place, "fsbackup", "spools", f"{name}.json")


def read_note(config: str, cluster: str) -> Mapping[str, Any] | None:
    """Return what was noted of a configuration file, None when the file is another one by now."""
    with open(note_path(config, cluster), encoding="utf-8") as file:
        note: dict[str, Any] = json.load(file)
    return note if note["config"] == describe(config) else None


def write_note(config: str, cluster: str, spool: str, archive: str) -> None:
    """Note where the spool of a cluster is."""
    path = note_path(config, cluster)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    _replace(path, {"config": describe(config), "spool": spool, "archive": archive})


def describe(path: str) -> list[int | str]:
    """Return what changes when the settings do: those in a file, and what the environment adds to them."""
    found, environ = os.stat(path), repr(sorted(os.environ.items())).encode()
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return [found.st_dev, found.st_ino, found.st_size, *times, hashlib.sha256(environ).hexdigest()]


def confirm(spool: str, path: str, archive: str, sha256: str, size: int) -> None:
    """Leave word that a file was confirmed."""
    name = os.path.basename(path)
    _replace(os.path.join(spool, f"{name}.ok"), {"archive": archive, "sha256": sha256, "size": size})


def is_confirmed(spool: str, name: str) -> bool:
    """Return whether there is word of a file."""
    return os.path.exists(os.path.join(spool, f"{name}.ok"))


def take(spool: str, path: str, archive: str) -> bool:
    """Return whether there is word that just this file was confirmed in this archive; the word is used up."""
    word = os.path.join(spool, f"{os.path.basename(path)}.ok")
    with open(word, encoding="utf-8") as file:
        said = json.load(file)
    size, sha256 = digest(path)
    os.unlink(word)
    return bool(said == {"archive": archive, "sha256": sha256, "size": size})


def digest(path: str, write: Callable[[bytes], object] | None = None) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file; `write` gets what was read."""
    whole, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            whole.update(data)
            size += len(data)
            if write is not None:
                write(data)
    return size, whole.hexdigest()


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _replace(path: str, value: Mapping[str, Any]) -> None:
    """Write a file whole, or not at all."""
    temp = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temp, "w", encoding="utf-8") as file:
            json.dump(value, file)
        os.replace(temp, path)
    except BaseException:
        if os.path.exists(temp):
            os.unlink(temp)
        raise
