"""What the local and the generic store share: the order of names, the names of temp files, permission bits.

Both keep objects as files below a base directory, write a temp file beside the target and rename it. No I/O.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from fsbackup import keys
from fsbackup.stores.base import Orphan

#: Permission bits of a file without a source's mode: a backup may hold anything, so only its owner reads it.
DEFAULT_MODE = 0o600
#: `Orphan.description` of a temp file.
TEMP_FILE = "temp file of an unfinished write"

#: Left by macOS, Windows, Synology, and by NFS for a removed file that is open; directories end with a slash.
_STRANGER = re.compile(
    rb"\.DS_Store|\._.*|\.AppleDouble/|\.Spotlight-V100/|\.fseventsd/|\.Trashes/|\.Trash-[0-9]+/"
    rb"|Thumbs\.db|desktop\.ini|@eaDir/|#recycle/|\.nfs[0-9a-f]{16,}",
    re.DOTALL,
)

#: A path that ends with a name as `temp_name` returns it; no object has such a name.
_TEMP_PATH = re.compile(rf"(?:.*/)?\.[0-9a-f]{{32}}{re.escape(keys.TEMP_SUFFIX)}", re.DOTALL)


def to_bytes(name: str) -> bytes:
    """Return a name as the bytes it is ordered by and stored under."""
    return name.encode("utf-8", "surrogateescape")


def to_name(data: bytes) -> str:
    """Return the name whose bytes are `data`; bytes that are not UTF-8 become surrogates."""
    return data.decode("utf-8", "surrogateescape")


def split_name(name: str) -> list[bytes]:
    """Return the segments of an object's name as bytes.

    Raises
    ------
    ValueError
        For a name that leads out of the base directory or that no file can have.
    """
    segments = to_bytes(name).split(b"/")
    if any(_is_dots(segment) or b"\0" in segment for segment in segments):
        raise ValueError(f"{name!r} is not the name of an object")
    return segments


def _is_dots(segment: bytes) -> bool:
    return segment in (b"", b".", b"..")


def permissions(mode: int | None) -> int:
    """Return the permission bits for a new file; `mode` is the source's, None for a stream.

    Never setuid, setgid or sticky: whoever can write to one replica could otherwise make a restore by root leave a
    program that runs as root.
    """
    return DEFAULT_MODE if mode is None else mode & 0o777


def temp_name() -> str:
    """Return a new name for a temp file: unguessable, and never the name of an object."""
    return f".{secrets.token_hex(16)}{keys.TEMP_SUFFIX}"


def check_temp(orphan: Orphan) -> str:
    """Return the name of a temp file.

    Raises
    ------
    ValueError
        When it is not the name of a temp file.
    """
    if not _TEMP_PATH.fullmatch(orphan.name):
        raise ValueError(f"{orphan.name!r} is not a temp file of an unfinished write")
    return orphan.name


def may_be_stranger(path: bytes, segment: bytes) -> bool:
    """Tell whether an operating system leaves a file or directory of this name everywhere.

    It is an object all the same where it has a manifest, because it was backed up. `path` is the directory that it
    is in: among the manifests there are those of such objects.
    """
    if path.startswith(keys.META_PREFIX.encode()):
        return segment.startswith(b".nfs") and _STRANGER.fullmatch(segment) is not None
    return _STRANGER.fullmatch(segment) is not None


def has_strangers_name(key: str) -> bool:
    """Tell whether an operating system leaves things of this name, or in a directory of this name, everywhere.

    A bucket's listing cannot tell whether it was backed up: that is asked of the object.
    """
    *directories, last = to_bytes(key).split(b"/")
    return any(map(_STRANGER.fullmatch, [*(b"%b/" % each for each in directories), last]))


@dataclass(frozen=True, slots=True)
class NameFilter:
    """Selects the names that start with `prefix` and sort after `start_after`; directories end with a slash.

    A listing uses it to skip whole directories without opening them.
    """

    prefix: bytes
    start_after: bytes

    @classmethod
    def for_listing(cls, prefix: str, start_after: str) -> NameFilter:
        """Return the filter for the arguments of `ObjectStore.list`."""
        return cls(to_bytes(prefix), to_bytes(start_after))

    @property
    def deepest_directory(self) -> bytes:
        """The deepest directory that contains every selected name, with its slash; empty for the base."""
        return self.prefix[: self.prefix.rfind(b"/") + 1]

    @property
    def is_empty(self) -> bool:
        """Whether no object can match: the prefix has an empty, ``.`` or ``..`` directory."""
        return any(_is_dots(segment) for segment in self.deepest_directory.split(b"/")[:-1])

    def matches(self, name: bytes) -> bool:
        """Tell whether the object `name` belongs into the listing."""
        temp = name.endswith(keys.TEMP_SUFFIX.encode())
        return name.startswith(self.prefix) and name > self.start_after and not temp

    def may_contain(self, directory: bytes) -> bool:
        """Tell whether objects below `directory` may belong into the listing."""
        if directory == keys.META_PREFIX.encode() and not self.prefix.startswith(directory[:-1]):
            return False
        related = directory.startswith(self.prefix) or self.prefix.startswith(directory)
        return related and (directory > self.start_after or self.start_after.startswith(directory))


class _TempFileFilter(NameFilter):
    def matches(self, name: bytes) -> bool:
        return _TEMP_PATH.fullmatch(to_name(name)) is not None

    def may_contain(self, directory: bytes) -> bool:  # noqa: ARG002 - records are written through temp files too
        return True


#: Selects the temp files that every other filter leaves out.
ALL_TEMP_FILES = _TempFileFilter(b"", b"")
