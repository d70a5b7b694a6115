"""Examining backends side by side: each by itself, and nobody waits for another's silence."""

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
    """Find out what each backend can do: connect, list, write, read, delete, and what it says of itself.

    Parameters
    ----------
    backends
        Single backends; of a set, each of its backends is examined. The same one is examined once.

    Returns
    -------
    list of Diagnosis
        One for each, in their order. Never raises for what a service did.

    Notes
    -----
    Writes one object of some fifty bytes, ``.fsbackup/doctor-<random>``, reads it, tries to create it again, and
    removes it, also after Ctrl-C; nothing else is touched. A backend that does not answer costs its own timeout
    and holds up no other.
    """
    stores = dict.fromkeys(store for backend in backends for store in backend.replica_set.stores)
    return run(_examine(list(stores)))


async def _examine(stores: Sequence[ObjectStore]) -> list[Diagnosis]:
    found: dict[ObjectStore, Diagnosis] = {}

    async def one(store: ObjectStore) -> None:
        started = time.monotonic()
        findings = await Probe(store).run()
        seconds = time.monotonic() - started
        lines = tuple(checks(store, findings))
        found[store] = Diagnosis(store.name, store.location, lines, seconds, findings.left_behind)

    await run_all([one(store) for store in stores])
    return [found[store] for store in stores]
