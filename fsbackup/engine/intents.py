"""Write intents: on each replica a writer announces a change of data whose record lies beside it.

An intent is the manifest of the new version under a name of its own (`intent_name`), which no other write has; one
listing finds all intents of a key. An intent proves the data after the data has been replaced and before the
record has, and it tells other writers who may still write. So what is stored stays proven with any number of
concurrent writers, without a lock:

1. A writer that replaces data, or replaces or removes a record, has an intent from before the change until it has
   read back what is stored after it.
2. It removes its intent when its data is not what is stored, or when it sees that its record proves the data and
   no other writer had an intent before that (`end`). Another writer with an intent may be between its data and its
   record, and write that record over this one at any later time: then this writer's intent is what proves its
   data. So the intent stays, under a name that says that its writer has ended.
3. The intent of a writer that has ended is removed when its data has been replaced. One that a crash left is
   removed when it is a day old, on a disk with locks after the store's `timeout`: by the next writer, or by
   repair.

4. A writer that yields to others (repair, prune, delete, an upload that may not replace what is new) says so in
   the name of its intent, and reads the intents of the others after it has stored its own. A writer that replaces
   also stores its intent first, and waits while there is one that yields (`is_awaited`): one of the two has seen
   the other, so neither removes nor replaces what it has not read. Where a lock keeps them apart, this is not
   needed: an intent that a delete finds under the lock is not of a running writer. It counts there only if its
   data may be what is stored, and stays: a rename that hangs on a disk may outlive the lock of its writer, which
   has given up.

5. A writer that creates, where the store cannot refuse to replace, has an intent that yields, too. Of several, the
   one whose intent has the lowest name waits for the others to end; they withdraw as long as there is one with a
   lower name, and then find what that one has stored. A writer that has been silent for the store's `timeout` is
   not waited for.

To find out what is stored, read the intents first: a writer that has ended since then has stored what is read
afterwards.

A reader that finds data which its record does not prove looks for the intent that does (`proving`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fsbackup import clock
from fsbackup.engine.hashing import content_hash
from fsbackup.engine.record_objects import load_record
from fsbackup.engine.records import ReplicaState, has_records_inside, new_id
from fsbackup.errors import FsbackupError, IntegrityError, NewerFormatError, ObjectNotFoundError
from fsbackup.keys import INTENT_DONE, INTENT_YIELDS, encode_key, intent_name, intents_of
from fsbackup.record import Manifest, Record, dump, version_order
from fsbackup.stores.base import ObjectStat, ObjectStore

log = logging.getLogger("fsbackup.storage")

#: Seconds after which an unfinished write counts as abandoned: a day, longer than any pause of a live writer.
SAFE_AGE = 86_400.0


@dataclass(frozen=True, slots=True)
class Intent:
    """A write that was announced on one replica.

    Parameters
    ----------
    manifest
        What it announces; None when that is unreadable.
    age
        Seconds since it was announced; 0 where the store does not tell.
    name
        The name of its object.
    newer
        A newer version of fsbackup wrote it.
    """

    manifest: Manifest | None
    age: float
    name: str = ""
    newer: NewerFormatError | None = None

    @property
    def yields(self) -> bool:
        """Whether its writer yields to writers that replace."""
        return self.name.endswith(INTENT_YIELDS)

    def may_go_on(self, safe_age: float = SAFE_AGE) -> bool:
        """Return whether its writer may still be running."""
        return not self.name.endswith(INTENT_DONE) and self.age <= safe_age


async def find(store: ObjectStore, key: str, own: str = "") -> list[Intent]:
    """Return the intents of a key but `own`, read."""
    found = await asyncio.gather(*(_read(store, key, each) for each in await listed(store, key, own)))
    return [each for each in found if each is not None]


async def listed(store: ObjectStore, key: str, own: str = "") -> list[Intent]:
    """Return the intents of a key but `own`, not read; none where no record lies beside its data."""
    if has_records_inside(store):
        return []
    found = [each async for each in store.list(intents_of(key))]
    # `own` has just been stored: its time is the present by the store's clock, whatever that shows.
    now = next((each.modified for each in found if each.name == own), None) or clock.now()
    return [Intent(None, _age(each, now), each.name) for each in found if each.name != own]


def _age(stat: ObjectStat, now: float) -> float:
    return 0.0 if stat.modified is None else now - stat.modified


async def _read(store: ObjectStore, key: str, intent: Intent) -> Intent | None:
    try:
        record = load_record(store, key, await store.read(intent.name))
    except ObjectNotFoundError:  # its writer has ended meanwhile
        return None
    except IntegrityError:
        return intent
    except NewerFormatError as error:
        return Intent(None, intent.age, intent.name, error)
    manifest = record if isinstance(record, Manifest) and record.key == key else None
    return Intent(manifest, intent.age, intent.name)


def known(found: Sequence[Intent]) -> Sequence[Intent]:
    """Return `found`; raises the `NewerFormatError` of one that a newer version of fsbackup wrote."""
    for each in found:
        if each.newer is not None:
            raise each.newer
    return found


def is_active(store: ObjectStore, intent: Intent) -> bool:
    """Return whether a writer is likely to be running: it stored its intent a short while ago."""
    return intent.may_go_on() and intent.age <= store.timeout


def is_awaited(store: ObjectStore, intent: Intent) -> bool:
    """Return whether a writer that replaces waits for an intent to end: it is of a writer that yields."""
    return intent.yields and is_active(store, intent)


def outranks(found: Iterable[Intent], generation: int, safe_age: float = SAFE_AGE) -> bool:
    """Return whether a version above this generation is being stored."""
    live = [each.manifest for each in found if each.may_go_on(safe_age)]
    return any(each is not None and each.generation > generation for each in live)


def may_be_data(intent: Intent, replica: ReplicaState) -> bool:
    """Return whether the data of a replica, which its own record does not prove, may be that of an intent."""
    if replica.stat is None or intent.manifest is None or replica.is_intact:
        return False
    return replica.stat.size == intent.manifest.size


def counting(found: Iterable[Intent], replica: ReplicaState) -> list[Intent]:
    """Return the intents whose versions a delete that holds the lock of the key yields to."""
    return [each for each in found if not replica.store.capabilities.locks or may_be_data(each, replica)]


def is_of_deleted(store: ObjectStore, intent: Intent, generation: int) -> bool:
    """Return whether an intent is useless once all up to `generation` is deleted, under the lock of the key."""
    outlived = store.capabilities.locks or not intent.may_go_on()
    return outlived and (intent.manifest is None or intent.manifest.generation <= generation)


async def announce(store: ObjectStore, record: Record, *, yields: bool = False) -> str:
    """Store an intent, and return its name. `yields`: its writer yields to writers that replace."""
    name = intent_name(record.key, new_id()) + (INTENT_YIELDS if yields else "")
    await store.put(name, dump(record))
    return name


@asynccontextmanager
async def announced(store: ObjectStore, record: Record) -> AsyncIterator[str]:
    """Have an intent that yields while the block runs, where nothing else keeps writers apart; yields its name."""
    if has_records_inside(store) or store.capabilities.locks:
        yield ""
        return
    own = await announce(store, record, yields=True)
    try:
        yield own
    finally:
        await withdraw(store, own)


async def end(
    store: ObjectStore, manifest: Manifest, own: str, others: Sequence[Intent], replaced: Iterable[str]
) -> None:
    """End the intent `own`, whose version is stored and proven by its record.

    `others` are the intents that were there before this was seen, `replaced` names those of ended writers that
    were there before its data. A failure is only logged: the next writer of the key or repair clears what is left.
    """
    ended = {*replaced, *(each.name for each in others if is_dead(store, each))}
    try:
        for each in others:
            if each.name in ended:
                await store.remove(each.name)
        if any(each.name not in ended for each in others):
            await store.put(own.removesuffix(INTENT_YIELDS) + INTENT_DONE, dump(manifest))
        await store.remove(own)
    except FsbackupError as error:
        _log_left(error)


def is_dead(store: ObjectStore, intent: Intent) -> bool:
    """Return whether an intent is so old that its writer counts as dead, which is sooner where there are locks."""
    return intent.age > (store.timeout if store.capabilities.locks else SAFE_AGE)


async def withdraw(store: ObjectStore, own: str) -> None:
    """Remove the intent `own`, whose data is not what is stored; a failure is only logged."""
    try:
        await store.remove(own)
    except FsbackupError as error:
        _log_left(error)


def _log_left(error: FsbackupError) -> None:
    log.warning("write intent was not removed (harmless, repair removes it): %s", error)


async def proving(store: ObjectStore, key: str) -> Manifest | None:
    """Return the manifest of the intent that proves the data, None where none does.

    The data is read only where intents announce several contents of its size.
    """
    found, stat = await asyncio.gather(find(store, key), store.stat(encode_key(key)))
    manifests = [each.manifest for each in found if each.manifest is not None]
    sized = [each for each in manifests if stat is not None and each.size == stat.size]
    contents = {each.sha256: each for each in sorted(sized, key=version_order)}
    if len(contents) < 2 or stat is None:
        return next(iter(contents.values()), None)
    name = stat.name
    return contents.get(
        await content_hash(lambda offset, length: store.read(name, offset, offset + length), stat.size)
    )
