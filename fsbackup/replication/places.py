"""Whether another process sees the same places: a path or an address may mean another one on another machine.

Worked on from the wrong machine, a disk that is only there under the same path would look empty, and be filled.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fsbackup.errors import ConfigError, FsbackupError
from fsbackup.replication.walk import Unreachable
from fsbackup.stores.base import ObjectStore

#: Names of each backend that are looked for: several, since one may be removed meanwhile.
_NAMES = 3


@dataclass(frozen=True, slots=True)
class Place:
    """One backend as the machine that walks sees it: its name, its location, some names it lists, the machine."""

    backend: str
    location: str
    names: tuple[str, ...]
    machine: str


async def look(stores: Sequence[ObjectStore], away: Unreachable) -> tuple[tuple[Place, ...], Unreachable]:
    """Return what the backends list first, and why others cannot be listed; who is `away` is not asked."""
    found: list[Place] = []
    errors = dict(away)

    async def visit(store: ObjectStore) -> None:
        try:
            found.append(Place(store.name, store.location, await _first_names(store), this_machine()))
        except FsbackupError as error:
            errors[store.name] = error

    await asyncio.gather(*(visit(store) for store in stores if store.name not in away))
    return tuple(sorted(found, key=lambda place: place.backend)), errors


async def compare(stores: Sequence[ObjectStore], places: Sequence[Place]) -> None:
    """Make sure that this machine sees the places that another one saw.

    Raises
    ------
    ConfigError
        When it does not, or when nothing proves it. A backend that cannot be asked from here is not an error:
        nothing is known of it then, and nothing is done there.
    """
    known = {store.name: store for store in stores}
    if not known.keys() >= {place.backend for place in places}:
        raise ConfigError("the set has other backends here", hint="give every worker the same configuration file")
    await asyncio.gather(*(_compare(known[place.backend], place) for place in places))


async def _compare(store: ObjectStore, place: Place) -> None:
    if place.machine == this_machine() and place.location == store.location:
        return
    if place.location != store.location:
        raise _elsewhere(store, place, f"it is {place.location} there")
    if not place.names:
        if store.capabilities.is_shared:
            return
        raise _elsewhere(store, place, "it is empty, so that nothing shows whether it is the same one")
    try:
        seen = [await store.stat(name) for name in place.names]
    except FsbackupError:
        return
    if not any(seen):
        raise _elsewhere(store, place, "nothing that is listed there is here")


def _elsewhere(store: ObjectStore, place: Place, why: str) -> ConfigError:
    return ConfigError(
        f"{store.location} seems to be another place than on {place.machine.partition('/')[0]}: {why}",
        backend=store.name,
        hint="let every worker see the same place, or run this without a cluster",
    )


async def _first_names(store: ObjectStore) -> tuple[str, ...]:
    names: list[str] = []
    async with aclosing(store.list("")) as listing:  # type: ignore[type-var]  # all of them are generators
        async for stat in listing:
            names.append(stat.name)
            if len(names) == _NAMES:
                break
    return tuple(names)


@cache
def this_machine() -> str:
    """Return what tells this machine, or container, from others: its name, and where known this run of it."""
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}/{boot}"
