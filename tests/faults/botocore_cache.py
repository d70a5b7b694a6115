"""botocore's service models read once per process: once per client, they would take half of a round's time."""

from __future__ import annotations

from functools import cache

import pytest
from botocore.loaders import JSONFileLoader, Loader


def cache_botocore_models(patch: pytest.MonkeyPatch) -> None:
    """Have every session of this process share what any of them has read."""
    read, names = cache(JSONFileLoader().load_file), cache(Loader().list_available_services)
    patch.setattr(JSONFileLoader, "load_file", lambda _, path: read(path))
    patch.setattr(Loader, "list_available_services", lambda _, type_name: names(type_name))
