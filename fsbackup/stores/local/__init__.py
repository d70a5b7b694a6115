"""Objects as plain files in a directory of this machine: temp file, fsync, rename; no link is ever followed."""

from fsbackup.stores.local.store import LocalStore

__all__ = ["LocalStore"]
