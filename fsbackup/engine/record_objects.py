"""One record that is an object of its own: a manifest, a tombstone or a write intent, read and checked."""

from __future__ import annotations

from typing import TypeVar

from fsbackup.errors import IntegrityError, NewerFormatError, ObjectNotFoundError
from fsbackup.record import Manifest, Record, Tombstone, load
from fsbackup.stores.base import ObjectStore

R = TypeVar("R", Manifest, Tombstone)


async def read(store: ObjectStore, key: str, name: str, kind: type[R]) -> tuple[R | None, bool]:
    """Return the valid record of `key` under `name`, or None, and whether there is a damaged one.

    A record of another key, as after files were moved by hand, or of another kind counts as damaged.

    Raises
    ------
    NewerFormatError
        When a newer version of fsbackup wrote it.
    """
    try:
        record = load_record(store, key, await store.read(name))
    except ObjectNotFoundError:
        return None, False
    except IntegrityError:
        return None, True
    return (record, False) if isinstance(record, kind) and record.key == key else (None, True)


def load_record(store: ObjectStore, key: str, data: bytes) -> Record:
    """Return the record in `data`, which may be of another key; raises as `fsbackup.record.load`."""
    try:
        return load(data)
    except NewerFormatError as error:
        raise NewerFormatError(
            error.message, backend=store.name, operation="stat", key=key, hint=error.hint
        ) from None


async def is_newer(store: ObjectStore, name: str) -> bool:
    """Return whether a newer version of fsbackup wrote the record that is stored under `name`."""
    try:
        load(await store.read(name))
    except NewerFormatError:
        return True
    except (IntegrityError, ObjectNotFoundError):
        return False
    return False
