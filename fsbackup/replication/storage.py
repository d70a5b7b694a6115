"""`ReplicatedStorage`: several backends as one, with a result for each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from fsbackup.backends import ErrorMode, SingleBackend, StorageBackend
from fsbackup.engine import delete, restore, upload
from fsbackup.engine.replicas import DEFAULT_MEMORY, DEFAULT_STALL, ReplicaSet, Spool
from fsbackup.engine.results import DownloadReport, Report
from fsbackup.engine.source import open_source
from fsbackup.errors import ConfigError, NoHealthyReplicaError
from fsbackup.keys import check_key, check_prefix
from fsbackup.loop import flatten, iterate, run
from fsbackup.replication import elsewhere
from fsbackup.replication.batch import Batch, BatchItem, ItemResult, SourceLike
from fsbackup.replication.classify import IsExpired
from fsbackup.replication.elsewhere import Elsewhere
from fsbackup.replication.ls import ObjectEntry, SetListing
from fsbackup.replication.portions import Spread
from fsbackup.replication.problems import CopyProblem
from fsbackup.replication.progress import CallbackProgress
from fsbackup.replication.progress import on_progress as told_of
from fsbackup.replication.prune import PruneOptions as PruneOptions
from fsbackup.replication.prune import PruneReport, PruneStep, expected, prune
from fsbackup.replication.repair import RepairOptions, RepairReport, Step, repair
from fsbackup.replication.sample import parse_sample
from fsbackup.replication.stat import ObjectInfo, stat
from fsbackup.replication.status import SetStatus, status
from fsbackup.replication.tree import RestoredObject, TreeReport, restore_tree
from fsbackup.replication.verify import VerifyReport, verify
from fsbackup.replication.walk import Unreachable
from fsbackup.retention import Retention

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

T = TypeVar("T")

#: Entries fetched per step of a listing's iterator.
_PAGE = 1000


class ReplicatedStorage(StorageBackend):
    """A set of backends that hold the same objects.

    The five methods of `StorageBackend` work over the set: `upload` is true when at least `min_copies`
    replicas confirmed, `exists` when any replica proves the object, `delete` when all confirmed.

    Parameters
    ----------
    backends
        Single backends with distinct names.
    min_copies
        Confirmed copies that make success; all of them by default.
    read_order
        Backend names, the one to read from first; the order of `backends` by default.
    name
        The set's name.
    errors
        See `StorageBackend`.
    part_size
        Bytes per multipart part, the same on every replica; by default it follows the object's size.
    memory
        Bytes of parts held at once, over all uploads of one call; 64 MiB by default.
    spool
        Where a stream's bytes may be kept for a replica that falls behind.
    stall_timeout
        Seconds without a byte after which a read asks another replica; 10 by default.
    retention
        How long each backend keeps its objects, by name; one that is left out keeps everything. Only `prune` acts
        on it; `ls`, `stat`, `status`, `verify` and `repair` do not miss what it let go.
    origin
        The configuration file that all of this came from, for other processes to open the same set.

    Raises
    ------
    ConfigError
        When names repeat, `min_copies` does not fit, or `read_order` or `retention` name other backends.
    """

    def __init__(
        self,
        backends: Sequence[SingleBackend],
        *,
        min_copies: int | None = None,
        read_order: Sequence[str] | None = None,
        name: str = "replicated",
        errors: ErrorMode = "return",
        part_size: int | None = None,
        memory: int = DEFAULT_MEMORY,
        spool: Spool | None = None,
        stall_timeout: float = DEFAULT_STALL,
        retention: Mapping[str, Retention] | None = None,
        origin: str | None = None,
    ) -> None:
        super().__init__(name, errors=errors)
        self.backends: Mapping[str, SingleBackend] = {backend.name: backend for backend in backends}
        if not backends or len(self.backends) != len(backends):
            raise ConfigError(f"set {name!r}: a set needs backends with distinct names")
        copies = len(backends) if min_copies is None else min_copies
        if not 1 <= copies <= len(backends):
            raise ConfigError(f"set {name!r}: min_copies must be between 1 and {len(backends)}, not {copies}")
        order = list(read_order) if read_order is not None else list(self.backends)
        if sorted(order) != sorted(self.backends):
            raise ConfigError(f"set {name!r}: read_order must name each of {', '.join(self.backends)} once")
        stores = tuple(self.backends[each].store for each in order)
        if stall_timeout <= 0:
            raise ConfigError(f"set {name!r}: stall_timeout must be more than 0 seconds, not {stall_timeout}")
        self._retention = dict(retention or {})
        if unknown := ", ".join(sorted(self._retention.keys() - self.backends.keys())):
            raise ConfigError(f"set {name!r}: retention names {unknown}, which the set does not have")
        self._set = ReplicaSet(stores, copies, part_size, memory, spool, stall_timeout)
        self._origin = (os.path.abspath(origin), name) if origin is not None else None

    @classmethod
    def from_config(
        cls, path: str | os.PathLike[str], name: str, *, errors: ErrorMode = "return"
    ) -> ReplicatedStorage:
        """Return the replication set `name` of a configuration file.

        The result can be pickled: the pickle holds the path and the name, never a secret.

        Raises
        ------
        ConfigError
            With every problem of the file, or when it has no such set.
        """
        from fsbackup.factory import open_set

        return open_set(path, name, errors=errors)

    @property
    def replica_set(self) -> ReplicaSet:
        return self._set

    @property
    def min_copies(self) -> int:
        """Confirmed copies that make success."""
        return self._set.min_copies

    def replicate(
        self,
        source: SourceLike,
        remote_path: str,
        *,
        overwrite: bool = False,
        callback: Callback | None = None,
    ) -> Report:
        """Store a file or a binary stream in every replica at once, read once, each with its own result.

        Parameters
        ----------
        source
            A path (a FIFO or device is read as a stream), or an open binary file of any length.
        remote_path
            The key.
        overwrite
            Replace other content. By default the same content again is success with nothing sent, and other
            content is a `ConflictError` in the report.
        callback
            Gets the bytes read; one child per replica gets the bytes sent.

        Returns
        -------
        Report
            True unless fewer than `min_copies` replicas confirmed. Never raises for what a service did.

        Raises
        ------
        SourceError
            When the source cannot be read or changed meanwhile; nothing of it is committed.
        ValueError
            For a directory, or a key that is not legal.
        """
        key = check_key(remote_path)
        return run(self._replicate(source, key, overwrite, self._progress(callback, source, key)))

    def replicate_many(
        self,
        items: Iterable[tuple[SourceLike, str]],
        *,
        overwrite: bool = False,
        callback: Callable[[SourceLike, str], Callback | None] | None = None,
    ) -> Iterator[ItemResult]:
        """Store many files side by side under the set's memory budget; yield each outcome as it is known.

        A source that cannot be read is an outcome with an `error`, and the rest go on. `callback` makes the
        callback for each (source, key), or None.
        """
        todo = [BatchItem(source, check_key(key)) for source, key in items]
        make = callback or (lambda _source, _key: None)
        batch = Batch(
            self._set,
            overwrite=overwrite,
            progress=lambda item: self._progress(make(item.source, item.key), item.source, item.key),
        )
        return flatten(iterate(batch.run(todo), 1))

    def restore(
        self,
        remote_path: str,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        callback: Callback | None = None,
    ) -> DownloadReport:
        """Read an object into a file or binary stream, proven block by block, from whichever replica is alive.

        A file appears whole or stays as it was. A stream gets only proven bytes, but may end in an error.

        Raises
        ------
        ObjectNotFoundError
            When every replica says that there is no such key.
        IntegrityError, NoHealthyReplicaError
            When no replica could give proven bytes; the message names what each one said.
        """
        key = check_key(remote_path)
        if hasattr(target, "write"):
            return run(restore.copy_to(self._set, key, cast(BinaryIO, target)))
        path = Path(os.fspath(cast("os.PathLike[str]", target)))
        if path.is_dir():
            raise ValueError(f"{path} is a directory where a file is meant")
        return run(restore.download(self._set, key, path, progress=told_of(callback)))

    def restore_tree(
        self,
        prefix: str,
        directory: str | os.PathLike[str],
        *,
        hear: Callable[[RestoredObject], None] | None = None,
        callback: Callable[[str], Callback | None] | None = None,
    ) -> TreeReport:
        """Read every object at or below `prefix` into `directory`, many side by side under the set's memory.

        Each becomes a file under its key without the prefix, as with `restore`. Resumable: a file that is there
        with the right bytes, proven by its manifest, is not read again. One that cannot be had is in the report,
        and the rest go on.

        Parameters
        ----------
        hear
            Called with each object as it is done, on the I/O thread.
        callback
            Makes fsspec's callback for a key, or None.

        Raises
        ------
        ObjectNotFoundError
            When there is nothing at or below `prefix`, and that is proven.
        NoHealthyReplicaError
            When no replica can be listed.
        """
        progress = (lambda key: told_of(callback(key))) if callback else None
        return run(
            restore_tree(self._set, check_prefix(prefix), Path(directory), on_object=hear, progress=progress)
        )

    def read(self, remote_path: str, start: int = 0, end: int | None = None) -> bytes:
        """Return an object's bytes from `start` up to `end` (None: to the last), all of one version.

        Whole blocks around the range are read and proven by the manifest, from whichever replica is alive.

        Raises
        ------
        ObjectNotFoundError
            When every replica says that there is no such key.
        IntegrityError, NoHealthyReplicaError
            When no replica could give proven bytes.
        ValueError
            For a negative `start` or `end`.
        """
        if start < 0 or (end is not None and end < 0):
            raise ValueError(f"a range counts from the object's beginning, and starts at 0: got {start} to {end}")
        return run(restore.read_range(self._set, check_key(remote_path), start, end))

    def remove(self, remote_path: str) -> Report:
        """Delete exactly one key from every replica, and report on each.

        While a replica is away the others keep a small tombstone, so that no repair brings the object back.
        """
        return run(delete.delete(self._set, check_key(remote_path)))

    def ls(self, prefix: str = "") -> Iterator[ObjectEntry]:
        """Yield the objects at or below `prefix`, in order, each with what every replica has of it.

        Streams: a million objects need no million entries in memory. A replica that cannot be listed is
        ``"unknown"`` in the entries and logged; when none can, `NoHealthyReplicaError` is raised.

        One LIST per 1,000 keys and replica. From the first key that a backend lacks, its manifests are listed too;
        with `retention` also the whole set, once, and each object that it may have let go is asked about.
        """
        return iterate(SetListing(self._set, check_prefix(prefix), expecting=self._let_go).entries(), _PAGE)

    def stat(self, remote_path: str) -> ObjectInfo:
        """Return what one object is, and what every replica has of it: from manifests and metadata, not the data.

        With `retention`, an object that a backend lacks costs a walk over the set, to tell missing from expired.

        Raises
        ------
        ObjectNotFoundError
            When every replica says that there is no such key.
        NoHealthyReplicaError
            When none has it and not all could be asked.
        """
        return run(stat(self._set, check_key(remote_path), self._let_go))

    def repair(
        self,
        prefix: str = "",
        *,
        dry_run: bool = False,
        deep: bool = False,
        adopt: bool = False,
        expired: IsExpired | None = None,
        hear: Callable[[Step], None] | None = None,
        spread: Spread | None = None,
    ) -> RepairReport:
        """Make right what is wrong with the objects at or below `prefix`, from replicas that prove them.

        Missing, short, rotten and stale copies are refilled, each block proven. Replacements, deletes and
        uploads that never ended are finished or cleared. A copy stays until proven bytes take its place; what no
        replica proves is not touched. Safe beside uploads, deletes and other repairs, and to run again.

        Parameters
        ----------
        dry_run
            Only say what would be done.
        deep
            Read every byte of every copy first; otherwise manifests and metadata are compared.
        adopt
            Give data without a manifest on any replica one, where all copies are the same.
        expired
            `expired(backend, key, modified)`: whether a backend's own retention let a key go, which is then not
            missing there. By default the set's `retention` answers, from one more walk over the whole set.
        hear
            Hears of every step as it is done, on the I/O thread.
        spread
            Other processes that do it, such as a `fsbackup.distributed.Cluster`; for a set `from_config` only.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        """
        known, away = run(self._expecting(expired))
        options = RepairOptions(check_prefix(prefix), dry_run, deep, adopt, known, away)
        if spread is not None:
            return elsewhere.repair(self._set, self._elsewhere(spread), options, hear)
        return run(repair(self._set, options, hear))

    def prune(
        self, prefix: str = "", *, dry_run: bool = True, hear: Callable[[PruneStep], None] | None = None
    ) -> PruneReport:
        """Remove from each backend what its retention lets go, and from no other; leaves no tombstone.

        Nothing goes from a backend that cannot be listed to its end, nor anywhere while the clock is behind the
        newest object. What another backend's rule keeps, or a backend without one, goes only while one of those
        proves that it has it. The newest of each series stay, as each rule's `keep_last` says. Objects without a
        manifest stay. Safe beside uploads, deletes, repairs and other prunes, and to run again.

        Parameters
        ----------
        prefix
            A key, or the first segments of keys: what is acted upon. All of the set is listed in any case.
        dry_run
            Only say what would go, which is the default.
        hear
            Hears of every copy as it is decided or done, also of what is kept, on the I/O thread.

        Raises
        ------
        ConfigError
            When no backend of the set has a retention.
        NoHealthyReplicaError
            When no replica can be listed.
        """
        if not self._retention:
            hint = "give a backend one: retention: {max_age: 30d, keep_last: 7}"
            raise ConfigError(f"set {self.name!r}: no backend has a retention, so nothing is let go", hint=hint)
        return run(prune(self._set, self._retention, PruneOptions(check_prefix(prefix), dry_run), hear))

    def status(
        self,
        prefix: str = "",
        *,
        depth: int = 1,
        max_age: timedelta | None = None,
        expired: IsExpired | None = None,
    ) -> SetStatus:
        """Compare what all replicas list at or below `prefix`: two LISTs per 1,000 keys and replica
        (with `retention`: as many again over the whole set, whose series say what has expired).

        Replicas are asked only about keys whose listings look wrong, or that one with a retention lacks. In what
        copies of one size differ, `verify` finds.

        Parameters
        ----------
        prefix
            A key, or the first segments of keys.
        depth
            How many segments below `prefix` make a group of the result.
        max_age
            Fail when the newest object of a group is older, or there is no object at all.
        expired
            As for `repair`.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        """
        age = None if max_age is None else max_age.total_seconds()
        checked = check_prefix(prefix)
        known, away = run(self._expecting(expired))
        return run(status(self._set, checked, depth=depth, max_age=age, expired=known, away=away))

    def verify(
        self,
        prefix: str = "",
        *,
        deep: bool = False,
        sample: str | None = None,
        expired: IsExpired | None = None,
        hear: Callable[[CopyProblem], None] | None = None,
        spread: Spread | None = None,
    ) -> VerifyReport:
        """Examine every object at or below `prefix` on every replica; change nothing.

        Parameters
        ----------
        prefix
            A key, or the first segments of keys.
        deep
            Read every byte of every copy. By default manifests and metadata are compared, which finds all but
            bytes that rotted in place.
        sample
            ``"1/30"``: only today's thirtieth of the objects, another one each day, all of them in thirty days.
        expired
            As for `repair`.
        hear
            Gets each problem as it is found, on another thread.
        spread
            As for `repair`.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        ValueError
            When `sample` is not of the form ``1/N``.
        """
        share = None if sample is None else parse_sample(sample)
        checked = check_prefix(prefix)
        known, away = run(self._expecting(expired))
        if spread is not None:
            return elsewhere.verify(
                self._set,
                self._elsewhere(spread),
                checked,
                deep=deep,
                sample=share,
                hear=hear,
                expired=known,
                away=away,
            )
        return run(verify(self._set, checked, deep=deep, sample=share, hear=hear, expired=known, away=away))

    async def _let_go(self, away: Unreachable) -> IsExpired | None:
        try:
            return (await expected(self._set, self._retention, away=away))[0]
        except NoHealthyReplicaError:  # whoever may read may not always list: then what is not there is missing
            return None

    async def _expecting(self, given: IsExpired | None) -> tuple[IsExpired | None, Unreachable]:
        """Return what tells what each backend's retention let go, and the replicas that this finds away."""
        return (given, {}) if given else await expected(self._set, self._retention)

    def _elsewhere(self, spread: Spread) -> Elsewhere:
        if self._origin is None:
            raise ConfigError(
                f"set {self.name!r}: only a set from a configuration file can be opened by other processes",
                hint="use ReplicatedStorage.from_config",
            )
        return Elsewhere(spread, *self._origin)

    async def _replicate(
        self, source: SourceLike, key: str, overwrite: bool, progress: CallbackProgress | None
    ) -> Report:
        opened = await asyncio.to_thread(open_source, source)
        try:
            return await upload.upload(self._set, key, opened, overwrite=overwrite, progress=progress)
        finally:
            opened.close()

    @staticmethod
    def _progress(callback: Callback | None, source: SourceLike, key: str) -> CallbackProgress | None:
        return CallbackProgress(callback, str(getattr(source, "name", source)), key) if callback else None

    def __reduce__(self) -> Any:
        if self._origin is None:
            return super().__reduce__()
        return _reopen, (*self._origin, self.errors)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, backends={list(self.backends)}, min_copies={self.min_copies})"
        )


def _reopen(path: str, name: str, errors: ErrorMode) -> ReplicatedStorage:
    return ReplicatedStorage.from_config(path, name, errors=errors)
