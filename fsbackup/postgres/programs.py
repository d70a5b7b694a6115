"""PostgreSQL's own programs: how they are called, and what they say."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from fsbackup.errors import SourceError

#: Seconds after which a server that was asked something small does not answer.
_TIMEOUT = 60.0
#: Seconds after which one that need not be there counts as away.
_SOON = 10.0
#: Where the reason is when PostgreSQL archives nothing.
SERVERS_LOG = "its reason is in the server's log; archive_command runs in the server's environment, not in yours"


def in_english(arguments: Sequence[str]) -> list[str]:
    """Return a command whose messages are not translated, so that they can be read by a program."""
    return ["env", "LC_ALL=C", *arguments]


def run_program(*arguments: str, timeout: float = _TIMEOUT) -> str:
    """Return what a program writes to standard output.

    Raises
    ------
    SourceError
        When there is no such program, or it fails; with the last two lines of its standard error.
    """
    try:
        done = subprocess.run(
            in_english(arguments), stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise SourceError(f"{arguments[0]}: no answer within {timeout:g} s") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        hint = "install PostgreSQL's client programs, or put them on the PATH" if done.returncode == 127 else None
        said = " ".join(line.strip() for line in lines[-2:]) or f"exit code {done.returncode}"
        own_name = f"{os.path.basename(arguments[0])}: "
        raise SourceError(f"{arguments[0]}: {said.removeprefix(own_name)}", hint=hint)
    return done.stdout.decode(errors="replace")


def connection(conninfo: str | None, *, replication: bool = False) -> list[str]:
    """Return the arguments with which a program connects; libpq's environment says what is left out."""
    wanted = "replication=true" if replication else ""
    if conninfo and "://" in conninfo:
        joint = "&" if "?" in conninfo else "?"
        return ["-d", f"{conninfo}{joint}{wanted}" if wanted else conninfo]
    text = " ".join(filter(None, [conninfo, wanted]))
    return ["-d", text] if text else []


def archives(conninfo: str | None) -> bool:
    """Return whether a server says that it archives; False where nobody tells, as in `tablespaces`."""
    try:
        said = run_program("psql", *connection(conninfo), "-wAtX", "-c", "show archive_mode", timeout=_SOON)
    except SourceError:
        return False
    return said.strip() in ("on", "always")


def tablespaces(conninfo: str | None) -> dict[str, str]:
    """Return the tablespaces of a cluster that have a directory of their own, by name; none where nobody tells.

    A user who may only replicate, or a server that is away, does not tell.
    """
    query = (
        "select spcname, pg_tablespace_location(oid) from pg_tablespace where pg_tablespace_location(oid) <> '' "
        "order by 1"
    )
    try:
        said = run_program("psql", *connection(conninfo), "-wAtX", "-F", "\t", "-c", query, timeout=_SOON)
    except SourceError:
        return {}
    return dict(line.split("\t", 1) for line in said.splitlines() if "\t" in line)
