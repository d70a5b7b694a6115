"""Objects in any filesystem that fsspec reaches, through one connection in one thread."""

from fsbackup.stores.generic.store import GenericStore

__all__ = ["GenericStore"]
