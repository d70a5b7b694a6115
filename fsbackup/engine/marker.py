"""The marker of a backend, `.fsbackup/backend`: tells the right backend that is empty from a wrong one.

An unmounted disk, an emptied bucket and a mistyped one all answer "no such object" as a new backend does. Such
an answer must not prove that an object is absent, and nothing must be stored there. So every backend has a marker
with a random id. A backend is *in use* when it has a marker that is not *filling*, or holds any object or record.

In a replication set (`join`), a replica that has neither marker, object nor record is

- *refused* with `WrongBackendError` when another replica of the set is in use, or does not answer, so that this is
  unknown. It is treated as unreachable by every operation, until `accept_empty`;
- new, when all others answer that they are not in use either: so is the set.

A backend used alone has no other to be compared with and is never refused.

When the question is asked
--------------------------
An answer that shows an object or a record (`check` with ``empty=False``) says that the backend is in use, and
costs nothing. Without one, the first empty answer of a process, and its first write, read the marker: one GET per
backend and process (alone: only the write). Where there is no marker, two LISTs find out whether anything else is
there; where nothing is, the others of the set are looked at. What was found is remembered as long as the store's
object lives, except a refusal: the disk may be mounted meanwhile.

A disk may also be unmounted under a process that lives on. A store that can tell (`ObjectStore.place_id`: device
and inode of a base directory, seen by each call that opens it) has the guard forget what it found once another
place is there, and examine that as a new process would (`BackendGuard.refresh`). What is being written in between
is held back by the store (`keep_place`): it makes no base directory in the place of the one that was accepted, and
writes to another one only where that has a marker.

How markers are made
--------------------
`prepare` runs before the data of an upload is committed:

1. Alone, or holding objects: one create-only write; a second writer reads the marker of the first.
2. In a new set, before any data: (a) a *filling* marker on every replica, create-only; (b) when all have one, each
   is written again without ``filling``.

A crash between the writes of (a) leaves replicas with and without a marker, and none in use: the next writer
makes the rest. A crash in (b) leaves a marker on every replica, so none is refused. A reader that saw no marker
here, and then another replica in use, reads the marker here again: it was made before the other replica got to
(b). A replica on which (a) fails is refused once the others have objects, as is one that is added to a set later.

A *filling* marker is also what `accept_empty` writes. Such a replica takes writes and is read, but what it lacks
does not prove an absence (`doubts`), except at or below the prefixes that a repair has filled (`finish`): backends
may be shared by sets, so that no one set says what all of a backend is. A repair of a whole set ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from fsbackup.engine.guard import BackendGuard, attempt
from fsbackup.engine.mark import Mark
from fsbackup.errors import ConfigError, FsbackupError
from fsbackup.stores.base import ObjectStore

log = logging.getLogger("fsbackup.storage")


def join(stores: Iterable[ObjectStore]) -> None:
    """Have the stores checked, from now on also against each other."""
    guards = [_attach(store) for store in stores]
    for guard in guards:
        guard.peers = tuple(dict.fromkeys([*guard.peers, *(each for each in guards if each is not guard)]))


async def check(store: ObjectStore, *, empty: bool) -> None:
    """Take note of an answer of `store`: whether it showed nothing at all (`empty`), or an object or a record.

    Raises
    ------
    WrongBackendError
        When the answer is empty and must not count; its `cause` is set if only another replica could tell.
    BackendError
        When the store does not answer what is asked about its marker.
    """
    guard = _guard(store)
    if guard is None:
        return
    if empty:
        await guard.require()
    else:
        await guard.note_object()


async def prepare(store: ObjectStore) -> None:
    """Make sure that `store` may be written to and has a marker; called before data is committed.

    Raises
    ------
    WrongBackendError
        As `check`.
    BackendError
        When the store does not answer, or the marker cannot be written.
    """
    guard = _guard(store)
    if guard is not None:
        await guard.prepare()


async def doubts(stores: Iterable[ObjectStore], prefix: str) -> dict[str, FsbackupError]:
    """Return why these replicas do not prove an absence, by name: they are filling, or their marker is unreadable.

    For a caller whom all of them have told that they do not have the key `prefix`, or nothing below that.
    """
    guards = [guard for store in stores if (guard := _guard(store)) is not None and guard.peers]
    found = await asyncio.gather(*(guard.doubt(prefix) for guard in guards))
    return {guard.store.name: error for guard, error in zip(guards, found, strict=True) if error is not None}


async def accept_empty(stores: Sequence[ObjectStore], names: Iterable[str], *, dry_run: bool) -> None:
    """Accept the empty backends called `names` as replicas that are to be filled; with `dry_run` for this process.

    Raises
    ------
    ConfigError
        When there is no such backend, or it is not empty; nothing was accepted then.
    BackendError
        When a backend does not answer.
    """
    by_name = {store.name: _attach(store) for store in stores}
    wanted = list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in by_name]:
        raise ConfigError(
            f"no backend of the set is called {', '.join(map(repr, unknown))}",
            hint=f"there are: {', '.join(by_name)}",
        )
    await asyncio.gather(*(by_name[name].require_empty() for name in wanted))
    await asyncio.gather(*(by_name[name].accept(dry_run=dry_run) for name in wanted))


async def finish(stores: Iterable[ObjectStore], prefix: str) -> None:
    """Record in the markers that are filling that a repair at or below `prefix` is done; a failure is only logged.

    With an empty prefix the whole set was repaired: the markers are complete.
    """
    guards = [guard for store in stores if (guard := _guard(store)) is not None and guard.peers]
    tries = (attempt(each.finish(prefix)) for each in guards)
    for guard, error in zip(guards, await asyncio.gather(*tries), strict=True):
        if error is not None:
            log.warning("%s: its marker stays as it is until the next repair: %s", guard.store.name, error)


async def read_marker(store: ObjectStore) -> Mark | None:
    """Return the backend's marker, None when it has none; raises what the store raises."""
    return await _attach(store).read()


def _guard(store: ObjectStore) -> BackendGuard | None:
    return store.guard if isinstance(store.guard, BackendGuard) else None


def _attach(store: ObjectStore) -> BackendGuard:
    guard = _guard(store)
    if guard is None:
        guard = store.guard = BackendGuard(store)
    return guard
