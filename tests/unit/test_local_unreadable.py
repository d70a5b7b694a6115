"""Permissions: what may not be read is an error, never an omission, and never "absent"."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fsbackup.errors import FsbackupError
from fsbackup.loop import run
from fsbackup.stores.local.store import LocalStore
from fsbackup.testing.driving import list_names

_NOBODY = 65534


def _outcome(work: Callable[[LocalStore], Awaitable[Any]], store: LocalStore) -> Any:
    async def scenario() -> Any:
        return await work(store)

    try:
        return run(scenario())
    except FsbackupError as error:
        return type(error).__name__


OPERATIONS: dict[str, Callable[[LocalStore], Awaitable[Any]]] = {
    "list all": lambda store: list_names(store.list()),
    "list secret": lambda store: list_names(store.list("secret/")),
    "list open": lambda store: list_names(store.list("open/")),
    "list after": lambda store: list_names(store.list(start_after="secret0")),
    "stat": lambda store: store.stat("secret/a"),
    "read": lambda store: store.read("secret/a"),
    "remove": lambda store: store.remove("secret/a"),
    "write": lambda store: store.put("secret/b", b"x"),
    "write below": lambda store: store.put("secret/new/b", b"x"),
    "read file": lambda store: store.read("open/secret"),
    "write fixed": lambda store: store.put("fixed/b", b"x"),
    "remove fixed": lambda store: store.remove("fixed/a"),
}


def main(base: str) -> None:
    """Print the outcome of every operation for a user who is not root."""
    store = LocalStore(base)
    run(list_names(store.list()))  # whatever is imported late is imported now, while it may be read
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    print(json.dumps({name: _outcome(work, store) for name, work in OPERATIONS.items()}))


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """Return a base with an unreadable directory, an unreadable file and a directory that may not be changed."""
    with tempfile.TemporaryDirectory() as root:
        made = Path(root)
        for name in ("secret/a", "open/a", "open/secret", "fixed/a"):
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_bytes(b"x")
        (made / "open" / "secret").chmod(0)
        modes = {"secret": 0, "fixed": 0o555, "open": 0o755, ".": 0o755}
        for name, mode in modes.items():
            (made / name).chmod(mode)
        yield made
        for name in modes:
            (made / name).chmod(0o700)


@pytest.fixture(scope="module")
def outcomes(base: Path) -> dict[str, Any]:
    """Return what each operation came to."""
    here = Path(__file__).parents[2]
    if os.getuid() != 0:  # then this process is such a user itself
        return {name: _outcome(work, LocalStore(base)) for name, work in OPERATIONS.items()}
    output = subprocess.run(
        [sys.executable, "-m", "tests.unit.test_local_unreadable", str(base)],
        check=True,
        stdout=subprocess.PIPE,
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here)},
    ).stdout
    found: dict[str, Any] = json.loads(output)
    return found


@pytest.mark.parametrize(
    "operation",
    [
        "list all",
        "list secret",
        "stat",
        "read",
        "remove",
        "write",
        "write below",
        "read file",
        "write fixed",
        "remove fixed",
    ],
)
def test_what_is_not_allowed_is_an_error(outcomes: dict[str, Any], operation: str) -> None:
    """A directory that may not be read or changed is `AccessDeniedError` for everything that has to."""
    assert outcomes[operation] == "AccessDeniedError"


def test_what_is_allowed_goes_on(outcomes: dict[str, Any]) -> None:
    """Listings that need not enter the unreadable directory are complete without it."""
    assert (outcomes["list open"], outcomes["list after"]) == (["open/a", "open/secret"], [])


def test_nothing_was_changed(base: Path, outcomes: dict[str, Any]) -> None:
    """What failed left nothing."""
    assert len(outcomes) == len(OPERATIONS)
    (base / "secret").chmod(0o700)
    left = sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())
    (base / "secret").chmod(0)
    assert left == ["fixed/a", "open/a", "open/secret", "secret/a"]


if __name__ == "__main__":
    main(sys.argv[1])
