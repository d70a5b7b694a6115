"""Finding the newest version of an object, and reading it from whichever replicas prove its bytes.

`locate` asks all replicas for their records at once. The newest version (`versions.newest`) is read, from all
replicas that have it (see `fsbackup.engine.reader`). When the object is replaced while it is read, the reads of
the old version fail, and `newer_version` returns a reader of the new one. Where a newer version of fsbackup wrote
the record of a replica, what the others have may be of an older version, and is read only where it provably is
not (`_is_proven_newest`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from fsbackup.engine import intents, records, versions
from fsbackup.engine.beginning import Beginning
from fsbackup.engine.read_plan import ReadLog, ReadPlan
from fsbackup.engine.reader import SHORT_READ, ParallelReader
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.selector import ReplicaSelector
from fsbackup.engine.survey import (
    Query,
    decide,
    fewest,
    is_known_away,
    look_twice,
    settled,
    survey,
    survey_to_read,
    survey_without_stragglers,
)
from fsbackup.errors import (
    FsbackupError,
    IntegrityError,
    ObjectLostError,
    ObjectNotFoundError,
    TransientError,
)
from fsbackup.record import Manifest, Record, Tombstone, version_order
from fsbackup.stores.base import ObjectStat, ObjectStore

log = logging.getLogger("fsbackup.storage")

#: The data of one key that stores have listed, by their names.
Listed: TypeAlias = Mapping[str, ObjectStat]


@dataclass(frozen=True, slots=True)
class ObjectReader:
    """Reads ranges of one version of an object.

    Parameters
    ----------
    plan
        The version, and which replicas to read it from.
    log
        The failures and bytes of each replica so far; a replica that failed is used as fallback from then on.
    selector
        Chooses the replica for short reads.
    proven
        A quorum of the replicas answered, so that no confirmed version is newer.
    seen
        Its manifests that are objects of their own, by the names of these.
    """

    plan: ReadPlan
    log: ReadLog
    selector: ReplicaSelector
    proven: bool = True
    seen: Mapping[str, Manifest] = field(default_factory=dict, compare=False)

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of the version, None for an object that no manifest proves."""
        return self.plan.manifest

    def ranges(
        self, start: int = 0, end: int | None = None, *, ordered: bool = False, reuse_memory: bool = False
    ) -> AsyncGenerator[tuple[int, list[bytes]], None]:
        """Yield (offset, pieces of bytes there) from `start` (of a block) up to `end` (see `ParallelReader`)."""
        stop = self.plan.size if end is None else min(end, self.plan.size)
        reader = ParallelReader(self.plan, self.log, self.selector, start, stop, reuse_memory=reuse_memory)
        return reader.ranges(ordered=ordered)

    def begun(self, beginning: Beginning | None, states: Iterable[ReplicaState]) -> ObjectReader:
        """Return the reader with the first bytes that have come, where they are of the version of the `states`."""
        if beginning is None or not beginning.is_of(self.plan.stores, states):
            return self
        return replace(self, plan=replace(self.plan, beginning=beginning))

    async def pieces(
        self, start: int = 0, end: int | None = None, *, reuse_memory: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Yield the verified bytes from `start`, the beginning of a block, up to `end`, in order.

        Raises
        ------
        IntegrityError
            When replicas answered, but none with the right bytes.
        NoHealthyReplicaError
            When no replica could be read.
        """
        async with aclosing(self.ranges(start, end, ordered=True, reuse_memory=reuse_memory)) as ranges:
            async for _, pieces in ranges:
                for piece in pieces:
                    yield piece

    async def range(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`; the whole blocks around them are read and verified."""
        end = min(end, self.plan.size)
        if start >= end:
            return b""
        # Without a manifest there are no hashes to check, and no more than the range is read.
        block = self.manifest.block_size if self.manifest else 1
        low, high = start // block * block, min(-(-end // block) * block, self.plan.size)
        pieces = [data async for data in self.pieces(low, high)]
        return b"".join(pieces)[start - low : end - low]


async def locate(
    targets: ReplicaSet,
    key: str,
    *,
    selector: ReplicaSelector | None = None,
    with_data: bool = True,
    at_once: bool = False,
    listed: Listed = MappingProxyType({}),
    known: ObjectReader | None = None,
) -> ObjectReader:
    """Return a reader of the newest version of `key`.

    Parameters
    ----------
    targets
        The replicas, and the memory and stall timeout for reading.
    key
        The object.
    selector
        Shared by the readers of one set; None: one for this reader.
    with_data
        Stat the data object on every replica. Without it one request per replica is saved, and a manifest is taken
        as a sign that the data is there; reading finds out. Objects without a manifest need the stat, and get it.
    at_once
        The object will be read from its beginning. The first bytes come with the record, where one request returns
        both; and of a small object only as many replicas are asked as prove it.
    listed
        What listings have just shown of it: of what is read at once, a replica that lists the ETag of the one that
        is read from is not asked.
    known
        What a look of a short while ago found and proved. Where it is still the newest version, this is what is
        returned, and only a quorum is asked: one of its replicas has whatever was confirmed since.

    Raises
    ------
    ObjectNotFoundError
        When a quorum of the replicas says that there is no such key, or that it was deleted.
    NoHealthyReplicaError
        When no replica has it and too few answered; or, where the set has `unproven` ``"raise"``, when too few
        answered to prove that it is the newest version.
    IntegrityError
        When all manifests of it are damaged.
    NewerFormatError
        When a newer version of fsbackup wrote the record of a replica, and the other replicas do not prove which
        version is the newest.
    """
    selector = selector or ReplicaSelector()
    seen = known.seen if known is not None else {}
    ask: Query = partial(records.query, with_data=with_data, seen=seen)
    if not at_once and known is None:
        states = survey_without_stragglers(targets, key, ask)
        return await _located(targets, key, selector, ask, states, with_data)
    few = fewest(targets, selector.pick, is_known=known is not None)
    begins = at_once and bool(few) and records.has_records_inside(few[0])
    beginning = Beginning(few[0], key, selector) if begins else None
    agree = partial(_is_small, with_data) if known is None else partial(_is_still_newest, known, with_data)
    try:
        query = partial(_begin, ask, beginning, listed)
        states = survey_to_read(targets, key, query, few, agree)
        reader = await _located(targets, key, selector, ask, states, with_data, beginning, known)
    except BaseException:
        if beginning is not None:
            beginning.cancel()
        raise
    if beginning is not None and reader.plan.beginning is None:
        beginning.cancel()
    return reader


async def _located(
    targets: ReplicaSet,
    key: str,
    selector: ReplicaSelector,
    ask: Query,
    asking: Awaitable[list[ReplicaState]],
    with_data: bool,
    beginning: Beginning | None = None,
    known: ObjectReader | None = None,
) -> ObjectReader:
    states = await asking
    if known is not None and _is_still_newest(known, with_data, states):
        return known.begun(beginning, states)
    if not with_data and versions.highest(states) is None:
        with_data, ask = True, records.query
        states = await survey_without_stragglers(targets, key, ask)
    decision = partial(_reader, targets, key, selector, with_data, beginning)

    async def look(states: Sequence[ReplicaState]) -> ObjectReader:
        return await decide(await settled(states, key), key, decision, ask)

    async def again() -> ObjectReader:
        return await look(await survey_without_stragglers(targets, key, ask))

    return await look_twice(targets, look(states), again)


async def _begin(
    ask: Query,
    beginning: Beginning | None,
    listed: Listed,
    store: ObjectStore,
    key: str,
    *,
    insist: bool = False,
) -> ReplicaState:
    """Ask a store, with the first bytes if they come from it; not one that lists what these are the bytes of."""
    if beginning is not None and store is beginning.store:
        return await records.query(store, key, insist=insist, beginning=beginning)
    shown = listed.get(store.name)
    other = await beginning.known() if beginning is not None and shown is not None else None
    if shown is not None and other is not None:
        state = await records.as_listed(store, key, shown, other)
        if state is not None:
            return state
    return await ask(store, key, insist=insist)


def _is_small(with_data: bool, states: Sequence[ReplicaState]) -> bool:
    """Return whether all have the same version, which is read from one replica at a time."""
    manifest = states[0].manifest
    if manifest is None or manifest.size > SHORT_READ:
        return False
    return versions.copies(states, manifest, with_data=with_data) == len(states) and all(
        each.is_intact for each in states if each.stat is not None
    )


def _is_still_newest(known: ObjectReader, with_data: bool, states: Sequence[ReplicaState]) -> bool:
    """Return whether all have this version, and no other is above it."""
    manifest = known.manifest
    return manifest is not None and all(
        each.manifest is not None
        and versions.version_id(each.manifest) == versions.version_id(manifest)
        and (each.holds(manifest) or not with_data)
        for each in states
    )


async def _reader(
    targets: ReplicaSet,
    key: str,
    selector: ReplicaSelector,
    with_data: bool,
    beginning: Beginning | None,
    states: Sequence[ReplicaState],
) -> ObjectReader:
    newest = versions.newest(states, targets.min_copies, with_data=with_data)
    errors = records.errors_of(states)
    newer = records.refusal(states, "download")
    if newer is not None and not _is_proven_newest(states, newest, targets.min_copies, with_data=with_data):
        raise newer
    if isinstance(newest, Manifest):
        plan = _proven_plan(targets, newest, states, with_data=with_data)
        if plan is None and not errors:
            raise lost_error(key, "download")
    else:
        plan = _unproven_plan(targets, key, states) if newest is None else None
    if plan is None:
        raise await _absence(targets, key, states, newest)
    _log_survey(key, states, newest, errors)
    proven = targets.is_quorum(records.clear_answers(states))
    if not proven:
        targets.report_unproven("a newer version may exist", errors, operation="download", key=key)
    seen = {each.record_object: each.manifest for each in states if each.record_object and each.manifest}
    return ObjectReader(plan, ReadLog(key, errors), selector, proven, seen).begun(beginning, states)


async def _absence(
    targets: ReplicaSet, key: str, states: Sequence[ReplicaState], newest: Record | None
) -> FsbackupError:
    """Return the error for a key of which no replica that answered has the data."""
    states = await records.with_doubts(states, key)
    if records.errors_of(states) and not versions.is_proven_absent(targets, states, newest):
        return records.unproven_absence(states, "download", key)
    why = "it was deleted" if isinstance(newest, Tombstone) else "no such key"
    return ObjectNotFoundError(why, operation="download", key=key)


def _is_proven_newest(
    states: Sequence[ReplicaState], newest: Record | None, min_copies: int, *, with_data: bool
) -> bool:
    """Return whether `newest` is the newest version whatever the replicas have whose record was not read.

    It is confirmed by replicas whose record was read, and the others are too few to have confirmed a higher one.
    Never for a delete: what was stored after it counts on one replica.
    """
    unread = sum(state.error is not None for state in states)
    if unread >= min_copies or not isinstance(newest, Manifest):
        return False
    return versions.copies(states, newest, with_data=with_data) >= min_copies


def _log_survey(
    key: str, states: Sequence[ReplicaState], newest: Record | None, errors: Mapping[str, FsbackupError]
) -> None:
    for name, error in errors.items():
        if is_known_away(error):  # it was logged when it was found away
            continue
        fields = {"backend": name, "operation": "download", "key": key, "error_type": type(error).__name__}
        log.warning("download of %s continues without %s: %s", key, name, error.reason, extra=fields)
    if newest is not None and versions.is_conflict(states, newest):
        log.warning("%s has two contents under generation %d: one of them is read", key, newest.generation)


def _proven_plan(
    targets: ReplicaSet, manifest: Manifest, states: Sequence[ReplicaState], *, with_data: bool
) -> ReadPlan | None:
    """Return how to read the version of `manifest`; None when no replica that answered has any data."""
    current = tuple(s.store for s in states if (s.holds(manifest) if with_data else s.claims(manifest)))
    present = [s.store for s in states if s.error is None and (s.stat is not None or not with_data)]
    doubtful = tuple(store for store in present if store not in current)
    if not current and not doubtful:
        return None
    current, *later = targets.by_group(current) or [()]
    # A store that was too slow to be waited for, or is known to be away, is read when all others have failed.
    # So is one that was not asked.
    answered = [s.store for s in states if not isinstance(s.error, TransientError)]
    silent = tuple(store for store in targets.stores if store not in answered)
    reserve = tuple(group for group in (*later, doubtful, silent) if group)
    return ReadPlan(
        manifest.key, manifest.size, manifest, current, reserve, memory=targets.memory, stall=targets.stall
    )


def reader_of(targets: ReplicaSet, manifest: Manifest, states: Sequence[ReplicaState]) -> ObjectReader | None:
    """Return a reader of exactly this version, by what every replica has; None when none has its data."""
    if not any(state.holds(manifest) for state in states):
        return None
    plan = _proven_plan(targets, manifest, states, with_data=True)
    return None if plan is None else ObjectReader(plan, ReadLog(manifest.key), ReplicaSelector())


def _unproven_plan(targets: ReplicaSet, key: str, states: Sequence[ReplicaState]) -> ReadPlan | None:
    """Return how to read an object without any record; None when no replica that answered has data."""
    present = [state for state in states if state.stat is not None]
    if not present:
        return None
    if any(state.damaged for state in states):
        raise IntegrityError(
            "every manifest of it is damaged or missing, so that nothing proves its bytes",
            operation="download",
            key=key,
            hint="compare the copies by hand: each is a plain file or object under its own name",
        )
    # One replica only: without hashes, chunks of two replicas could be chunks of two different objects.
    store, stat = present[0].store, present[0].stat
    assert isinstance(stat, ObjectStat)
    log.warning("%s has no manifest on any replica: read unverified from %s", key, store.name)
    return ReadPlan(
        key, stat.size, None, (store,), memory=targets.memory, stall=targets.stall, modified=stat.modified
    )


def lost_error(key: str, operation: str) -> ObjectLostError:
    """Return the error for an object that was stored and whose data no replica has: lost is not absent."""
    return ObjectLostError(
        "its manifest exists, but its data is gone from every replica",
        operation=operation,
        key=key,
        hint="look for a copy elsewhere and store it again, or delete the key",
    )


async def newer_version(targets: ReplicaSet, reader: ObjectReader) -> ObjectReader | None:
    """Return a reader of another version to read in place of the one of `reader`, None when there is none.

    The object was replaced meanwhile: the new version's manifest is there by now, or its write intent is there and
    its data is in place (a crash between data and manifest leaves this). Between the two questions the intent may
    have given way to the manifest, which is asked for once more. Or there is other content under the same
    generation, which a replica may prove where none proves this one.

    Raises
    ------
    ObjectNotFoundError, NoHealthyReplicaError
        When the object is gone by now.
    """
    if reader.manifest is None:
        return None
    return (
        await _replaced_version(targets, reader, reader.manifest)
        or await _intended_version(targets.stores, reader, reader.manifest)
        or await _replaced_version(targets, reader, reader.manifest)
        or await _other_content(targets, reader, reader.manifest)
    )


async def _replaced_version(targets: ReplicaSet, reader: ObjectReader, current: Manifest) -> ObjectReader | None:
    latest = await locate(targets, reader.plan.key, selector=reader.selector)
    return latest if latest.manifest is not None and latest.manifest.sha256 != current.sha256 else None


async def _other_content(targets: ReplicaSet, reader: ObjectReader, current: Manifest) -> ObjectReader | None:
    """Return a reader of other content under the generation of `current`, where a replica has some."""
    states = await survey(targets.stores, current.key)
    others = [
        each.manifest
        for each in states
        if each.is_intact and each.manifest and each.manifest.generation == current.generation
    ]
    other = max((each for each in others if each.sha256 != current.sha256), key=version_order, default=None)
    if other is None:
        return None
    log.warning("no replica proves the newer of two contents of %s: the other one is read", current.key)
    plan = _proven_plan(targets, other, states, with_data=True)
    return None if plan is None else ObjectReader(plan, ReadLog(current.key), reader.selector)


async def _intended_version(
    stores: Sequence[ObjectStore], reader: ObjectReader, current: Manifest
) -> ObjectReader | None:
    answers = await asyncio.gather(
        *(intents.proving(store, current.key) for store in stores), return_exceptions=True
    )
    found = [(each, store) for each, store in zip(answers, stores, strict=True) if isinstance(each, Manifest)]
    others = [each for each, _ in found if each.sha256 != current.sha256]
    latest = max(others, key=version_order, default=None)
    if latest is None:
        return None
    holders = tuple(store for each, store in found if each.sha256 == latest.sha256)
    plan = replace(reader.plan, size=latest.size, manifest=latest, stores=holders, reserve=())
    return ObjectReader(plan, ReadLog(current.key), reader.selector)


def same_beginning(one: ObjectReader, other: ObjectReader, length: int) -> bool:
    """Tell whether the manifests of both versions prove that they start with the same `length` bytes."""
    this, that = one.manifest, other.manifest
    if this is None or that is None or (this.block_size, this.block_hash) != (that.block_size, that.block_hash):
        return length == 0
    blocks, rest = divmod(length, this.block_size)
    return rest == 0 and this.blocks[:blocks] == that.blocks[:blocks]
