"""What workers have done ahead, as files that ``wal-push`` and ``wal-fetch`` find without loading anything else.

In the spool of a cluster, ``NAME.ok`` says that a WAL file was confirmed by `min_copies` backends: its size, its
SHA-256 and into which archive. It is believed for just these bytes, which have the system identifier in them, and
this archive, and is removed by the call that used it. What a crash left, or another cluster, has no effect.

A segment that was fetched ahead is vouched for by a lock on the file itself: the worker that has proven it holds
that for as long as it lives, and nobody can hold it for what an earlier one left. ``NAME.note`` beside it says
of which archive it is, and what the file system said of the file then: what was changed since is not believed.
So nobody has to hash it again before it is renamed into place.

The configuration is not read for that: ``wal-push`` notes where the spool of a configuration file is, in the state
directory, with what the file system says of that file. When it has changed since, or anything else is not as
expected, the call does it the long way.

This module is imported before any other of the package, and imports next to nothing: ``json`` and ``hashlib``
alone would take as long as all the rest of a call that finds its work done.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from fsbackup.lazy import TYPE_CHECKING

try:
    from _blake2 import blake2b  # what hashlib gives, without loading OpenSSL
except ImportError:
    from hashlib import blake2b

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        spool, archive = read_note(config, cluster)
        return take(spool, path, archive)
    except (OSError, ValueError):
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
        spool, archive = read_note(config, words[words.index("--cluster") + 1])
        return give(os.path.join(spool, "fetch"), name, path, archive)
    except (OSError, ValueError, KeyError, IndexError):
        return False


def vouch(place: str, name: str, archive: str) -> int:
    """Give a segment that was fetched ahead, ``NAME.tmp``, which is proven, its name; return the lock on it.

    Nobody believes it any more when that descriptor is closed.
    """
    source = os.path.join(place, name)
    lock = os.open(f"{source}.tmp", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(f"{source}.tmp", source)
        _replace(f"{source}.note", archive, _state(os.fstat(lock)))
    except BaseException:
        os.close(lock)
        raise
    return lock


def give(place: str, name: str, path: str, archive: str) -> bool:
    """Put a segment that was fetched ahead into its place; return whether there was one, and it was right."""
    if "/" in name or not wait_while_busy(place, name):
        return False
    source = os.path.join(place, name)
    file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _is_vouched_for(file, source, archive) and _put(file, source, path)
    finally:
        os.close(file)
        for each in (source, f"{source}.note"):
            _remove(each)


def _is_vouched_for(file: int, source: str, archive: str) -> bool:
    return _is_held(file) and _read(f"{source}.note") == [archive, _state(os.fstat(file))]


def _put(file: int, source: str, path: str) -> bool:
    """Rename a segment, or copy it where that cannot be; return whether it was the same to the end."""
    try:
        os.replace(source, path)
        return True
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    temp, before = f"{path}.fsbackup-fetch", os.fstat(file)
    try:
        _copy(file, temp, before.st_size)
        if _state(os.fstat(file)) != _state(before):
            return False
        os.replace(temp, path)
    finally:
        _remove(temp)
    return True


def _copy(file: int, target: str, size: int) -> None:
    out, offset = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), 0
    try:
        while offset < size:
            count = os.sendfile(out, file, offset, size - offset)
            if not count:
                raise OSError(errno.EIO, "it ends early", target)
            offset += count
    finally:
        os.close(out)


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
        return _is_held(lock)
    finally:
        os.close(lock)


def _is_held(file: int) -> bool:
    """Return whether somebody else holds the lock of a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def note_path(config: str, cluster: str) -> str:
    """Return where it is noted where the spool of a cluster is."""
    place = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(place):
        place = "/var/lib" if os.geteuid() == 0 else os.path.expanduser("~/.local/state")
    return os.path.join(place, "fsbackup", "spools", _hash(f"{os.path.abspath(config)}\0{cluster}"))


def read_note(config: str, cluster: str) -> tuple[str, str]:
    """Return the spool and the archive that were noted of a configuration file.

    Raises
    ------
    OSError, ValueError
        When nothing was, or the file is another one by now.
    """
    known, spool, archive = _read(note_path(config, cluster))
    if known != describe(config):
        raise ValueError(f"{config} has changed")
    return spool, archive


def write_note(config: str, cluster: str, spool: str, archive: str) -> None:
    """Note where the spool of a cluster is."""
    path = note_path(config, cluster)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    _replace(path, describe(config), spool, archive)


def describe(path: str) -> str:
    """Return what changes when the settings do: those in a file, and what the environment adds to them."""
    return f"{_state(os.stat(path))} {_hash(repr(sorted(os.environ.items())))}"


def confirm(spool: str, path: str, archive: str, content: str) -> None:
    """Leave word that a file of this content, as `fingerprint` names it, was confirmed."""
    _replace(_word(spool, path), archive, content)


def is_confirmed(spool: str, name: str) -> bool:
    """Return whether there is word of a file."""
    return os.path.exists(_word(spool, name))


def take(spool: str, path: str, archive: str) -> bool:
    """Return whether there is word that just this file was confirmed in this archive; the word is used up."""
    word = _word(spool, path)
    said = _read(word)
    content = fingerprint(path)
    os.unlink(word)
    return said == [archive, content]


def _word(spool: str, path: str) -> str:
    return os.path.join(spool, f"{os.path.basename(path)}.ok")


def fingerprint(path: str) -> str:
    """Return the size and the BLAKE3 of a file: of a segment it takes a quarter of SHA-256's time."""
    from blake3 import blake3

    whole, size = blake3(), 0
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            whole.update(data)
            size += len(data)
    return f"{size} {whole.hexdigest()}"


def _state(found: os.stat_result) -> str:
    """Return what the file system changes when a file is changed, or is another one."""
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _hash(text: str) -> str:
    return blake2b(os.fsencode(text), digest_size=16).hexdigest()


def _read(path: str) -> list[str]:
    """Return the fields of a file that `_replace` has written."""
    with open(path, "rb", buffering=0) as file:
        return os.fsdecode(file.read()).split("\0")


def _replace(path: str, *fields: str) -> None:
    """Write a file whole, or not at all."""
    temp = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temp, "wb") as file:
            file.write(os.fsencode("\0".join(fields)))
        os.replace(temp, path)
    except BaseException:
        _remove(temp)
        raise


def _remove(path: str) -> None:
    try:  # noqa: SIM105 - contextlib takes as long to load as this whole module
        os.unlink(path)
    except FileNotFoundError:
        pass
