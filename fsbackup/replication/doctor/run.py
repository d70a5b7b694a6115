"""Examines backends at once; one that does not answer holds up no other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from fsbackup.aio import run_all
from fsbackup.backends import StorageBackend
from fsbackup.loop import run
from fsbackup.replication.doctor.checks import checks
from fsbackup.replication.doctor.probe import Probe
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
    that does not answer costs its own timeout.
    """
    stores = dict.fromkeys(store for backend in backends for store in backend.replica_set.stores)
    return run(_diagnose_all(list(stores)))


async def _diagnose_all(stores: Sequence[ObjectStore]) -> list[Diagnosis]:
    found: dict[ObjectStore, Diagnosis] = {}

    async def diagnose_one(store: ObjectStore) -> None:
        started = time.monotonic()
        result = await Probe(store).run()
        seconds = time.monotonic() - started
        found[store] = Diagnosis(
            store.name, store.location, tuple(checks(store, result)), seconds, result.left_behind
        )

    await run_all([diagnose_one(store) for store in stores])
    return [found[store] for store in stores]
