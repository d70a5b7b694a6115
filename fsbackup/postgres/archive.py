"""An archive: a replication set, and the prefix below which it has one cluster's WAL and base backups.

Whose it is
-----------
``PREFIX/cluster.json`` has the cluster's system identifier and segment size. It is stored, create-only, by the
first segment that is pushed, and only while the archive is proven to have no segment: a copied server, or a new
cluster under an old name, would otherwise mix its WAL with another's. Each push compares. Its bytes follow from
what they say, so a push needs no more than one backend that has exactly these; only if none has, the object is
read as any other, proven.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsbackup.aio import cancel_and_wait
from fsbackup.engine import marker
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import (
    ConfigError,
    ConflictError,
    FsbackupError,
    IntegrityError,
    ObjectLostError,
    ObjectNotFoundError,
    as_backend_error,
    unproven_absence,
)
from fsbackup.factory import stages_of
from fsbackup.keys import check_prefix, encode_key
from fsbackup.postgres.segment import SegmentHeader
from fsbackup.stages import Stages
from fsbackup.stores.base import ObjectStore
from fsbackup.wal import WalName, cluster_key, parse_key, wal_key

if TYPE_CHECKING:
    from fsbackup.config import Config
    from fsbackup.replication.storage import ReplicatedStorage


class Archive:
    """The archive of one PostgreSQL cluster.

    Parameters
    ----------
    store
        The replication set.
    prefix
        Where in it; a prefix that nothing else has.
    name
        What messages call the cluster; the prefix by default.
    stages
        What is done to segments and base backups before they are stored.
    suffix
        What stages add to a key; that of `stages` by default. What has another one is found all the same, more
        slowly.
    origin
        The configuration file that it comes from, for the `restore_command` of a restored server.
    spool
        Where this machine's workers go ahead for it; None without them.

    Raises
    ------
    ValueError
        For a prefix that no key can have, or none.
    """

    def __init__(
        self,
        store: ReplicatedStorage,
        prefix: str,
        *,
        name: str | None = None,
        stages: Stages | None = None,
        suffix: str | None = None,
        origin: str | os.PathLike[str] | None = None,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        self.store = store
        self.prefix = check_prefix(prefix).removesuffix("/")
        if not self.prefix:
            raise ValueError("an archive needs a prefix")
        self.name = name or self.prefix
        self.stages = stages
        #: What its ``cluster.json`` was found to have, by this process.
        self.known_cluster: bytes | None = None
        self.suffix = suffix if suffix is not None else stages.suffix if stages else ""
        self.origin = os.path.abspath(origin) if origin is not None else None
        self.spool = Path(spool).absolute() if spool is not None else None

    @classmethod
    def from_config(
        cls,
        config: Config | str | os.PathLike[str],
        name: str,
        *,
        origin: str | os.PathLike[str] | None = None,
        reading: bool = False,
    ) -> Archive:
        """Return the archive of the cluster `name` in the ``postgres`` section of a configuration.

        Parameters
        ----------
        config
            The path of a configuration file, or what `load_config` returned.
        name
            The cluster.
        origin
            The file that a loaded `config` came from.
        reading
            Nothing will be stored: what that takes, such as the packages of `compress` and `encrypt`, is not
            looked for.

        Raises
        ------
        ConfigError
            With every problem of the file, or when it has no such cluster.
        """
        from fsbackup.config.stages import suffix_of
        from fsbackup.replication.storage import ReplicatedStorage

        if isinstance(config, (str, os.PathLike)):
            from fsbackup.config import load_config

            origin = config
            config = load_config(config)
        settings = config.postgres.get(name)
        if settings is None:
            known = ", ".join(config.postgres) or "none"
            raise ConfigError(f"no PostgreSQL cluster is called {name!r}", hint=f"postgres: has {known}")
        store = ReplicatedStorage.from_config(config, settings.replication, origin=origin)
        # A cluster has a secret of its own, so that the host's identity key may be missing.
        stages = None if reading else stages_of(config, settings.compress, settings.encrypt, needs_key=False)
        suffix = suffix_of(settings.compress, settings.encrypt)
        spool = Path(settings.spool, name) if settings.spool is not None else None
        return cls(store, settings.prefix, name=name, stages=stages, suffix=suffix, origin=origin, spool=spool)

    @property
    def targets(self) -> ReplicaSet:
        """The replicas; a WAL file never changes, so that whichever has one has the newest version of it."""
        return replace(self.store.replica_set, unproven="allow")

    @property
    def identity(self) -> str:
        """What tells its places from those of other archives."""
        places = sorted(store.location for store in self.targets.stores)
        return json.dumps([self.prefix, self.targets.min_copies, self.suffix, *places])

    def trusting(self, names: tuple[str, ...]) -> ReplicaSet | None:
        """Return only the replicas called `names`, each of whose answers counts alone; None for no names.

        Raises
        ------
        ConfigError
            When the set has no such backend.
        """
        if unknown := [each for each in names if each not in self.store.backends]:
            known = ", ".join(self.store.backends)
            raise ConfigError(f"set {self.store.name!r} has no backend {unknown[0]!r}", hint=f"it has {known}")
        stores = tuple(each for each in self.targets.stores if each.name in names)
        return replace(self.targets, stores=stores, min_copies=1, lasting=None, groups=None) if stores else None

    def __repr__(self) -> str:
        return f"Archive({self.store!r}, {self.prefix!r})"


async def check_cluster(archive: Archive, header: SegmentHeader) -> None:
    """Make sure that the archive is that of the segment's cluster; the first segment of all says so.

    Raises
    ------
    ConflictError
        When it is another cluster's, or has segments of nobody knows which.
    FsbackupError
        When that cannot be found out.
    """
    own = _describe(header)
    if archive.known_cluster == own:
        return
    if not await _has_exactly(archive, own) and (known := await _read_cluster(archive)) != json.loads(own):
        if known is not None:
            raise _other_cluster(archive, known, header)
        await _claim(archive, own)
    archive.known_cluster = own


def _describe(header: SegmentHeader) -> bytes:
    """Return the bytes of ``cluster.json``; the identifier as text, as it has more digits than JSON promises."""
    fields = {"system_identifier": str(header.system_identifier), "segment_size": header.segment_size}
    return json.dumps(fields).encode() + b"\n"


async def _has_exactly(archive: Archive, data: bytes) -> bool:
    """Return whether any backend has these bytes; the first that has them is waited for."""
    name = encode_key(cluster_key(archive.prefix))

    async def compare(store: ObjectStore) -> bool:
        try:
            return await store.read(name) == data
        except FsbackupError:
            return False

    tasks = [asyncio.create_task(compare(each)) for each in archive.targets.stores]
    try:
        for answer in asyncio.as_completed(tasks):
            if await answer:
                return True
        return False
    finally:
        await cancel_and_wait(tasks)


async def read_cluster(archive: Archive) -> dict[str, Any] | None:
    """Return what the archive says of its cluster, proven; None when it is proven to say nothing.

    Raises
    ------
    FsbackupError
        When that cannot be found out.
    """
    return await _read_cluster(archive)


async def _read_cluster(archive: Archive) -> dict[str, Any] | None:
    from fsbackup.engine import restore

    key = cluster_key(archive.prefix)
    try:
        fields = json.loads(await restore.read_range(archive.targets, key, 0, None))
    except ObjectLostError:
        raise
    except ObjectNotFoundError:
        return None
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise IntegrityError("it is not what fsbackup writes there", operation="download", key=key)
    return fields


def _other_cluster(archive: Archive, known: dict[str, Any], header: SegmentHeader) -> ConflictError:
    return ConflictError(
        f"the archive {archive.prefix!r} is that of the cluster {known.get('system_identifier')} with segments of "
        f"{known.get('segment_size')} bytes; this segment is of the cluster {header.system_identifier}, with "
        f"segments of {header.segment_size}; nothing was stored",
        operation="wal-push",
        hint="give a new cluster (also an upgraded one) a prefix of its own: postgres: {NAME: {prefix: ...}}",
    )


async def _claim(archive: Archive, own: bytes) -> None:
    """Say whose archive it is, unless it has WAL already."""
    found = await find_wal(archive.targets, archive.prefix, lambda each: bool(each.name.position))
    if found is not None:
        raise ConflictError(
            f"the archive {archive.prefix!r} has WAL, such as {found.name.text}, but nothing says of which "
            "cluster; nothing was stored",
            operation="wal-push",
            hint=f"give this cluster a prefix of its own, or put {cluster_key(archive.prefix)} back",
        )
    from fsbackup.engine import upload
    from fsbackup.engine.source import BytesSource

    key = cluster_key(archive.prefix)
    source = BytesSource(own, key)
    report = await upload.upload(archive.targets, key, source, overwrite=False)
    if not report:
        raise report.failure()


@dataclass(frozen=True, slots=True)
class WalFile:
    """A WAL file that a replica lists: its name, and its key, which has the suffixes of its stages."""

    name: WalName
    key: str


async def find_wal(
    targets: ReplicaSet, prefix: str, wanted: Callable[[WalFile], bool], *, begin: str = "", after: str = ""
) -> WalFile | None:
    """Return the first WAL file, of those that any replica lists, that is wanted; None when it is proven that none
    is.

    Parameters
    ----------
    targets, prefix
        Where to look.
    wanted
        Whether a file is meant.
    begin, after
        The beginning of the names to look at, and what they sort after.

    Raises
    ------
    NoHealthyReplicaError
        When no replica lists one, and too few answered.
    """
    answers = await asyncio.gather(*(_find(store, prefix, wanted, begin, after) for store in targets.stores))
    found = [each for each in answers if isinstance(each, WalFile)]
    if found:
        return min(found, key=lambda each: each.key)
    errors = {
        store.name: each
        for store, each in zip(targets.stores, answers, strict=True)
        if isinstance(each, FsbackupError)
    }
    errors |= await marker.doubts([each for each in targets.stores if each.name not in errors], f"{prefix}/wal")
    answered = [each.name for each in targets.stores if each.name not in errors]
    if not targets.is_quorum(answered):
        key = wal_key(prefix, begin).removesuffix("/")
        raise unproven_absence(errors, answered, operation="list", key=key, answer="no WAL file")
    return None


async def _find(
    store: ObjectStore, prefix: str, wanted: Callable[[WalFile], bool], begin: str, after: str
) -> WalFile | FsbackupError | None:
    """Return the first wanted file that one store lists, None when there is none, or why it does not tell."""
    try:
        listing = store.list(wal_key(prefix, begin), wal_key(prefix, after) if after else "")
        async with aclosing(listing) as names:  # type: ignore[type-var]
            async for stat in names:
                name = parse_key(prefix, stat.name)
                if isinstance(name, WalName) and wanted(found := WalFile(name, stat.name)):
                    return found
        await marker.check(store, empty=True)
    except FsbackupError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one store's failure is its answer
        return as_backend_error(error, store.name, prefix, "list")
    return None
