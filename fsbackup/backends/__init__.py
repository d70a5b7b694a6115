"""The storage backends: `upload`, `download`, `exists`, `delete` and `get_size`, written once over object stores.

`base.StorageBackend` implements the five methods over a `ReplicaSet`. `base.SingleBackend` is such a set of one
store; `LocalStorage`, `S3Storage`, `CloudflareR2Storage`, `BackblazeB2Storage` and `GenericStorage` only choose
the store. Each is loaded on first use: a local backup needs no S3 client. `fsbackup.replication.storage` builds a
set of several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsbackup.lazy import names_of

if TYPE_CHECKING:
    from fsbackup.backends.base import ErrorMode, SingleBackend, StorageBackend
    from fsbackup.backends.generic import GenericStorage
    from fsbackup.backends.local import LocalStorage
    from fsbackup.backends.s3 import BackblazeB2Storage, CloudflareR2Storage, S3Backend, S3Storage

_MODULES = {
    "BackblazeB2Storage": "fsbackup.backends.s3",
    "CloudflareR2Storage": "fsbackup.backends.s3",
    "ErrorMode": "fsbackup.backends.base",
    "GenericStorage": "fsbackup.backends.generic",
    "LocalStorage": "fsbackup.backends.local",
    "S3Backend": "fsbackup.backends.s3",
    "S3Storage": "fsbackup.backends.s3",
    "SingleBackend": "fsbackup.backends.base",
    "StorageBackend": "fsbackup.backends.base",
}

__all__ = [
    "BackblazeB2Storage",
    "CloudflareR2Storage",
    "ErrorMode",
    "GenericStorage",
    "LocalStorage",
    "S3Backend",
    "S3Storage",
    "SingleBackend",
    "StorageBackend",
]

__getattr__ = names_of(__name__, _MODULES)
