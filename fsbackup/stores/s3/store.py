"""`S3Store`: the object I/O of `fsbackup.stores.base` in a bucket of any S3 service."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from fsbackup.errors import FsbackupError, ObjectNotFoundError
from fsbackup.keys import META_PREFIX, check_prefix, encode_key
from fsbackup.lazy import cached_property
from fsbackup.stores.base import (
    DEFAULT_TIMEOUT,
    BackendInfo,
    Capabilities,
    ObjectStat,
    ObjectStore,
    ObjectWriter,
    Orphan,
    WritePlan,
)
from fsbackup.stores.s3.control.filesystem import Control
from fsbackup.stores.s3.control.info import service_info
from fsbackup.stores.s3.control.listing import list_beginning, list_level, list_objects
from fsbackup.stores.s3.control.removing import remove_object, remove_objects
from fsbackup.stores.s3.http.bucket import MAX_RECORD, PAGE_SIZE, USER_AGENT, Bucket
from fsbackup.stores.s3.http.settings import (
    Addressing,
    Secret,
    Settings,
    check_addressing,
    check_endpoint,
    check_positive,
)
from fsbackup.stores.s3.providers import GENERIC, Profile
from fsbackup.stores.s3.writer.copying import S3Copier, replace_metadata
from fsbackup.stores.s3.writer.uploads import delete_orphan, list_orphans
from fsbackup.stores.s3.writer.writer import S3Writer

if TYPE_CHECKING:
    from fsbackup.buffers import Buffers

DEFAULT_CONCURRENCY = 4
#: Bytes of user metadata per object that every service takes: Amazon S3's limit, and B2's with encryption. R2
#: takes 8,192, but an object must be able to move from one service to another.
METADATA_LIMIT = 2048
#: Where the records of objects are.
Records = Literal["inside", "beside"]


def _capabilities(profile: Profile, conditional_create: bool, metadata_limit: int) -> Capabilities:
    return Capabilities(
        conditional_create=conditional_create,
        wants_md5=True,
        removes_versions=profile.removes_versions,
        content_etags="all" if profile.multipart_etag_is_md5 else "single",
        is_shared=True,
        keeps_replaced=profile.removes_versions,
        metadata_limit=metadata_limit,
        removes_many=True,
    )


class S3Store(ObjectStore):
    """Objects in one bucket.

    Parameters
    ----------
    name
        The backend's name, as in results, logs and errors.
    bucket
        The bucket, which must exist.
    endpoint_url
        The service's URL; None for Amazon S3 itself.
    region
        The region to sign for.
    access_key_id, secret_access_key, session_token
        The credentials; never shown. A temporary key has a token, too.
    prefix
        Leading segments of all stored names; callers do not see them.
    profile
        The properties of the provider.
    timeout
        Longest time in seconds without a byte moved.
    max_concurrency
        Parts of one object sent at once.
    ca_bundle
        A PEM file of the authorities to trust instead of the system's.
    addressing
        ``"path"`` or ``"virtual"``: whether the bucket's name is in the path of a URL or in its host's name. By
        default in the path where there is an `endpoint_url`; for Amazon S3 itself in the host's name, unless the
        name has dots.
    page_size
        MaxKeys of a listing; the default, 1,000, is the services' limit.
    records
        ``"inside"``: an object's record is in its metadata; ``"beside"``: an object of its own, for a service that
        does not keep user metadata.

    Raises
    ------
    ConfigError
        When `endpoint_url` is not a plain web address, or a number is not above zero.
    ValueError
        When `prefix` cannot be the beginning of a key.
    """

    def __init__(
        self,
        name: str,
        *,
        bucket: str,
        endpoint_url: str | None = None,
        region: str,
        access_key_id: str,
        secret_access_key: str,
        session_token: str | None = None,
        prefix: str = "",
        profile: Profile = GENERIC,
        timeout: float = DEFAULT_TIMEOUT,
        max_concurrency: int = DEFAULT_CONCURRENCY,
        ca_bundle: str | None = None,
        addressing: Addressing | None = None,
        page_size: int = PAGE_SIZE,
        records: Records = "inside",
    ) -> None:
        check_positive(name, timeout=timeout, max_concurrency=max_concurrency, page_size=page_size)
        super().__init__(name, timeout=timeout)
        check_addressing(name, addressing)
        self.endpoint_url = check_endpoint(name, endpoint_url)
        self.bucket = bucket
        self.max_concurrency = max_concurrency
        settings = Settings(
            endpoint_url,
            bucket,
            region,
            Secret(access_key_id),
            Secret(secret_access_key),
            Secret(session_token) if session_token else None,
            timeout,
            ca_bundle,
            addressing,
        )
        account = hashlib.sha256(access_key_id.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._identity = f"{endpoint_url or region}/{bucket} {account}"
        folder = f"{encode_key(check_prefix(prefix)).removesuffix('/')}/" if prefix else ""
        self._control = Control(settings, USER_AGENT)
        self._bucket = Bucket(name, settings, folder, profile, page_size)
        limit = METADATA_LIMIT if records == "inside" else 0
        #: By whether a create-only write is atomic: they are asked for many times for each object.
        self._can = {atomic: _capabilities(profile, atomic, limit) for atomic in (False, True)}

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # depends on the provider, not on the class
        """What this provider can do; `conditional_create` turns False when the service refuses the condition."""
        profile, bucket = self._bucket.profile, self._bucket
        return self._can[
            (profile.condition == "atomic" and not bucket.refuses_condition)
            or (profile.removes_versions and bucket.keeps_versions)
        ]

    @property
    def location(self) -> str:
        """Where the objects are, as ``r2://bucket/prefix at https://...``."""
        path = f"{self._bucket.profile.scheme}://{self.bucket}/{self._bucket.prefix}".removesuffix("/")
        return f"{path} at {self.endpoint_url}" if self.endpoint_url else path

    def address(self, name: str) -> str:
        """Return where an object is; R2, B2 and plain S3 are the same service where their endpoint is the same."""
        return f"{self._place}{self._bucket.prefix}{name}"

    @property
    def identity(self) -> str:
        """The endpoint, the bucket and a hash of the key's id."""
        return self._identity

    @property
    def filesystem(self) -> Any:
        """The ``s3fs.S3FileSystem``, ready for synchronous use."""
        return self._control.filesystem

    @property
    def clock_skew(self) -> float | None:
        """Seconds by which this machine's clock is ahead of the service's."""
        return self._bucket.clock_skew

    async def stat(self, name: str) -> ObjectStat | None:
        """Send one HEAD; for the first missing key also check that the bucket exists."""
        info = await self._bucket.head(name)
        return None if info is None else info.stat(name, info.size or 0)

    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> bytes:
        """Send one GET (for an empty range one HEAD)."""
        return b"".join(await self._read(name, start, end, on_progress))

    async def read_buffers(
        self,
        name: str,
        start: int,
        end: int,
        *,
        on_progress: Callable[[int], None] | None = None,
        buffers: Buffers | None = None,
    ) -> list[bytes]:
        """Send one GET, and return the buffers into which the bytes were read."""
        return await self._read(name, start, end, on_progress, buffers)

    async def stat_and_read(
        self, name: str, end: int, *, on_progress: Callable[[int], None] | None = None
    ) -> tuple[ObjectStat, list[bytes]] | None:
        """Send one GET; for an empty object, which has no range, also a HEAD."""
        try:
            found = await self._bucket.open(name, end, on_progress or (lambda _: None))
        except ObjectNotFoundError:
            return None
        if found is None:
            stat = await self.stat(name)
            return None if stat is None else (stat, [])
        info, buffers = found
        return info.stat(name, info.size or 0), buffers

    async def _read(
        self,
        name: str,
        start: int,
        end: int | None,
        on_progress: Callable[[int], None] | None,
        buffers: Buffers | None = None,
    ) -> list[bytes]:
        if end is not None and start >= end:  # HTTP has no empty range, but the object must exist
            if await self._bucket.head(name, "read") is None:
                raise self._bucket.context("read", name).error(ObjectNotFoundError, "no such key")
            return [b""]
        limit = MAX_RECORD if end is None and name.startswith(META_PREFIX) else None
        return await self._bucket.get(name, start, end, on_progress or (lambda _: None), limit, buffers)

    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> ObjectWriter:
        """Return a writer; it calls `on_progress` with 0 while bytes are sent again."""
        return S3Writer(self._bucket, name, plan, on_progress, self.max_concurrency)

    def shares_place(self, origin: ObjectStore) -> bool:
        """Tell whether the other store is of the same bucket of the same service."""
        return isinstance(origin, S3Store) and origin._place == self._place

    def copier(
        self, name: str, plan: WritePlan, origin: ObjectStore, stat: ObjectStat, etag: str
    ) -> ObjectWriter | None:
        """Return a writer that makes one CopyObject, or one UploadPartCopy for each part."""
        if not isinstance(origin, S3Store) or not self.shares_place(origin):
            return None
        source = replace(stat, name=origin._bucket.prefix + stat.name)
        return S3Copier(self._bucket, name, plan, source, etag, self.max_concurrency)

    @cached_property
    def _place(self) -> str:
        service = (self.endpoint_url or "https://s3.amazonaws.com").lower().rstrip("/")
        return f"{service}/{self.bucket}/"

    async def replace_metadata(self, stat: ObjectStat, metadata: Mapping[str, str]) -> ObjectStat:
        """Copy the object onto itself, in one request up to 5 GiB."""
        return await replace_metadata(self._bucket, stat, metadata)

    def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        """Send one ListObjectsV2 per page of 1,000."""
        return list_objects(self._bucket, prefix, start_after)

    def list_level(self, prefix: str = "", limit: int | None = None) -> AsyncIterator[ObjectStat]:
        """Send one ListObjectsV2 with a delimiter per page of 1,000 entries.

        A server that keeps objects in directories may also show one that is empty: of a server that is not known
        to do without, all names are listed.
        """
        if self._bucket.profile.lists_in_order:
            return list_level(self._bucket, prefix, limit)
        return (
            list_beginning(self._bucket, prefix, limit) if limit and prefix else super().list_level(prefix, limit)
        )

    async def remove(self, name: str) -> None:
        """Send one DELETE, or one per version where the bucket keeps versions."""
        await remove_object(self._bucket, name)

    async def remove_version(self, stat: ObjectStat) -> None:
        """Remove the version of `stat` and older ones in a bucket that keeps versions, else what has its ETag."""
        await remove_object(self._bucket, stat)

    async def remove_many(self, removals: Sequence[ObjectStat | str]) -> Sequence[FsbackupError | None]:
        """Send one DeleteObjects for 1,000 objects, and before it about one listing."""
        return await remove_objects(self._bucket, removals)

    def orphans(self, older_than: float) -> AsyncIterator[Orphan]:
        """Yield unfinished multipart uploads of fsbackup; those of other programs have no note."""
        return list_orphans(self._bucket, older_than)

    async def delete_orphan(self, orphan: Orphan) -> None:
        """Abort the upload and remove its note or record."""
        await delete_orphan(self._bucket, orphan)

    async def info(self) -> BackendInfo:
        """Return the service's clock, and the bucket's versioning, lifecycle rules and unfinished uploads."""
        return await service_info(self._bucket)

    async def close(self) -> None:
        """Close the connections."""
        self._bucket.close()
        await self._control.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.location!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an S3 store holds credentials and cannot be pickled; create it again from the configuration"
        )
