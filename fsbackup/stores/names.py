"""Which names a listing is asked for, so that whole directories outside of it are never opened. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fsbackup import keys


def to_bytes(name: str) -> bytes:
    """Return a name as the bytes it is ordered by and stored under."""
    return name.encode("utf-8", "surrogateescape")


def to_name(data: bytes) -> str:
    """Return the name whose bytes are `data`; bytes that are not UTF-8 become surrogates."""
    return data.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class NameFilter:
    """The names that start with `prefix` and sort after `start_after`, as bytes. Directories end with a slash."""

    prefix: bytes
    start_after: bytes

    @classmethod
    def for_listing(cls, prefix: str, start_after: str) -> NameFilter:
        """Return the window of a listing's arguments."""
        return cls(to_bytes(prefix), to_bytes(start_after))

    @property
    def deepest_directory(self) -> bytes:
        """The deepest directory that holds all of it, with its slash; empty for the base."""
        return self.prefix[: self.prefix.rfind(b"/") + 1]

    def matches(self, name: bytes) -> bool:
        """Tell whether an object of this name belongs into the listing."""
        temp = name.endswith(keys.TEMP_SUFFIX.encode())
        return name.startswith(self.prefix) and name > self.start_after and not temp

    def may_contain(self, directory: bytes) -> bool:
        """Tell whether objects below `directory` may belong into the listing."""
        if directory == keys.META_PREFIX.encode() and not self.prefix.startswith(directory[:-1]):
            return False
        related = directory.startswith(self.prefix) or self.prefix.startswith(directory)
        return related and (directory > self.start_after or self.start_after.startswith(directory))
