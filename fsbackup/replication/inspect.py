"""What every replica has of one object: from its manifests and metadata, or `deep` from its every byte.

Before anything is called damaged the replicas are asked again: an object that is being replaced looks for a moment
like one that rotted, its new data beside its old manifest. Nothing is ever changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fsbackup.engine import records
from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.errors import FsbackupError, ObjectNotFoundError
from fsbackup.record import Manifest
from fsbackup.replication.bytecheck import ByteCheck, check_bytes
from fsbackup.replication.classify import CopyState, IsExpired, ObjectStatus, classify
from fsbackup.stores.base import ObjectStore

#: How often an object that changes meanwhile is looked at before it is given up.
_LOOKS = 4
#: Seconds until another look at an object whose replacement is announced: by then a live writer has moved on.
_PAUSES = (0.0, 0.5, 1.0)
#: What may as well be an object on its way from one version to the next.
_DOUBTFUL: frozenset[CopyState] = frozenset({"damaged", "size differs", "conflict", "no manifest"})


async def inspect(targets: ReplicaSet, key: str, *, deep: bool) -> ObjectStatus:
    """Return what each replica has of `key`; one that cannot be asked is ``"unknown"``. Never raises for that.

    `deep` reads every byte of every replica that has a manifest to compare with.
    """
    return await Inspector(targets, deep=deep).inspect(key)


class Inspector:
    """Examines objects, any number side by side, in the memory of the set.

    Parameters
    ----------
    targets, deep
        As for `examine`.
    expired
        See `judge`.
    outages
        What is known of the stores by those who go on from one examiner to another.
    """

    def __init__(
        self,
        targets: ReplicaSet,
        *,
        deep: bool = False,
        expired: IsExpired | None = None,
        outages: CircuitBreaker | None = None,
    ) -> None:
        self._stores = targets.stores
        self._deep = deep
        self._expired = expired
        self._budget = MemoryBudget(targets.memory)
        self._outages = CircuitBreaker() if outages is None else outages

    async def inspect(
        self, key: str, away: Mapping[str, FsbackupError] | None = None, stored: float | None = None
    ) -> ObjectStatus:
        """Return what each replica has of `key`.

        Parameters
        ----------
        key
            The object.
        away
            Replicas not to ask, by name, and why.
        stored
            When it was stored by the listings, for `expired`.
        """
        findings = await self._ask(key, away or {})
        read = 0
        for _ in range(_LOOKS):
            verdict = classify(key, findings, self._expired, stored)
            if self._deep:
                verdict = await self._read(verdict)
            read += verdict.bytes_read
            again = await self._changed(verdict, away or {})
            if again is None:
                return replace(await self._with_intents(verdict), bytes_read=read)
            findings = again
        return replace(_unstable(verdict), bytes_read=read)

    async def _ask(self, key: str, away: Mapping[str, FsbackupError]) -> list[ReplicaState]:
        return list(await asyncio.gather(*(self._ask_one(store, key, away) for store in self._stores)))

    async def _ask_one(self, store: ObjectStore, key: str, away: Mapping[str, FsbackupError]) -> ReplicaState:
        """Ask one store; one that did not answer is not waited for again once per object."""
        known = away.get(store.name)
        return ReplicaState(store, error=known) if known is not None else await self._outages.query(store, key)

    async def _read(self, verdict: ObjectStatus) -> ObjectStatus:
        """Read what there is a manifest for, all replicas at once, and correct the verdict."""
        wanted = (
            {} if verdict.deleted else {name: _manifest_of(f, verdict) for name, f in verdict.findings.items()}
        )
        names = [name for name, manifest in wanted.items() if manifest is not None]
        results = await asyncio.gather(*(self._compare(verdict.findings[each], wanted[each]) for each in names))
        for name, found in zip(names, results, strict=True):
            verdict = _corrected(verdict, name, wanted[name], found)
        return verdict

    async def _compare(self, finding: ReplicaState, manifest: Manifest | None) -> ByteCheck | FsbackupError:
        assert manifest is not None
        try:
            return await check_bytes(finding.store, manifest, self._budget)
        except FsbackupError as error:
            return error

    async def _changed(
        self, verdict: ObjectStatus, away: Mapping[str, FsbackupError]
    ) -> list[ReplicaState] | None:
        """Return what is said of a doubtful object now, None when it is the same as before."""
        if not _DOUBTFUL.intersection(verdict.states.values()):
            return None
        before = [_fingerprint(finding) for finding in verdict.findings.values()]
        for pause in _PAUSES:
            await asyncio.sleep(pause)
            again = await self._ask(verdict.key, away)
            if [_fingerprint(finding) for finding in again] != before:
                return again
            if not await self._intended(verdict):
                return None
        return None

    async def _intended(self, verdict: ObjectStatus) -> dict[str, Manifest]:
        """Return the newer version that was announced and is not finished, for each doubtful replica with one."""
        doubtful = [
            finding
            for name, finding in verdict.findings.items()
            if verdict.states[name] in _DOUBTFUL and finding.record
        ]
        found = await asyncio.gather(*(try_find_intent(each.store, verdict.key) for each in doubtful))
        pairs = zip(doubtful, (new for new, _ in found), strict=True)
        return {f.store.name: new for f, new in pairs if new and f.record and new.generation > f.record.generation}

    async def _with_intents(self, verdict: ObjectStatus) -> ObjectStatus:
        """Add to the details which replacements were left unfinished."""
        if not _DOUBTFUL.intersection(verdict.states.values()):
            return verdict
        unfinished = await self._intended(verdict)
        notes = {
            name: f"{verdict.details[name]}; its replacement (generation {new.generation}) was begun, not finished"
            for name, new in unfinished.items()
        }
        return replace(verdict, details={**verdict.details, **notes})


async def try_find_intent(store: ObjectStore, key: str) -> tuple[Manifest | None, bool]:
    """Return what `records.find_intent` returns; no intent where the store fails, which every write finds out."""
    try:
        async with asyncio.timeout(store.hard_timeout):
            return await records.find_intent(store, key)
    except (FsbackupError, TimeoutError):
        return None, False


def _manifest_of(finding: ReplicaState, verdict: ObjectStatus) -> Manifest | None:
    """Return what to compare a replica's bytes with: its own manifest, or else the newest; None: nothing."""
    manifest = finding.manifest or verdict.manifest
    if finding.stat is None or manifest is None or finding.stat.size != manifest.size:
        return None
    return manifest


def _corrected(
    verdict: ObjectStatus, name: str, manifest: Manifest | None, found: ByteCheck | FsbackupError
) -> ObjectStatus:
    """Return the verdict with what one replica's bytes say."""
    assert manifest is not None
    state, detail = verdict.states[name], verdict.details.get(name, "")
    if isinstance(found, ObjectNotFoundError):
        state, detail = "damaged", "its data was gone before it was read"
    elif isinstance(found, FsbackupError):
        state, detail = "unknown", str(found)
    elif verdict.findings[name].manifest is None:
        detail += (
            "; its data is the newest version" if found.good else "; its data is not the newest version either"
        )
    elif not found.good:
        state, detail = "damaged", found.describe(manifest)
    elif state == "damaged":
        state, detail = "present", "every byte is right, though it was stored again or touched since"
    read = verdict.bytes_read + (found.read if isinstance(found, ByteCheck) else 0)
    states = {**verdict.states, name: state}
    return replace(verdict, states=states, details=_with(verdict.details, name, detail), bytes_read=read)


def _with(details: Mapping[str, str], name: str, detail: str) -> Mapping[str, str]:
    return {**details, name: detail} if detail else details


def _fingerprint(finding: ReplicaState) -> Sequence[object]:
    """Return what must be the same at a second look."""
    stat = finding.stat
    data = None if stat is None else (stat.size, stat.etag, stat.version_id)
    return finding.record, finding.damaged, data, finding.error is None


def _unstable(verdict: ObjectStatus) -> ObjectStatus:
    """Return the verdict of an object that was another one at every look: nothing bad can be said of it."""
    moving = {name for name, state in verdict.states.items() if state in _DOUBTFUL}
    why = "it kept changing while it was examined: verify it again later"
    states: dict[str, CopyState] = {n: "unknown" if n in moving else s for n, s in verdict.states.items()}
    return replace(verdict, states=states, details={**verdict.details, **dict.fromkeys(moving, why)})
