"""Upload: one source, read once, to every store of a set at once, each with its own result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from fsbackup import __version__, events
from fsbackup.aio import run_all
from fsbackup.engine import records, versions
from fsbackup.engine.hashing import content_hash
from fsbackup.engine.parts import Consumer, PartBuffer, max_in_flight, slot_count, tune_malloc
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replica_upload import ReplicaUpload
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import ReplicaResult, Report
from fsbackup.engine.source import Source, StreamSource
from fsbackup.engine.spool import ReplicaReplay, SpoolFile
from fsbackup.errors import ConflictError, FsbackupError, SourceError, as_backend_error
from fsbackup.keys import encode_key
from fsbackup.record import Manifest
from fsbackup.sizing import part_count, part_size
from fsbackup.stores.base import ObjectStore, WritePlan


class UploadProgress(Protocol):
    """Hears how many bytes moved: read from the source, and sent to each store by name."""

    def begin(self, size: int | None, stores: list[str]) -> None: ...
    def read(self, amount: int) -> None: ...
    def sent(self, store: str, amount: int) -> None: ...


async def upload(
    targets: ReplicaSet,
    key: str,
    source: Source,
    *,
    overwrite: bool,
    findings: list[ReplicaState] | None = None,
    progress: UploadProgress | None = None,
) -> Report:
    """Store `source` under `key` in every store of `targets`.

    Parameters
    ----------
    overwrite
        Replace what is there. Otherwise the same content again is success with nothing sent, and other
        content is a `ConflictError` in the results.
    findings
        What the stores know of the key, when the caller has asked already.
    progress
        Hears of every byte.

    Raises
    ------
    SourceError
        When the source cannot be read to its end or changed meanwhile; nothing is committed then.
    """
    started = asyncio.get_running_loop().time()
    found = findings or await records.survey(targets.stores, key)
    return await _Upload(targets, key, source, found, overwrite, progress, started).run()


class _Upload:
    def __init__(
        self,
        targets: ReplicaSet,
        key: str,
        source: Source,
        findings: list[ReplicaState],
        overwrite: bool,
        progress: UploadProgress | None,
        started: float,
    ) -> None:
        self._targets = targets
        self._key = key
        self._source = source
        self._findings = findings
        self._overwrite = overwrite
        self._progress = progress
        self._clock = asyncio.get_running_loop().time
        self._started = started
        self._results: dict[str, ReplicaResult] = {}
        self._manifest: Manifest | None = None
        known = [finding.record for finding in findings]
        self._latest = versions.newest(known)
        self._conflicting = versions.is_conflict(known, self._latest)
        #: The content that must come out of the source for this to be "the same again".
        self._expected: Manifest | None = None
        self._part_size = part_size(source.size, targets.part_size)
        self._fan = FanOut(
            key,
            source,
            self._part_size,
            memory=targets.memory,
            stores=[finding.store for finding in findings],
            on_read=progress.read if progress else None,
        )

    async def run(self) -> Report:
        for finding in self._findings:
            if finding.error is not None:
                self._finish(finding, finding.error)
        try:
            await self._expect()
            await self._transfer()
        except ConflictError as error:
            self._fail_rest(error)
        finally:
            await self._fan.window.stop()
        return self._report()

    async def _expect(self) -> None:
        """Decide whether this is a new version, or must be the same content as the one that is there."""
        if not isinstance(self._latest, Manifest):
            return
        if self._overwrite:
            if not self._conflicting and await self._same_file(self._latest):
                self._expected = self._latest
            return
        if self._conflicting or self._source.size not in (None, self._latest.size):
            raise self._conflict()
        self._expected = self._latest

    async def _same_file(self, top: Manifest) -> bool:
        """Tell whether the file is what is stored already: worth a read, since it may save every send."""
        size = self._source.size
        return size == top.size and await content_hash(self._source.reread, size) == top.sha256

    async def _transfer(self) -> None:
        asked = [finding for finding in self._findings if finding.error is None]
        has = [f for f in asked if self._expected is not None and f.holds(self._expected)]
        strangers = [f for f in asked if f not in has and self._is_unmanaged(f)]
        lanes = [self._replica_upload(f) for f in asked if f not in has and f not in strangers]
        self._keep_stream(lanes)
        if self._progress:
            self._progress.begin(self._source.size, [lane.store.name for lane in lanes])
        await self._fan.run(lanes, self._proven, self._finish)
        if has or strangers:
            await self._fan.window.drain()
            same = [self._run_finding(f, self._confirm_same()) for f in has]
            await run_all(same + [self._run_finding(f, self._adopt(f)) for f in strangers])

    def _is_unmanaged(self, finding: ReplicaState) -> bool:
        """Tell whether data is there that no manifest speaks for; a create-only upload must not replace it."""
        return not self._overwrite and finding.record is None and finding.stat is not None

    def _replica_upload(self, finding: ReplicaState) -> ReplicaUpload:
        plan = WritePlan(
            size=self._source.size,
            part_size=self._part_size,
            metadata=self._tags(),
            mtime_ns=self._source.mtime_ns,
            mode=self._source.mode,
            create_only=self._must_be_new(finding),
            is_new=finding.stat is None,
        )
        return ReplicaUpload(finding, self._key, plan, self._counter(finding.store.name))

    def _must_be_new(self, finding: ReplicaState) -> bool:
        """Tell whether the writer has to refuse what came since the store was asked.

        Where the store cannot refuse atomically the writer asks again before it commits; after a short upload
        that would only repeat the question.
        """
        long = self._source.size is None or self._source.size > self._part_size
        atomic = finding.store.capabilities.conditional_create
        return finding.stat is None and not self._overwrite and (atomic or long)

    def _tags(self) -> dict[str, str]:
        known = self._expected.sha256 if self._expected else self._source.known_sha256()
        return tags(self._source.mtime_ns, known)

    def _counter(self, store: str) -> Callable[[int], None]:
        progress = self._progress
        return (lambda amount: progress.sent(store, amount)) if progress else lambda _: None

    def _keep_stream(self, lanes: list[ReplicaUpload]) -> None:
        """Let a stream's slower stores be served from a local temp file, or else from the spool."""
        if not isinstance(self._source, StreamSource) or len(lanes) < 2:
            return
        keeper = next((lane for lane in lanes if lane.writer.can_reread), None)
        if keeper is not None:
            self._source.replay = ReplicaReplay(keeper, self._part_size)
        elif self._targets.spool is not None:
            self._source.replay = SpoolFile(self._targets.spool)

    async def _run_finding(self, finding: ReplicaState, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - one store's failure is its result, never another's
            self._finish(finding, as_backend_error(error, finding.store.name, self._key))
        else:
            self._finish(finding, None, already=True)

    async def _confirm_same(self) -> None:
        """The store has the expected content; it only remains that the source is that content."""
        self._proven()

    async def _adopt(self, finding: ReplicaState) -> None:
        """Give data without a manifest one, if it is this very content (a crash came before its manifest)."""
        manifest, stat = self._proven(), finding.stat
        assert stat is not None
        name = encode_key(self._key)
        same = stat.size == manifest.size and manifest.sha256 == await content_hash(
            lambda offset, length: finding.store.read(name, offset, offset + length), stat.size
        )
        if not same:
            raise self._conflict(finding.store.name)
        lane = self._replica_upload(finding)
        await lane.write_manifest(manifest, stat)

    def _proven(self) -> Manifest:
        """Return the manifest of what was read; the source has been read to its end."""
        if self._manifest is None:
            digest = self._source.digest()
            if self._expected is None:
                after = versions.next_version(self._latest)
                self._manifest = versions.new_manifest(self._key, digest, self._source, self._part_size, after)
            elif digest.sha256 == self._expected.sha256:
                self._manifest = self._expected
            else:
                raise self._conflict()
        return self._manifest

    def _conflict(self, backend: str | None = None) -> ConflictError:
        what = (
            "two contents under one generation" if self._conflicting else "other content is stored under this key"
        )
        return ConflictError(
            what,
            backend=backend,
            operation="upload",
            key=self._key,
            hint="choose another key, or replace it with overwrite",
        )

    def _fail_rest(self, error: FsbackupError) -> None:
        for finding in self._findings:
            if finding.store.name not in self._results:
                self._finish(finding, error)

    def _finish(
        self, finding: ReplicaState, error: FsbackupError | None, *, sent: int = 0, already: bool = False
    ) -> None:
        name, seconds = finding.store.name, self._clock() - self._started
        self._results[name] = ReplicaResult(name, error is None, seconds, sent, already, error)
        size = self._manifest.size if self._manifest else self._source.size
        events.log_outcome("upload", name, self._key, size=size, seconds=seconds, error=error)

    def _report(self) -> Report:
        manifest = self._manifest
        return Report(
            operation="upload",
            key=self._key,
            min_copies=self._targets.min_copies,
            replicas={finding.store.name: self._results[finding.store.name] for finding in self._findings},
            seconds=self._clock() - self._started,
            size=manifest.size if manifest else None,
            sha256=manifest.sha256 if manifest else None,
            generation=manifest.generation if manifest else None,
        )


class OnResult(Protocol):
    """Hears how one store fared: its error, None when it has the object, and the bytes sent to it."""

    def __call__(self, finding: ReplicaState, error: FsbackupError | None, *, sent: int) -> None: ...


class FanOut:
    """Hands the parts of one source to many lanes.

    Parameters
    ----------
    key, source
        The object.
    part_size, memory
        Bytes per part, and the most bytes in parts.
    stores
        All that may take part: they decide how many parts there may be, and whether MD5s are wanted.
    on_read
        Called with the bytes of each part when it is first read.
    """

    def __init__(
        self,
        key: str,
        source: Source,
        part_size: int,
        *,
        memory: int,
        stores: Sequence[ObjectStore],
        on_read: Callable[[int], None] | None = None,
    ) -> None:
        self._key = key
        self._source = source
        self._part_size = part_size
        if source.size is None or source.size > part_size:
            tune_malloc()
        md5 = any(store.capabilities.wants_md5 for store in stores)
        self._slots = slot_count(memory, part_size, len(stores))
        self.window = PartBuffer(source, part_size, slots=self._slots, md5=md5, on_read=on_read)

    async def run(
        self, lanes: Sequence[ReplicaUpload], proven: Callable[[], Manifest], on_result: OnResult
    ) -> None:
        """Deliver everything to every lane; only the source's own failure is raised.

        Raises
        ------
        SourceError
            When the source cannot be read to its end; nothing is committed then.
        """
        # All have their place before the first part is read: a part stays for those that still want it.
        places = [self.window.add_consumer() for _ in lanes]
        pairs = zip(lanes, places, strict=True)
        await run_all([self._run_upload(*pair, len(lanes), proven, on_result) for pair in pairs])

    async def _run_upload(
        self, lane: ReplicaUpload, place: Consumer, lanes: int, proven: Callable[[], Manifest], on_result: OnResult
    ) -> None:
        try:
            await lane.run(self.window, place, self._workers(lane, lanes), proven)
        except SourceError:
            await lane.abort()
            raise
        except Exception as error:  # noqa: BLE001 - one store's failure is its result, never another's
            await lane.abort()
            on_result(lane.finding, as_backend_error(error, lane.store.name, self._key), sent=lane.bytes_sent)
        except BaseException:
            await lane.abort()
            raise
        else:
            on_result(lane.finding, None, sent=lane.bytes_sent)

    def _workers(self, lane: ReplicaUpload, lanes: int) -> int:
        """Return how many parts the lane may have in flight; no more than there are."""
        most = max_in_flight(lane.writer.concurrency, lanes, self._slots)
        return most if self._source.size is None else min(most, part_count(self._source.size, self._part_size))


def tags(mtime_ns: int | None, sha256: str | None) -> dict[str, str]:
    """Return what the object itself is tagged with: its hash where it is known before the first byte."""
    found = {"fsbackup-version": __version__}
    if mtime_ns is not None:
        found["mtime"] = f"{mtime_ns / 1e9:.9f}"
    return {**found, "sha256": sha256} if sha256 else found
