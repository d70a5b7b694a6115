"""The contract of names: every key is stored under its own name, also with special characters."""

from __future__ import annotations

from fsbackup.keys import encode_key
from fsbackup.loop import run
from fsbackup.testing.driving import Contract, list_names
from fsbackup.testing.place import ObjectPlace

#: Keys that are special in shells, URLs, globs, XML, Unicode or clients.
ODD_KEYS = (
    "a b",
    " lead and trail ",
    "a+b",
    "100%",
    "%20",
    "%2F",
    "a%2Fb",
    "a#b",
    "a?b",
    "x?versionId=7",
    "x?y=1&z=2",
    "a*",
    "[1]",
    "a[!b]",
    "{a,b}",
    "back\\slash",
    "a::b",
    "c:/d",
    "~",
    "~root/x",
    "$HOME",
    "-rf",
    "'single'",
    '"double"',
    "`tick`",
    "<a>&amp;</a>",
    "a;b|c",
    "a=b,c@d",
    "(a)^b",
    "...",
    "..a/b..",
    "d/.hidden",
    "dir.with.dots/x.tar.gz",
    "caf\u00e9",
    "cafe\u0301",
    "\u65e5\u672c\u8a9e/\u540d",
    "\U0001f4e6 box",
    "\u202eright-to-left",
    "\ufb01ligature",
    "A",
    "a",
    "not-utf8-\udcff\udcfe",
    "x" * 240,
    "x" * 1000,
    "/".join(["y" * 99] * 9),
)


class NamingContract(Contract):
    """An object is stored under its own name and no other."""

    def test_odd_keys_round_trip(self, place: ObjectPlace) -> None:
        """An oddly named object can be written, seen, read, listed and removed, and stands alone."""
        for key in ODD_KEYS:
            name = encode_key(key)
            run(place.store.put(name, b"odd"))
            assert (place.raw.names(), place.raw.get(name)) == ({name}, b"odd"), f"{key!r} was not written"
            found = run(place.store.stat(name))
            assert found is not None, f"{key!r} is not found"
            assert (found.name, run(place.store.read(name))) == (name, b"odd"), f"{key!r} is not read"
            assert run(list_names(place.store.list())) == [name], f"{key!r} is not listed"
            run(place.store.remove(name))
            assert place.raw.names() == set(), f"{key!r} was not removed"

    def test_odd_keys_side_by_side(self, place: ObjectPlace) -> None:
        """Names that look alike are different objects, and removing one leaves all others."""
        names = {encode_key(key) for key in ODD_KEYS}
        assert len(names) == len(ODD_KEYS)
        for name in names:
            place.raw.put(name, name.encode())
        assert run(list_names(place.store.list())) == sorted(names, key=str.encode)
        for name in sorted(names):
            assert run(place.store.read(name)) == name.encode(), f"{name!r} is not read"
            run(place.store.remove(name))
            names.remove(name)
            assert place.raw.names() == names, f"after the removal of {name!r}"
