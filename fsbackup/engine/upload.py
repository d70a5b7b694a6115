"""Upload one source, read once, to every store of a set at once, with one result per store.

`upload` surveys the stores, unless the caller knows their state, and runs one `_Upload`:

1. Ask the stores (`survey.survey_for_change`). Where fewer than `min_copies` can be reached, nothing is sent.
2. Decide whether the source is a new version, or must be the content that is stored already (`_expect`). Before an
   upload is refused, or sends nothing, because of what is stored, check whether that is being deleted (`_decide`).
3. Send the parts to every replica that lacks this content (`FanOut`); each commits by itself
   (`replica_upload.py`). A replica that has not answered yet holds up no other: its upload begins when it answers,
   and reads the earlier parts again (`_join`).
4. Confirm the replicas that have it already, now that the source's SHA-256 is known; write the manifest beside
   data that a crash left without one, if it is this content (`stored.py`).
5. Where fewer than `min_copies` have confirmed it, restore what it replaced (`undo.py`).

The report says for each replica whether it confirmed the object after the last byte. Where a newer version of
fsbackup wrote the record of one, nothing is stored on any.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from fsbackup import clock
from fsbackup.aio import cancel_and_wait, run_all, shield
from fsbackup.engine import breaker, records, versions
from fsbackup.engine.clock_skew import check_clock
from fsbackup.engine.fanout import FanOut, object_metadata, replica_result
from fsbackup.engine.parts import Consumer
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replica_upload import (
    ReplicaUpload,
    concurrent_write,
    creates_only,
)
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import Report
from fsbackup.engine.source import Source
from fsbackup.engine.spool import ReplicaReplay, SpoolFile
from fsbackup.engine.staged import StagedSource
from fsbackup.engine.staged_upload import StagedUpload
from fsbackup.engine.stored import adopt, is_sound
from fsbackup.engine.stream_source import StreamSource
from fsbackup.engine.survey import Answers, Query, survey, survey_for_change, with_new_tombstones
from fsbackup.engine.undo import may_be_undone, undo
from fsbackup.errors import (
    BackendUnavailableError,
    ConflictError,
    NewerFormatError,
    TooFewCopiesError,
    unproven_newest,
)
from fsbackup.keys import encode_key
from fsbackup.record import Manifest, Tombstone
from fsbackup.sizing import part_size
from fsbackup.stages.plaintext import Recorded
from fsbackup.stores.base import ObjectStore, ObjectWriter, WritePlan

log = logging.getLogger("fsbackup.storage")


class UploadProgress(Protocol):
    """Receives the number of bytes read from the source, and sent to each store by name."""

    def begin(self, size: int | None, stores: list[str]) -> None: ...
    def read(self, amount: int) -> None: ...
    def sent(self, store: str, amount: int) -> None: ...


async def upload(
    targets: ReplicaSet,
    key: str,
    source: Source,
    *,
    overwrite: bool,
    query: Query = records.query,
    known: Sequence[ReplicaState] | None = None,
    progress: UploadProgress | None = None,
    read_stored: bool = False,
    replaces: Manifest | None = None,
    since: float | None = None,
) -> Report:
    """Store `source` under `key` in every store of `targets`.

    Parameters
    ----------
    overwrite
        Replace other content. Without it the same content is success with nothing sent, and other content is a
        `ConflictError` in the results.
    query
        Returns the state of the key in a store.
    known
        What each store has, where that is known: `query` is not called then.
    progress
        Receives the bytes as they move.
    read_stored
        Read what a replica has already before it counts as stored, where its ETag is not made of the content, as
        on a disk, where bits may have rotted. Such a copy is written again.
    replaces
        The version that the source was made from, with `overwrite`: only this one is replaced. A replica that has
        another one of its generation or a later one, by now or when it commits, has a `ConflictError` in its
        result.
    since
        When the operation began that this upload is part of, on the monotonic clock: what is stored already counts
        as stored unless it was being deleted then. By default now.

    Raises
    ------
    NoHealthyReplicaError
        With `replaces`, when too few replicas answer to prove which version is the newest; before a byte is sent.
    SourceError
        When the source cannot be read to its end or changes meanwhile; nothing is committed then.
    """
    started = asyncio.get_running_loop().time()
    begun = time.monotonic() if since is None else since
    answers = await survey_for_change(targets, key, query) if known is None else Answers(list(known), {})

    def prepare(what: Source, answers: Answers) -> _Upload:
        return _Upload(targets, key, what, answers, overwrite, progress, started, read_stored, replaces, begun)

    try:
        if isinstance(source, StagedSource):
            return await StagedUpload(targets, key, source, prepare, overwrite).run(answers)
        return await prepare(source, answers).run()
    finally:
        if answers.late:
            await cancel_and_wait(list(answers.late.values()))


def already_stored(
    targets: ReplicaSet, key: str, started: float, size: int, sha256: str, generation: int
) -> Report:
    """Return, and log, the report on an object that all stores of `targets` are known to have.

    `started` is when the check for that began, on the monotonic clock.
    """
    seconds = time.monotonic() - started
    replicas = {
        store.name: replica_result("upload", store.name, key, None, seconds, size=size, already=True)
        for store in targets.stores
    }
    return Report("upload", key, targets.min_copies, replicas, seconds, size, sha256, generation)


def _part_size(source: Source, targets: ReplicaSet) -> int:
    """Return the bytes per part; a service that copies an object itself needs the parts that it has."""
    original = source.copy_of if source.copyable else None
    return original.part_size if original else part_size(source.most_bytes, targets.part_size)


class _Upload(FanOut):
    def __init__(
        self,
        targets: ReplicaSet,
        key: str,
        source: Source,
        answers: Answers,
        overwrite: bool,
        progress: UploadProgress | None,
        started: float,
        read_stored: bool,
        replaces: Manifest | None,
        since: float,
    ) -> None:
        super().__init__(
            "upload",
            key,
            source,
            part_size=_part_size(source, targets),
            memory=targets.memory,
            replicas=answers.replicas,
            started=started,
            on_read=progress.read if progress else None,
        )
        self._targets = targets
        self._overwrite = overwrite
        self._progress = progress
        self._read_stored = read_stored
        self._replaces = replaces
        self._since = since
        self._late = answers.late
        #: Replicas that have the content already, or data of their own that may be it.
        self._stored: list[ReplicaState] = []
        #: The uploads to the others.
        self._sent: list[ReplicaUpload] = []
        self._latest = versions.newest(answers.replicas, targets.min_copies)
        self._highest = versions.highest(answers.replicas)
        #: The stored version that the source must have the content of; None: the source is a new version.
        self._expected: Manifest | None = None
        #: The version that was uploaded, once the source has been read to its end.
        self._version: Manifest | None = None
        #: Whether the source is known, before anything is sent, to have the content of `_expected`.
        self._is_proven = False

    async def run(self) -> Report:
        try:
            self._leave_out_unreachable()
            if self._replaces is not None:
                self._refuse_other_versions(self._replaces)
            await self._decide()
            if self._expected is None:
                check_clock((each.store for each in self._replicas), self._key)
            await self._transfer()
        except (ConflictError, NewerFormatError) as error:
            self._finish_remaining(error)
        finally:
            await self._parts.stop()
            if kept := [each for each in self._sent if each.keeps_replaced]:
                await shield(_release(kept))
        return self._report()

    def _leave_out_unreachable(self) -> None:
        """Fail on the replicas that do not answer.

        Raises
        ------
        NewerFormatError
            When a newer version of fsbackup wrote the record of one.
        """
        for replica in self._replicas:
            known = replica.backend in self._late or replica.backend in self._results
            if replica.error is not None and not replica.is_newer and not known:
                self._finish(replica, replica.error)
        if newer := records.refusal(self._replicas, "upload"):
            raise newer

    def _refuse_other_versions(self, replaced: Manifest) -> None:
        """Leave out each replica with a version that the source was not made from, unless it is an older one.

        So of several writers that started from one version, a replica accepts the first: where `min_copies` is a
        majority, at most one of them is confirmed.

        Raises
        ------
        ConflictError
            When the newest version is another one.
        NoHealthyReplicaError
            When it is not proven which one that is.
        """
        if not self._targets.is_quorum(records.clear_answers(self._replicas)):
            raise unproven_newest(records.errors_of(self._replicas), "upload", self._key)
        if self._latest is None or versions.version_id(self._latest) != versions.version_id(replaced):
            raise self._changed()
        for replica in self._replicas:
            if replica.record is not None and versions.rivals_of(replaced, [replica]):
                self._finish(replica, self._changed(replica.store.name))

    def _changed(self, backend: str | None = None) -> ConflictError:
        return ConflictError(
            "another writer has changed it since it was read",
            backend=backend,
            operation="upload",
            key=self._key,
            hint="read it again, and store what comes of that",
        )

    def refuse(self, error: ConflictError) -> Report:
        """Return the report on an upload that is refused before it begins."""
        for replica in self._replicas:
            self._finish(replica, replica.error or error)
        return self._report()

    async def _decide(self) -> None:
        """As `_expect`, but ignore a version that a delete has begun to remove."""
        refuses = not self._overwrite and isinstance(self._highest, Manifest)
        if not refuses:
            await self._expect()
            if self._expected is None:
                return
        before = self._replicas
        replicas = await with_new_tombstones(before, self._key, self._since)
        if refuses or replicas != before:
            self._replicas = replicas
            # What a replica said before counts, if it does not answer now.
            known = [old if new.error else new for old, new in zip(before, replicas, strict=True)]
            self._latest = versions.newest(known, self._targets.min_copies)
            self._highest = versions.highest(known)
            self._expected = None
            self._leave_out_unreachable()
            await self._expect()

    async def _expect(self) -> None:
        """Set `_expected` when the source must have the content of the stored version.

        Raises
        ------
        ConflictError
            When other content is stored and must not be replaced.
        """
        if isinstance(self._source, StagedSource):
            return  # `find_same` has looked: it is a new version
        if self._overwrite:
            self._expected = await self._find_stored()
            self._is_proven = self._expected is not None
            return
        # A version newer than a confirmed delete is not replaced either.
        latest = self._latest if isinstance(self._latest, Manifest) else self._highest
        if isinstance(latest, Manifest):
            known = self._source.known_sha256()
            if self._source.size not in (None, latest.size) or known not in (None, latest.sha256):
                raise versions.other_content(None, self._key)
            self._expected, self._is_proven = latest, known is not None

    async def _find_stored(self) -> Manifest | None:
        """Return the stored version that has the content of the source, None when there is none.

        Reading a file first can save sending it. The highest version may have been refused, since too few replicas
        confirmed it: the same upload again completes it.
        """
        size = self._source.size
        stored = [
            each for each in (self._highest, self._latest) if isinstance(each, Manifest) and each.size == size
        ]
        if not stored:
            return None
        sha256 = await self._source.hash_ahead()
        return next((each for each in stored if each.sha256 == sha256), None)

    async def _transfer(self) -> None:
        reachable = [each for each in self._replicas if each.error is None and each.backend not in self._results]
        self._stored = [] if self._expected is None else await self._complete(reachable)
        lacking = [each for each in reachable if each not in self._stored]
        if len(reachable) < self._targets.min_copies:
            self._refuse(lacking)
            lacking = []
        unmanaged = [each for each in lacking if self._is_unmanaged(each)]
        self._stored += unmanaged
        uploads = [self._new_upload(each) for each in lacking if each not in unmanaged]
        self._make_replayable(uploads)
        if self._progress:
            self._progress.begin(self._source.size, [*(each.store.name for each in uploads), *self._late])
        await self._send(uploads, [partial(self._join, name) for name in self._late])
        if self._stored:
            await self._read_to_end()
            await run_all([self._confirm(replica) for replica in self._stored])
        if not all(each.ok for each in self._results.values()):
            await self._refuse_to_share()
            await self._undo_refused()
        await self._clear_replaced()

    async def _undo_refused(self) -> None:
        """Restore what was replaced on the replicas that stored a version that too few have confirmed."""
        confirmed = {name for name, result in self._results.items() if result.ok}
        taken = confirmed & {each.store.name for each in self._sent}
        if self._version is None or not taken or len(confirmed) >= self._targets.min_copies:
            return
        for upload in await undo(self._targets, self._key, self._version, self._sent, taken):
            error = TooFewCopiesError("the version before was put back", operation="upload", key=self._key)
            self._finish(upload.replica, error, sent=upload.bytes_sent)

    def _refuse(self, replicas: Sequence[ReplicaState]) -> None:
        """Fail on the replicas that can be reached: they are too few, so nothing is sent."""
        away = [each.backend for each in self._replicas if each.error is not None]
        error = TooFewCopiesError(
            f"nothing was sent, because {', '.join(away)} cannot be reached and {self._targets.min_copies} copies"
            " are required",
            operation="upload",
            key=self._key,
        )
        for replica in replicas:
            self._finish(replica, error)

    async def _join(self, name: str, consumer: Consumer) -> None:
        """Upload to a replica when it answers, unless the parts that it needs have been dropped by then."""
        answer = self._late[name]
        dropped = asyncio.create_task(consumer.dropped.wait())
        try:
            await asyncio.wait({answer, dropped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            dropped.cancel()
        number = next(index for index, each in enumerate(self._replicas) if each.backend == name)
        if not answer.done() or consumer.closed:
            if breaker.leave(self._replicas[number].store, answer):
                del self._late[name]
            self._finish(self._replicas[number], self._too_late(name))
            return
        [replica] = await with_new_tombstones([answer.result()], self._key)
        self._replicas[number] = replica
        if (error := replica.error or self._unknown_version(replica)) is not None:
            self._finish(replica, error)
        elif await self._complete([replica]) or self._is_unmanaged(replica):
            self._stored.append(replica)
        else:
            consumer.absent = False
            await self._run_upload(self._new_upload(replica), consumer)
            return
        self._parts.close(consumer)

    def _unknown_version(self, replica: ReplicaState) -> ConflictError | None:
        """Return the error for a version that was not known when the upload was decided."""
        found, known = replica.record, -1 if self._highest is None else self._highest.generation
        if found is None or found.generation <= known:
            return None
        outranks = self._expected is not None or found.generation >= int(clock.now() * 1000)
        if not outranks and (self._overwrite or isinstance(found, Tombstone)):
            return None
        return concurrent_write(replica, self._key)

    def _too_late(self, name: str) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"did not answer in time, and {self._source.label} cannot be read again",
            backend=name,
            operation="upload",
            key=self._key,
            hint="run repair; or add a spool or a local replica to the replication set",
        )

    async def _read_to_end(self) -> None:
        """Read the source to its end, unless nothing is sent and it was read to decide that."""
        if self._is_proven and not self._sent:
            self._version = self._expected
            if self._progress and self._source.size:
                self._progress.read(self._source.size)
        else:
            await self._parts.drain()

    async def _refuse_to_share(self) -> None:
        """Fail on every replica when one of them has other content, where two writers could both be confirmed.

        That is so where `min_copies` is no majority. Each of two create-only writers may then have come first on
        enough replicas, so both fail: the next run finds out which content counts. Where a directory or a special
        file is in the way, no other writer stored anything.
        """
        lost = {
            name: each.exception
            for name, each in self._results.items()
            if isinstance(each.exception, ConflictError)
        }
        majority = 2 * self._targets.min_copies > len(self._replicas)
        stored = any(each.ok and not each.already for each in self._results.values())
        if not lost or majority or self._overwrite or not stored:
            return
        now = await survey([each.store for each in self._replicas if each.backend in lost], self._key)
        error = next((lost[each.backend] for each in now if not each.is_empty), None)
        if error is None:
            return
        for replica in self._replicas:
            if self._results[replica.store.name].ok:
                self._finish(replica, error)

    async def _complete(self, replicas: Sequence[ReplicaState]) -> list[ReplicaState]:
        """Return the replicas that have the expected content already."""
        version, needed = self._expected, self._targets.min_copies
        if version is None:
            return []
        claimed = [
            each
            for each in replicas
            if each.holds(version) and not may_be_undone(each, version, self._replicas, needed)
        ]
        if not self._read_stored:
            return claimed
        sound = await asyncio.gather(*(is_sound(each, version) for each in claimed))
        return [each for each, good in zip(claimed, sound, strict=True) if good]

    async def _clear_replaced(self) -> None:
        """Remove records of the previous version, which stays readable until enough replicas have the new one."""
        left = [
            each.replica
            for each in self._sent
            if each.replica.record_object is not None or each.replica.tombstone is not None
        ]
        if not left or self._version is None:
            return
        confirmed = {name for name, result in self._results.items() if result.ok}
        if len(confirmed) >= self._targets.min_copies:
            stored = (each for each in left if each.backend in confirmed)
            await run_all([records.clear_replaced(replica, self._version) for replica in stored])

    def _is_unmanaged(self, replica: ReplicaState) -> bool:
        """Return whether there is data without a manifest that a create-only upload must not replace."""
        return not self._overwrite and replica.record is None and replica.stat is not None

    def _new_upload(self, replica: ReplicaState) -> ReplicaUpload:
        source, known, is_conditional = self._source, self._expected, self._replaces is not None
        # Where its record lies beside it, data may change while this upload waits for writers that yield to it.
        switches = records.has_records_inside(replica.store)
        plan = WritePlan(
            size=source.size,
            part_size=self._part_size,
            metadata=object_metadata(
                replica.store,
                source.mtime_ns,
                known.sha256 if known else source.known_sha256(),
            ),
            mtime_ns=source.mtime_ns,
            mode=source.mode,
            create_only=replica.stat is None
            and (
                is_conditional
                or not self._overwrite
                or _refuses_to_replace(replica.store)
                or creates_only(replica)
            ),
            ask_first=self._must_stat_again(replica),
            is_new=replica.stat is None,
            replaces=replica.stat.etag if replica.stat and (switches or is_conditional) else None,
            replaces_version=replica.stat.version_id if replica.stat else None,
            keep_replaced=replica.is_intact and self._targets.min_copies > 1,
            conditional=is_conditional or (replica.stat is not None and not self._overwrite),
        )
        sent = self._on_sent(replica.store.name)
        upload = ReplicaUpload(
            replica,
            self._key,
            plan,
            sent,
            may_replace=self._overwrite and not is_conditional,
            copier=self._copier(replica, plan),
        )
        self._sent.append(upload)
        return upload

    def _copier(self, replica: ReplicaState, plan: WritePlan) -> ObjectWriter | None:
        """Return the writer that has the service copy the bytes of another key, None where they must be sent."""
        found, original = self._source.copyable.get(replica.backend), self._source.copy_of
        if found is None or original is None or original.content_etag is None:
            return None
        return replica.store.copier(encode_key(self._key), plan, *found, original.content_etag)

    def _must_stat_again(self, replica: ReplicaState) -> bool:
        """Return whether another writer had time to store the key since the store said that it is absent.

        Not during an upload of one part, unless the answer came from a listing, or only this upload's intent keeps
        other writers out, which is stored later.
        """
        can, inside = replica.store.capabilities, records.has_records_inside(replica.store)
        if not (inside or can.conditional_create):
            return True
        return replica.from_listing or self._source.size is None or self._source.size > self._part_size

    def _on_sent(self, store: str) -> Callable[[int], None]:
        progress = self._progress
        return (lambda amount: progress.sent(store, amount)) if progress else lambda _: None

    def _make_replayable(self, uploads: list[ReplicaUpload]) -> None:
        """Let lagging replicas of a stream re-read it from a local replica's temp file, or else from the spool."""
        if not isinstance(self._source, StreamSource) or len(uploads) + len(self._late) < 2:
            return
        readable = next((upload for upload in uploads if upload.writer.can_reread), None)
        if readable is not None:
            self._source.replay = ReplicaReplay(readable, self._part_size)
        elif self._targets.spool is not None:
            self._source.replay = SpoolFile(self._targets.spool)

    async def _confirm(self, replica: ReplicaState) -> None:
        """Confirm that `replica` has the object already: by its manifest, or by its bytes where it has none."""
        try:
            manifest = self._manifest()
            if replica.record is None:
                await adopt(replica, manifest)
        except Exception as error:  # noqa: BLE001 - a failure of one replica is its result, never that of another
            self._finish(replica, error)
        else:
            self._finish(replica, None, already=True)

    def _manifest(self) -> Manifest:
        """Return the manifest of what was read.

        Raises
        ------
        ConflictError
            When the source had to have the stored content, and has other content.
        """
        if self._version is None:
            digest, original = self._source.digest(), self._source.copy_of
            if self._expected is None:
                version = versions.next_version(self._latest, self._highest)
                manifest = versions.new_manifest(
                    self._key,
                    digest,
                    versions.origin(self._source),
                    self._part_size,
                    version,
                    self._source.series,
                    self._source.stages,
                    self._parts.content_etag if original is None else original.content_etag,
                )
                self._version = manifest if original is None else versions.described_as(manifest, original)
            elif digest.sha256 == self._expected.sha256:
                self._version = self._expected
            else:
                raise versions.other_content(None, self._key)
        return self._version

    @property
    def _size(self) -> int | None:
        return self._version.size if self._version else self._source.size

    def _report(self) -> Report:
        version = self._version
        recorded = Recorded.of(version)
        return Report(
            operation="upload",
            key=self._key,
            min_copies=self._targets.min_copies,
            replicas={result.backend: result for result in self._ordered_results()},
            seconds=self._seconds,
            size=version.size if version else None,
            sha256=version.sha256 if version else None,
            generation=version.generation if version else None,
            plain_size=recorded.size if recorded else None,
        )


async def _release(uploads: Sequence[ReplicaUpload]) -> None:
    """Discard what was replaced, once nothing is restored any more."""
    await run_all([each.writer.release() for each in uploads])


def _refuses_to_replace(store: ObjectStore) -> bool:
    """Return whether one conditional request creates data and record together, which needs no check afterwards.

    A replacement is conditional there on what it replaces, too.
    """
    can = store.capabilities
    return records.has_records_inside(store) and can.conditional_create and not can.removes_versions
