"""How large the last object of a series is: a dump that is suddenly much smaller is said, or not stored at all."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fsbackup.engine import records
from fsbackup.errors import FsbackupError, SourceError
from fsbackup.keys import decode_name, encode_key
from fsbackup.loop import run
from fsbackup.retention.series import series_of
from fsbackup.stages.plaintext import Recorded

if TYPE_CHECKING:
    from fsbackup.config import JobConfig
    from fsbackup.engine.source import CheckSize
    from fsbackup.replication.storage import ReplicatedStorage
    from fsbackup.stores.base import ObjectStore

log = logging.getLogger("fsbackup.jobs")

#: What a series of keys has in place of its first time.
_NOW = "\0{now:"


class LastOfSeries:
    """The newest object of each series, by what one replica lists: the first in reading order that can be listed.

    Parameters
    ----------
    store
        The set.
    destination
        The template whose ``{now}`` makes the series.
    is_staged
        Whether the sizes before compression and encryption are meant, which only the records have.
    """

    def __init__(self, store: ReplicatedStorage, destination: str, *, is_staged: bool = False) -> None:
        self._is_staged = is_staged
        self._stores = list(store.replica_set.stores)
        self._destination = (destination,)
        #: By what the keys of a series begin with: (time, key, size) of the two newest objects of each.
        self._listed: dict[str, dict[str, list[tuple[float, str, int]]]] = {}

    def size_before(self, key: str) -> int | None:
        """Return the size of the newest other object of the series of `key`, None when there is none."""
        series = series_of(key, None, self._destination)
        if not isinstance(series, str):
            return None
        prefix = series[: series.index(_NOW)].rpartition("/")[0]
        if prefix not in self._listed:
            self._listed[prefix] = run(self._list(prefix))
        others = [each for each in self._listed[prefix].get(series, ()) if each[1] != key]
        if not others:
            return None
        _, last, size = max(others)
        return run(self._plain_size(last)) if self._is_staged else size

    async def _plain_size(self, key: str) -> int | None:
        """Return the bytes of the source of an object, None where the record of the replica does not say."""
        if not self._stores:
            return None
        state = await records.query(self._stores[0], key, with_data=False)
        recorded = Recorded.of(state.manifest)
        return None if recorded is None else recorded.size

    async def _list(self, prefix: str) -> dict[str, list[tuple[float, str, int]]]:
        while self._stores:
            try:
                return await self._list_one(self._stores[0], prefix)
            except FsbackupError as error:
                log.debug("sizes of former backups are not known: %s", error)
                del self._stores[0]  # it is not waited for again
        return {}

    async def _list_one(self, store: ObjectStore, prefix: str) -> dict[str, list[tuple[float, str, int]]]:
        newest: dict[str, list[tuple[float, str, int]]] = {}
        async for stat in store.list(encode_key(prefix) + "/" if prefix else ""):
            key = decode_name(stat.name)
            series = None if key is None else series_of(key, None, self._destination)
            if key is not None and isinstance(series, str):
                found = (stat.modified or 0.0, key, stat.size)
                newest[series] = sorted([*newest.get(series, ()), found])[-2:]
        return newest


def refusal_of(path: str, key: str, last: LastOfSeries | None, job: JobConfig) -> CheckSize | None:
    """Return what refuses `path` when it is much smaller than the last of its series; None where nothing does."""
    before = last.size_before(key) if last is not None and job.refuses_shrunk else None
    if before is None:
        return None

    def check(size: int) -> None:
        if size < before * job.shrink_below:
            raise SourceError(
                f"{path}: {size:,} bytes are less than {job.shrink_below:.0%} of the {before:,} of the last of "
                "its series; nothing was stored",
                hint="check what wrote it; if it is right, store it with `fsbackup put`: then it is the measure",
            )

    return check
