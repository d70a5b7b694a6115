"""`ReplicatedStorage`: several backends as one, with a result for each.

A façade: each method calls one module, and imports it, so that a command loads only what it uses.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast, get_args

from fsbackup.backends.base import ErrorMode, SingleBackend, StorageBackend
from fsbackup.engine import breaker, marker
from fsbackup.engine.replicas import DEFAULT_MEMORY, DEFAULT_STALL, ReplicaSet, Spool, Unproven
from fsbackup.errors import ConfigError, NoHealthyReplicaError
from fsbackup.factory import set_arguments
from fsbackup.keys import check_key, check_prefix
from fsbackup.lazy import cached_property
from fsbackup.loop import flatten, iterate, run
from fsbackup.stages import Undo
from fsbackup.state import state_directory

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

    from fsbackup.config import Config
    from fsbackup.engine.open_source import SourceLike
    from fsbackup.engine.results import DownloadReport, Report
    from fsbackup.replication.batch import BatchItem, ItemResult
    from fsbackup.replication.batches import Executor
    from fsbackup.replication.classify import IsExpired, ObjectStatus
    from fsbackup.replication.progress import CallbackProgress
    from fsbackup.replication.prune import PruneReport, PruneStep, SeriesReport
    from fsbackup.replication.repair import RepairReport, Step
    from fsbackup.replication.status import SetStatus
    from fsbackup.replication.tree import RestoredObject, TreeReport
    from fsbackup.replication.verify import OnProblem, VerifyReport
    from fsbackup.replication.walk import Unreachable
    from fsbackup.retention import Retention
    from fsbackup.stages import Stages
    from fsbackup.stages.undo import IdentityFiles

#: Entries fetched per step of a listing's iterator.
_PAGE = 1000
#: What `ReplicatedStorage.open` takes: fsspec passes on any word, and ignores those that nobody knows.
_OPEN_OPTIONS = frozenset(
    {"autocommit", "block_size", "cache_options", "cache_type", "compression", "encoding", "errors", "identity"}
    | {"newline", "raw", "sha256"}
)


def _groups(read_order: Sequence[str | Sequence[str]]) -> list[list[str]]:
    return [[each] if isinstance(each, str) else list(each) for each in read_order]


class ReplicatedStorage(StorageBackend):
    """A set of backends that hold the same objects.

    The five methods of `StorageBackend` work on the set: `upload` returns True when at least `min_copies` replicas
    confirmed, `exists` when any replica proves the object, `delete` when all replicas confirmed.

    Parameters
    ----------
    backends
        Single backends with distinct names.
    min_copies
        Confirmed copies that an upload needs to succeed; all of them by default.
    read_order
        Which backends to read from, first to last; a list among them is a group that shares the work, as in
        ``["local", ["r2", "b2"]]``. A later one is read only when no earlier one has the object, or can deliver
        it. By default all backends share the work.
    name
        The set's name.
    errors
        See `StorageBackend`.
    part_size
        Bytes per multipart part, the same on every replica; by default derived from the object's size.
    memory
        Bytes of parts in memory at the same time, over all uploads of one call; 64 MiB by default.
    spool
        Where a stream's bytes may be stored for a replica that falls behind.
    stall_timeout
        Seconds without a byte after which a read switches to another replica; 10 by default.
    unproven
        What a read does when fewer replicas answer than it takes to prove that no confirmed version is newer (all
        but ``min_copies - 1``): ``"warn"`` with a `StaleReadWarning`, the default; ``"raise"`` a
        `NoHealthyReplicaError`; ``"allow"`` it.
    append
        Whether its files may be opened to append (`open`), which replaces the whole object, up to 64 MiB. It needs
        `min_copies` to be more than half of the backends: of two that append at once, only one may be told that
        its version is stored.
    retention
        How long each backend keeps its objects, by name. A backend that is left out keeps everything, and a rule
        keeps all keys that its `destinations` and `series` do not name. Only `prune` deletes by it; `ls`, `stat`,
        `status`, `verify` and `repair` report what it deleted as ``"expired"``, not as missing.
    origin
        The configuration file of this set, from which other processes can open it.

    Raises
    ------
    ConfigError
        When names repeat, `min_copies`, `append` or `unproven` does not fit, or `read_order` or `retention` name
        others.
    """

    def __init__(
        self,
        backends: Sequence[SingleBackend],
        *,
        min_copies: int | None = None,
        read_order: Sequence[str | Sequence[str]] | None = None,
        name: str = "replicated",
        errors: ErrorMode = "return",
        part_size: int | None = None,
        memory: int = DEFAULT_MEMORY,
        spool: Spool | None = None,
        stall_timeout: float = DEFAULT_STALL,
        unproven: Unproven = "warn",
        append: bool = False,
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
        groups = _groups(read_order) if read_order is not None else [list(self.backends)]
        order = [each for group in groups for each in group]
        if sorted(order) != sorted(self.backends):
            raise ConfigError(f"set {name!r}: read_order must name each of {', '.join(self.backends)} once")
        stores = tuple(self.backends[each].store for each in order)
        if stall_timeout <= 0:
            raise ConfigError(f"set {name!r}: stall_timeout must be more than 0 seconds, not {stall_timeout}")
        if unproven not in get_args(Unproven):
            known = ", ".join(get_args(Unproven))
            raise ConfigError(f"set {name!r}: unproven must be one of {known}, not {unproven!r}")
        if append and 2 * copies <= len(backends):
            raise ConfigError(
                f"set {name!r}: append needs min_copies {len(backends) // 2 + 1}, more than half of the backends, "
                f"not {copies}"
            )
        self.append = append
        self._retention = dict(retention or {})
        if unknown := ", ".join(sorted(self._retention.keys() - self.backends.keys())):
            raise ConfigError(f"set {name!r}: retention names {unknown}, which the set does not have")
        self._set = ReplicaSet(
            stores,
            copies,
            part_size,
            memory,
            spool,
            stall_timeout,
            unproven,
            lasting=self._lasting(self._retention),
            groups=tuple(map(frozenset, groups)),
        )
        marker.join(stores)
        self._origin = (os.path.abspath(origin), name) if origin is not None else None

    @classmethod
    def from_config(
        cls,
        config: Config | str | os.PathLike[str],
        name: str,
        *,
        errors: ErrorMode = "return",
        origin: str | os.PathLike[str] | None = None,
    ) -> ReplicatedStorage:
        """Return the replication set `name` of a configuration.

        With a path, or with `origin`, the result can be pickled: the pickle holds the path and the name, never a
        secret.

        Parameters
        ----------
        config
            The path of a configuration file, or what `load_config` returned.
        name
            The set.
        errors
            See `StorageBackend`.
        origin
            The file that a loaded `config` came from.

        Raises
        ------
        ConfigError
            With every problem of the file, or when it has no such set.
        """
        if isinstance(config, (str, os.PathLike)):
            from fsbackup.config import load_config  # pydantic and yaml: only who has a file needs them

            origin = config
            config = load_config(config)
        breaker.use_note(state_directory(config.state_dir))
        path = None if origin is None else os.fspath(origin)
        return cls(**set_arguments(config, name), errors=errors, origin=path)

    def _lasting(self, retention: Mapping[str, Retention]) -> frozenset[str]:
        rules = {name: retention.get(name) for name in self.backends}
        return frozenset(
            name
            for name, rule in rules.items()
            if rule is None or all(rule.covers(other) for other in rules.values())
        )

    @property
    def replica_set(self) -> ReplicaSet:
        return self._set

    @property
    def origin(self) -> str | None:
        """The path of the configuration that other processes can open this set from, None without one."""
        return None if self._origin is None else self._origin[0]

    @cached_property
    def fs(self) -> Any:
        """The objects of this set as an fsspec filesystem (`FsbackupFileSystem`): ``fs.ls(store.name)``.

        Its paths are SET/KEY, as in ``fsbackup://SET/KEY``. It is pickled where the set can be: with the path of
        the configuration that the set is from.
        """
        # By its name: it is of a layer above, and only who asks for it pays for fsspec.
        return import_module("fsbackup.filesystem").FsbackupFileSystem(config=self)

    def open(self, remote_path: str, mode: str = "rb", **options: Any) -> Any:
        """Open an object as a file, as ``fs.open`` does.

        Parameters
        ----------
        remote_path
            The key.
        mode
            ``"rb"``; ``"wb"`` to replace the object or ``"xb"`` to create it, when the file is closed; ``"ab"``
            where the set allows it (`append`); each without ``b`` for text.
        **options
            As for ``fs.open``: `encoding`, `compression`, `block_size`, `raw`; and `identity`, which is a file
            with the private key for an encrypted object.

        Raises
        ------
        TypeError
            For an option that is not known: a misspelt one would be ignored.
        ObjectNotFoundError
            When a quorum of the replicas answers that there is no such key.
        NoHealthyReplicaError, IntegrityError
            From this, or from reads: no replica gave proven bytes.
        """
        if unknown := sorted(options.keys() - _OPEN_OPTIONS):
            raise TypeError(
                f"open has no option {', '.join(unknown)}; it takes {', '.join(sorted(_OPEN_OPTIONS))}"
            )
        identity = options.pop("identity", None)
        fs = self.fs if identity is None else type(self.fs)(config=self, identity=identity)
        return fs.open(f"{self.name}/{check_key(remote_path)}", mode, **options)

    @property
    def read_order(self) -> list[list[str]]:
        """The groups of backends that reads are spread over: a later one only where no earlier one can deliver."""
        return [[store.name for store in group] for group in self._set.by_group(self._set.stores)]

    @property
    def min_copies(self) -> int:
        """Confirmed copies that an upload needs to succeed."""
        return self._set.min_copies

    def replicate(
        self,
        source: SourceLike,
        remote_path: str,
        *,
        overwrite: bool = False,
        allow_empty: bool = False,
        series: str | None = None,
        stages: Stages | None = None,
        callback: Callback | None = None,
    ) -> Report:
        """Store a file, a binary stream or a command's output in every replica at once, read once.

        Parameters
        ----------
        source
            A path (a FIFO or device is read as a stream), an open binary file of any length, or a
            `fsbackup.Command`, whose output is stored only if it exits with 0.
        remote_path
            The key.
        overwrite
            Replace other content. By default the same content again is success with nothing sent, and other
            content is a `ConflictError` in the report.
        allow_empty
            Store a stream that ends without a single byte. By default that is a `SourceError`, for an
            ``io.BytesIO`` as for a pipe: a command that failed leaves an empty stream. An empty file, given by its
            path, is always stored.
        series
            What the object is a version of, as text for people; stored in its manifest. What retention lets go is
            decided by the `destinations` and `series` of its rules.
        stages
            Compress and encrypt on the way; what they add to the key (``.zst.age``) follows `remote_path`. The
            same plaintext again is success with nothing sent, except to replicas that lack it: these get what is
            stored. Where that cannot be told, since another host's identity key was used or the key was lost, it
            is an `UnknownIdentityError` (a `ConflictError`) in the report, and with `overwrite` a new version.
        callback
            Gets the bytes read; one child per replica gets the bytes sent.

        Returns
        -------
        Report
            True unless fewer than `min_copies` replicas confirmed. A backend's failure is in it, not raised.

        Raises
        ------
        SourceError
            When the source cannot be read, changes while it is read, or is an empty stream, and when a command
            fails. Nothing is committed.
        ConfigError
            When a package or a key that the stages need is missing.
        ValueError
            For a directory, or a key that is not legal.
        """
        key = check_key(remote_path + stages.suffix if stages else remote_path)
        progress = self._progress(callback, source, key)
        return run(self._replicate(source, key, overwrite, allow_empty, series, stages, progress))

    def replicate_many(
        self,
        items: Iterable[tuple[SourceLike, str] | BatchItem],
        *,
        overwrite: bool = False,
        allow_empty: bool = False,
        parallel: int | None = None,
        callback: Callable[[SourceLike, str], Callback | None] | None = None,
    ) -> Iterator[ItemResult]:
        """Store many files at the same time within the set's memory budget; yield each result as it is known.

        A source that cannot be read is a result with an `error`; the other uploads continue. `overwrite` and
        `allow_empty` are as in `replicate`. `callback` returns the callback for a (source, key), or None.

        A stream takes the whole budget, so streams and commands follow one another. With `parallel`, exactly so
        many uploads run at the same time, each with a budget of its own.
        """
        from fsbackup.replication.batch import Batch, BatchItem

        todo = [each if isinstance(each, BatchItem) else BatchItem(*each) for each in items]
        for item in todo:
            check_key(item.key)
        make = callback or (lambda _source, _key: None)
        batch = Batch(
            self._set,
            overwrite=overwrite,
            allow_empty=allow_empty,
            parallel=parallel,
            make_progress=lambda item: self._progress(make(item.source, item.key), item.source, item.key),
        )
        return flatten(iterate(batch.run(todo), 1))

    def restore(
        self,
        remote_path: str,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        owner: bool = False,
        identity: IdentityFiles | None = None,
        raw: bool = False,
        callback: Callback | None = None,
    ) -> DownloadReport:
        """Read an object into a file or binary stream, verified block by block, from all replicas that answer.

        A file appears whole or stays as it was. A stream receives only proven bytes, but may end in an error. What
        `Stages` compressed or encrypted is undone; the file is put in place only when that ended well, too.

        Parameters
        ----------
        remote_path
            The key, with the suffixes of its stages.
        target
            A file, a binary stream, or an existing directory: then the file in it has the last segment of the key
            for a name, without the suffixes of stages that were undone.
        owner
            Give the file the numbers of owner and group that its manifest has; what was backed up as a stream has
            none.
        identity
            The file of an age identity or a private SSH key, or several files, to decrypt with; by default the
            file that ``$FSBACKUP_AGE_IDENTITY`` names.
        raw
            Undo nothing: the bytes as they are stored.
        callback
            Gets the bytes read.

        Raises
        ------
        ConfigError
            For `owner`, unless this process is root's; when the object is encrypted and there is no identity for
            it, or a package is missing.
        ObjectNotFoundError
            When a quorum of the replicas answers that there is no such key.
        IntegrityError, NoHealthyReplicaError
            When no replica returned proven bytes; the message has each replica's error.
        """
        from fsbackup.engine import restore
        from fsbackup.replication.progress import on_progress

        key = check_key(remote_path)
        _check_may_give_away(owner=owner)
        undo = None if raw else Undo(identity)
        if hasattr(target, "write"):
            return run(restore.copy_to(self._set, key, cast(BinaryIO, target), undo=undo))
        path = Path(os.path.expanduser(cast("os.PathLike[str]", target)))
        into = path.is_dir()
        download = restore.download(
            self._set,
            key,
            path / key.rpartition("/")[2] if into else path,
            owner=owner,
            on_progress=on_progress(callback),
            undo=undo,
            rename=restore.without_suffix if into else None,
        )
        return run(download)

    def restore_tree(
        self,
        prefix: str,
        directory: str | os.PathLike[str],
        *,
        owner: bool = False,
        identity: IdentityFiles | None = None,
        raw: bool = False,
        on_object: Callable[[RestoredObject], None] | None = None,
        callback: Callable[[str], Callback | None] | None = None,
    ) -> TreeReport:
        """Read every object at or below `prefix` into `directory`, many at the same time within the set's memory.

        Each becomes a file under its key without the prefix, as with `restore`. Resumable: a file that already has
        the right bytes, proven by the manifest, is not read again. An object that cannot be read is in the report,
        and the rest continue.

        Parameters
        ----------
        owner
            As for `restore`, also for files that are there already. Directories are whose who restores them.
        identity, raw
            As for `restore`. Files have the names of their keys without the suffixes of stages that were undone.
            Of an encrypted one that is there already nothing proves that it is right, and it is read again.
        on_object
            Called with each object as it is done, on the I/O thread.
        callback
            Returns fsspec's callback for a key, or None.

        Raises
        ------
        ConfigError
            For `owner`, unless this process is root's.
        ObjectNotFoundError
            When all replicas could be listed and none has anything at or below `prefix`.
        NoHealthyReplicaError
            When no replica can be listed.
        """
        from fsbackup.replication.progress import on_progress
        from fsbackup.replication.tree import restore_tree

        _check_may_give_away(owner=owner)
        make_progress = (lambda key: on_progress(callback(key))) if callback else None
        tree = restore_tree(
            self._set,
            check_prefix(prefix),
            Path(os.path.expanduser(directory)),
            owner=owner,
            undo=None if raw else Undo(identity),
            on_object=on_object,
            make_progress=make_progress,
        )
        return run(tree)

    def read(self, remote_path: str, start: int = 0, end: int | None = None) -> bytes:
        """Return an object's bytes from `start` up to `end` (None: to the last), all of one version.

        The whole blocks around the range are read and verified by the manifest, from any replica that answers.
        What was compressed or encrypted by `Stages` is returned as it is stored.

        Raises
        ------
        ObjectNotFoundError
            When a quorum of the replicas answers that there is no such key.
        IntegrityError, NoHealthyReplicaError
            When no replica returned proven bytes.
        ValueError
            For a negative `start` or `end`.
        """
        from fsbackup.engine import restore

        if start < 0 or (end is not None and end < 0):
            raise ValueError(
                f"start and end count from the object's first byte, not from its end: {start} to {end}"
            )
        return run(restore.read_range(self._set, check_key(remote_path), start, end))

    def remove(self, remote_path: str) -> Report:
        """Delete exactly one key from every replica, and report on each.

        While a replica does not confirm, the others keep a small tombstone, so that no repair restores the object:
        the report is ``"degraded"`` when enough have one. Where too few can be reached, nothing is deleted.
        """
        from fsbackup.engine import delete

        return run(delete.delete(self._set, check_key(remote_path)))

    def remove_many(self, remote_paths: Iterable[str]) -> Iterator[Report]:
        """Delete exactly these keys from every replica, and yield a report on each, in their order.

        As `remove`, with fewer requests: a bucket removes up to 1,000 objects by one.
        """
        from fsbackup.engine import delete

        return iterate(delete.delete_many(self._set, [check_key(each) for each in remote_paths]), _PAGE)

    def ls(self, prefix: str = "") -> Iterator[ObjectStatus]:
        """Yield the objects at or below `prefix`, in order, each with what every replica has of it.

        Streaming: memory does not grow with the number of objects. A replica that cannot be listed is
        ``"unknown"`` in the results and its error is logged; when none can, `NoHealthyReplicaError` is raised.

        One LIST per 1,000 keys and replica. From the first key that a backend lacks, its manifests are listed too.
        With `retention` the whole set is listed once more, and each object that may have expired is queried.
        """
        from fsbackup.replication.ls import SetListing

        listing = SetListing(self._set, check_prefix(prefix), find_expired=self._find_expired)
        return iterate(listing.entries(), _PAGE)

    def stat(self, remote_path: str) -> ObjectStatus:
        """Return what one object is, and what every replica has of it: from manifests and metadata, not the data.

        With `retention`, an object that a backend lacks costs a listing of the set, to tell missing from expired.

        Raises
        ------
        ObjectNotFoundError
            When a quorum of the replicas answers that there is no such key.
        NoHealthyReplicaError
            When none has it and too few answer.
        """
        from fsbackup.replication.stat import stat

        return run(stat(self._set, check_key(remote_path), self._find_expired))

    def repair(
        self,
        prefix: str = "",
        *,
        dry_run: bool = False,
        deep: bool = False,
        adopt: bool = False,
        allow_many: bool = False,
        accept_empty: Sequence[str] = (),
        expired: IsExpired | None = None,
        on_step: Callable[[Step], None] | None = None,
        executor: Executor | None = None,
    ) -> RepairReport:
        """Repair the objects at or below `prefix` from replicas that prove them.

        Missing, truncated, damaged and stale copies are replaced, each block verified. Unfinished replacements,
        deletes and uploads are finished or removed; what unfinished writes left is deleted, except with a prefix
        of several segments. A copy stays until proven bytes take its place; an object that no replica proves is
        not touched. Safe while uploads, deletes and other repairs run, and to run again.

        Parameters
        ----------
        dry_run
            Only report what would be done.
        deep
            Read every byte of every copy first; otherwise manifests and metadata are compared.
        adopt
            Write a manifest for data that has none on any replica, where all copies are the same.
        allow_many
            Delete or replace proven copies of any number of objects. By default nothing of that kind is done, and
            the objects are reported, where they are more than 10 and more than 5 % of those examined: many stale
            or deleted copies at once can be a forged record or a mistaken configuration.
        accept_empty
            Names of backends that are empty, and are to be filled: new ones, and disks or buckets that lost
            everything. Without this a backend that is empty while others are not is refused like one that does not
            answer, because it may be an unmounted disk or another bucket. What it lacks proves no absence but at
            or below the prefixes of completed repairs.
        expired
            `expired(backend, key, modified)`: whether a backend's own retention deleted a key, which is then not
            missing there. By default the set's `retention` decides, from one more listing of the whole set.
        on_step
            Called with every step as it is done, on the I/O thread.
        executor
            Runs the work in batches of keys: a `concurrent.futures.Executor`, or a `distributed.Client`, whose
            workers open the configuration file by themselves. For a set `from_config` only.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        ConfigError
            When `accept_empty` names a backend that the set does not have, or one that is not empty.
        """
        from fsbackup.replication.repair import RepairOptions, repair, repair_with

        checked = check_prefix(prefix)
        if isinstance(accept_empty, str):
            raise ValueError("accept_empty is a sequence of names, not one name")
        run(marker.accept_empty(self._set.stores, accept_empty, dry_run=dry_run))
        for name in accept_empty:
            breaker.record(self.backends[name].store, None)
        is_expired, unreachable = run(self._expired(expired))
        options = RepairOptions(checked, dry_run, deep, adopt, is_expired, unreachable, allow_many=allow_many)
        if executor is not None:
            return repair_with(executor, self._config(), self._set, options, on_step)
        return run(repair(self._set, options, on_step))

    def prune(
        self,
        prefix: str = "",
        *,
        dry_run: bool = True,
        found_at_source: Container[str] = (),
        on_step: Callable[[PruneStep], None] | None = None,
    ) -> PruneReport:
        """Delete from each backend the objects that its own retention no longer keeps; leaves no tombstones.

        Nothing is deleted from a backend that cannot be listed to its end, nor anywhere while this machine's clock
        is behind the newest object. A copy of an object that other backends keep is deleted only while one of them
        proves its own. Only older versions of a series are deleted (see `Retention`); the newest `keep_last` of
        each stay. Objects without a manifest stay. Safe while uploads, deletes, repairs and other prunes run, and
        to run again.

        Parameters
        ----------
        prefix
            A key, or the first segments of keys, to delete below. The whole set is listed in any case.
        dry_run
            Only report what would be deleted, which is the default.
        found_at_source
            Keys that stay whatever the rules say: a backup has just found them at its source.
        on_step
            Called with every copy as it is decided or deleted, also with those kept, on the I/O thread.

        Raises
        ------
        ConfigError
            When no backend of the set has a retention.
        NoHealthyReplicaError
            When no replica can be listed.
        """
        from fsbackup.replication.prune import PruneOptions, prune

        options = PruneOptions(check_prefix(prefix), dry_run, found_at_source=found_at_source)
        return run(prune(self._set, self._rules(), options, on_step))

    def series(self) -> SeriesReport:
        """Return which objects each backend's retention takes for versions of one thing; lists the set once.

        Raises
        ------
        ConfigError
            When no backend of the set has a retention.
        NoHealthyReplicaError
            When no replica can be listed.
        """
        from fsbackup.replication.prune import find_series

        return run(find_series(self._set, self._rules()))

    def _rules(self) -> Mapping[str, Retention]:
        if not self._retention:
            hint = "give a backend one: retention: {max_age: 30d, keep_last: 7}"
            raise ConfigError(f"set {self.name!r}: no backend has a retention, so nothing is deleted", hint=hint)
        return self._retention

    def status(
        self,
        prefix: str = "",
        *,
        depth: int = 1,
        max_age: timedelta | None = None,
        expired: IsExpired | None = None,
    ) -> SetStatus:
        """Compare what all replicas list at or below `prefix`.

        Two LISTs per 1,000 keys and replica; with `retention` as many again over the whole set, to tell expired
        from missing. Replicas are queried only about keys whose listings look wrong, or that a backend with a
        retention lacks. Copies of equal size with different content are only found by `verify`.

        Parameters
        ----------
        prefix
            A key, or the first segments of keys.
        depth
            How many segments below `prefix` make a group of the result.
        max_age
            ``"failed"`` when the newest object of a group is older, or there is no object at all.
        expired
            As for `repair`.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        """
        from fsbackup.replication.status import status

        age = None if max_age is None else max_age.total_seconds()
        checked = check_prefix(prefix)
        is_expired, skip = run(self._expired(expired))
        return run(status(self._set, checked, depth=depth, max_age=age, expired=is_expired, unreachable=skip))

    def verify(
        self,
        prefix: str = "",
        *,
        deep: bool = False,
        sample: str | None = None,
        expired: IsExpired | None = None,
        on_problem: OnProblem | None = None,
        executor: Executor | None = None,
    ) -> VerifyReport:
        """Inspect every object at or below `prefix` on every replica; change nothing.

        Parameters
        ----------
        prefix
            A key, or the first segments of keys.
        deep
            Read every byte of every copy. By default manifests and metadata are compared, which finds everything
            but bytes that changed in place.
        sample
            ``"1/30"``: only today's thirtieth of the objects, another one each day, all of them in thirty days.
        expired
            As for `repair`.
        on_problem
            Called with each problem as it is found, on the I/O thread.
        executor
            As for `repair`.

        Raises
        ------
        NoHealthyReplicaError
            When no replica can be listed.
        ValueError
            When `sample` is not of the form ``1/N``.
        """
        from fsbackup.replication.sample import parse_sample
        from fsbackup.replication.verify import verify, verify_with

        share = None if sample is None else parse_sample(sample)
        checked = check_prefix(prefix)
        is_expired, skip = run(self._expired(expired))
        if executor is not None:
            return verify_with(
                executor,
                self._config(),
                self._set,
                checked,
                deep=deep,
                sample=share,
                on_problem=on_problem,
                expired=is_expired,
                unreachable=skip,
            )
        report = verify(
            self._set,
            checked,
            deep=deep,
            sample=share,
            on_problem=on_problem,
            expired=is_expired,
            unreachable=skip,
        )
        return run(report)

    async def _find_expired(self, unreachable: Unreachable) -> IsExpired | None:
        from fsbackup.replication.prune import find_expired

        try:
            return (await find_expired(self._set, self._retention, unreachable=unreachable))[0]
        except NoHealthyReplicaError:  # listing may be forbidden where reading is not: then a lack is "missing"
            return None

    async def _expired(self, given: IsExpired | None) -> tuple[IsExpired | None, Unreachable]:
        """Return what decides whether a backend's retention deleted a key, and the replicas found unreachable."""
        if given:
            return given, {}
        from fsbackup.replication.prune import find_expired

        return await find_expired(self._set, self._retention)

    def _config(self) -> tuple[str, str]:
        """Return the configuration file and the name of the set in it, for workers that open it themselves."""
        if self._origin is None:
            raise ConfigError(
                f"set {self.name!r}: workers can open a set from a configuration file only",
                hint="use ReplicatedStorage.from_config",
            )
        return self._origin

    async def _replicate(
        self,
        source: SourceLike,
        key: str,
        overwrite: bool,
        allow_empty: bool,
        series: str | None,
        stages: Stages | None,
        progress: CallbackProgress | None,
    ) -> Report:
        from fsbackup.engine import upload
        from fsbackup.engine.open_source import open_source

        opened = await asyncio.to_thread(
            open_source, source, allow_empty=allow_empty, series=series, stages=stages
        )
        try:
            return await upload.upload(
                self._set, key, opened, overwrite=overwrite, progress=progress, read_stored=True
            )
        finally:
            opened.close()

    @staticmethod
    def _progress(callback: Callback | None, source: SourceLike, key: str) -> CallbackProgress | None:
        if callback is None:
            return None
        from fsbackup.replication.progress import CallbackProgress

        return CallbackProgress(callback, str(getattr(source, "name", source)), key)

    def __reduce__(self) -> Any:
        if self._origin is None:
            return super().__reduce__()
        return _reopen, (*self._origin, self.errors)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, backends={list(self.backends)}, min_copies={self.min_copies})"
        )


def _check_may_give_away(*, owner: bool) -> None:
    if owner and os.geteuid() != 0:
        hint = "run it as root, or leave it out: the files are then yours"
        raise ConfigError("only root can give restored files their owners", hint=hint)


def _reopen(path: str, name: str, errors: ErrorMode) -> ReplicatedStorage:
    return ReplicatedStorage.from_config(path, name, errors=errors)
