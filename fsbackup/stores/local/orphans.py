"""Temp files of writes that never ended. Blocking."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from fsbackup import keys
from fsbackup.stores.base import Orphan
from fsbackup.stores.local.directory import SafeDirectory, lstat_object, split_name
from fsbackup.stores.local.listing import DirectoryListing
from fsbackup.stores.names import NameFilter

#: The names that our writers give, at the end of a path; no object has such a name.
_TEMP = re.compile(rf"(?:.*/)?\.[0-9a-f]{{32}}{re.escape(keys.TEMP_SUFFIX)}", re.DOTALL)


class _TempFiles(NameFilter):
    """The window that shows what all others hide."""

    def matches(self, name: bytes) -> bool:
        return is_temp(name.decode("utf-8", "surrogateescape"))

    def may_contain(self, directory: bytes) -> bool:  # noqa: ARG002 - records are written through temp files too
        return True


WHAT = "temp file of an unfinished write"
EVERYWHERE = _TempFiles(b"", b"")


def is_temp(name: str) -> bool:
    """Tell whether a name is that of a temp file of ours."""
    return _TEMP.fullmatch(name) is not None


def check_temp(leftover: Orphan) -> str:
    """Return the name of a temp file.

    Raises
    ------
    ValueError
        When it is not the name of one.
    """
    if not is_temp(leftover.name):
        raise ValueError(f"{leftover.name!r} is not a temp file of an unfinished write")
    return leftover.name


def find_temps(base: SafeDirectory, older_than: float) -> Iterator[Orphan]:
    """Yield the temp files in which nothing has changed for `older_than` seconds."""
    before = time.time() - older_than
    for item in DirectoryListing(base, EVERYWHERE).run():
        found = _examine(base, item.name)
        if found is not None and found.started <= before:
            yield found


def _examine(base: SafeDirectory, name: str) -> Orphan | None:
    segments = split_name(name)
    try:
        with base.opened(segments[:-1]) as directory:
            found = lstat_object(directory, segments)
    except FileNotFoundError:
        return None
    # Not the time of modification: just before its renaming, a file gets that of its source.
    return None if found is None else Orphan(name, found.st_ctime, found.st_size, WHAT)
