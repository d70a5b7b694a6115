"""Examines backends at once; one that does not answer holds up no other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from fsbackup.aio import run_all
from fsbackup.backends.base import StorageBackend
from fsbackup.loop import run
from fsbackup.replication.doctor.checks import checks
from fsbackup.replication.doctor.probe import Probe, ProbeResult
from fsbackup.replication.doctor.report import Diagnosis
from fsbackup.stores.base import ObjectStore


def diagnose(backends: Iterable[StorageBackend]) -> list[Diagnosis]:
    """Find out what each backend can do: connect, list, write, read, delete, and what is worth knowing about it.

    Parameters
    ----------
    backends
        Single backends, or sets, whose backends are all examined; each backend is examined once.

    Returns
    -------
    list of Diagnosis
        One for each backend, in order. An error of a service is in the diagnosis, and never raised.

    Notes
    -----
    Writes one object of some fifty bytes, ``.fsbackup/doctor-<random>``, reads it, tries to create it again, and
    deletes it, also after Ctrl-C; nothing else is changed. Reads the record of the object stored last. A backend
    of a set that is empty while others are not fails, and nothing is written to it. A backend that does not answer
    costs its own timeout.
    """
    stores = dict.fromkeys(store for backend in backends for store in backend.replica_set.stores)
    return run(_diagnose_all(list(stores)))


async def _diagnose_all(stores: Sequence[ObjectStore]) -> list[Diagnosis]:
    found: dict[ObjectStore, tuple[ProbeResult, float]] = {}

    async def probe(store: ObjectStore) -> None:
        started = time.monotonic()
        result = await Probe(store).run()
        found[store] = result, time.monotonic() - started

    await run_all([probe(store) for store in stores])
    ids = {store: result.mark.id for store, (result, _) in found.items() if result.mark is not None}
    return [_diagnosis(store, *found[store], _namesakes(store, ids)) for store in stores]


def _diagnosis(store: ObjectStore, result: ProbeResult, seconds: float, namesakes: Sequence[str]) -> Diagnosis:
    found = tuple(checks(store, result, namesakes))
    return Diagnosis(store.name, store.location, found, seconds, result.left_behind)


def _namesakes(store: ObjectStore, ids: Mapping[ObjectStore, str | None]) -> list[str]:
    """Return the names of the other backends whose markers have the id of that of `store`."""
    own = ids.get(store)
    return [] if own is None else [other.name for other, each in ids.items() if each == own and other is not store]
