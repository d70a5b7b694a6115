"""Refills the encrypted copies of identity keys: what one replica has of them, every other gets."""

from __future__ import annotations

from collections.abc import Sequence

from fsbackup.engine import identity_copies
from fsbackup.errors import FsbackupError
from fsbackup.replication.repair.report import Action, OnStep, Step
from fsbackup.replication.walk import Unreachable
from fsbackup.stores.base import ObjectStore


async def refill_keys(stores: Sequence[ObjectStore], on_step: OnStep, *, dry_run: bool) -> Unreachable:
    """Copy each to those that lack it, and return the replicas that cannot be listed."""
    listed, errors = await identity_copies.survey(stores)
    holders: dict[str, list[ObjectStore]] = {}
    for store, names in listed.items():
        for name in names:
            holders.setdefault(name, []).append(store)
    for name, having in sorted(holders.items()):
        for store in listed:
            if store not in having:
                on_step(await _refill(name, having, store, dry_run=dry_run))
    return errors


async def _refill(name: str, having: Sequence[ObjectStore], store: ObjectStore, *, dry_run: bool) -> Step:
    reason = f"{having[0].name} has this copy of an identity key"
    action = Action("refill key", name, store.name, reason)
    if dry_run:
        return Step(action, "planned")
    try:
        sent = await identity_copies.refill(name, having, store)
    except FsbackupError as error:
        return Step(action, "failed", str(error))
    return Step(action, "done", bytes_sent=sent)
