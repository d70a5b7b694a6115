"""The fan-out: one source on its way into several stores at once, each with its own pace and its own result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from fsbackup import __version__
from fsbackup.errors import FsbackupError, SourceError
from fsbackup.manifest import Manifest
from fsbackup.objects import ObjectStore
from fsbackup.sizing import part_count
from fsbackup.transfer.lane import StoreLane, as_backend_error
from fsbackup.transfer.memory import give_back_parts
from fsbackup.transfer.records import Finding
from fsbackup.transfer.source import Source
from fsbackup.transfer.together import all_or_none
from fsbackup.transfer.window import Lane, PartWindow, in_flight, slots


class Settle(Protocol):
    """Hears how one store fared: its error, None when it has the object, and the bytes sent to it."""

    def __call__(self, finding: Finding, error: FsbackupError | None, *, sent: int) -> None: ...


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
            give_back_parts()
        md5 = any(store.capabilities.wants_md5 for store in stores)
        self._slots = slots(memory, part_size, len(stores))
        self.window = PartWindow(source, part_size, slots=self._slots, md5=md5, on_read=on_read)

    async def run(self, lanes: Sequence[StoreLane], proven: Callable[[], Manifest], settle: Settle) -> None:
        """Deliver everything to every lane; only the source's own failure is raised.

        Raises
        ------
        SourceError
            When the source cannot be read to its end; nothing is committed then.
        """
        # All have their place before the first part is read: a part stays for those that still want it.
        places = [self.window.lane() for _ in lanes]
        pairs = zip(lanes, places, strict=True)
        await all_or_none([self._run_lane(*pair, len(lanes), proven, settle) for pair in pairs])

    async def _run_lane(
        self, lane: StoreLane, place: Lane, lanes: int, proven: Callable[[], Manifest], settle: Settle
    ) -> None:
        try:
            await lane.deliver(self.window, place, self._workers(lane, lanes), proven)
        except SourceError:
            await lane.abort()
            raise
        except Exception as error:  # noqa: BLE001 - one store's failure is its result, never another's
            await lane.abort()
            settle(lane.finding, as_backend_error(error, lane.store.name, self._key), sent=lane.bytes_sent)
        except BaseException:
            await lane.abort()
            raise
        else:
            settle(lane.finding, None, sent=lane.bytes_sent)

    def _workers(self, lane: StoreLane, lanes: int) -> int:
        """Return how many parts the lane may have in flight; no more than there are."""
        most = in_flight(lane.writer.concurrency, lanes, self._slots)
        return most if self._source.size is None else min(most, part_count(self._source.size, self._part_size))


def tags(mtime_ns: int | None, sha256: str | None) -> dict[str, str]:
    """Return what the object itself is tagged with: its hash where it is known before the first byte."""
    found = {"fsbackup-version": __version__}
    if mtime_ns is not None:
        found["mtime"] = f"{mtime_ns / 1e9:.9f}"
    return {**found, "sha256": sha256} if sha256 else found
