"""What a command is, the arguments that several commands share, and what these arguments name."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from fsbackup.errors import ConfigError
from fsbackup.keys import check_key, check_prefix

if TYPE_CHECKING:
    from fsbackup.cli.progress import Display
    from fsbackup.config import Config, PostgresConfig
    from fsbackup.postgres.archive import Archive
    from fsbackup.replication.batches import Executor
    from fsbackup.replication.storage import ReplicatedStorage


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Parameters
    ----------
    name, summary
        Its line in `fsbackup --help`.
    description
        The text of `fsbackup NAME --help`.
    examples
        Shell command lines, without a prompt.
    add_arguments
        Adds its own arguments to its parser.
    execute
        Runs it, and returns the exit code.
    failure
        The exit code of every failure, also of a wrong command line, where the caller reads something else into
        the others.
    """

    name: str
    summary: str
    description: str
    examples: tuple[str, ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[Namespace], int]
    failure: int | None = None


def key(text: str) -> str:
    """Return `text` if it is a legal key: the type of an argument."""
    try:
        return check_key(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def prefix(text: str) -> str:
    """Return `text` if it is a legal prefix of keys: the type of an argument."""
    try:
        return check_prefix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seconds(value: str) -> float:
    """Return the seconds that a duration stands for: the type of an argument."""
    from fsbackup.config import parse_duration

    try:
        return parse_duration(value).total_seconds()
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time like 90s or 10m, got {value!r}") from None


def moment(value: str) -> datetime:
    """Return the moment that a date and time stand for, local time without a zone: the type of an argument."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a date and time like 2026-11-29 18:30:00+00:00, got {value!r}"
        ) from None
    return found if found.tzinfo else found.astimezone()


def timeline(value: str) -> int | Literal["latest"]:
    """Return the timeline that a number stands for, or "latest": the type of an argument."""
    if value == "latest":
        return "latest"
    if not value.isdecimal() or value.startswith("0"):
        raise argparse.ArgumentTypeError(
            f"expected latest, or a number like 2 (0000000A.history has 10, in decimal), got {value!r}"
        )
    return int(value)


def add_prefix(parser: argparse.ArgumentParser) -> None:
    """Add the optional argument PREFIX."""
    parser.add_argument(
        "prefix", nargs="?", default="", metavar="PREFIX", type=prefix, help="a key, or the first segments of keys"
    )


def add_allow_empty(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-empty`` of a command that reads."""
    parser.add_argument(
        "--allow-empty", action="store_true", help="nothing stored at or below the prefix is no error"
    )


def add_set(parser: argparse.ArgumentParser, *, default: str = "the only one in the configuration") -> None:
    """Add ``--set``."""
    parser.add_argument("--set", metavar="NAME", help=f"the replication set (default: {default})")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add ``--cluster``."""
    parser.add_argument(
        "--cluster", required=True, metavar="NAME", help="the cluster, as `postgres` in the configuration calls it"
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="BACKEND",
        help="what this backend alone says of an absence counts while others cannot be asked; may be given again",
    )


def add_timeline(parser: argparse.ArgumentParser) -> None:
    """Add ``--timeline``."""
    parser.add_argument(
        "--timeline",
        type=timeline,
        metavar="N",
        help="the timeline to recover on: its number, or latest (default: the newest, unless another one has the "
        "moment, too, with other commits: that is refused)",
    )


def add_identity(parser: argparse.ArgumentParser) -> None:
    """Add ``--identity`` of a command for PostgreSQL's archives."""
    parser.add_argument(
        "--identity",
        metavar="FILE",
        help="an age identity or a private SSH key, for what is encrypted (default: $FSBACKUP_AGE_IDENTITY)",
    )


def add_dask(parser: argparse.ArgumentParser) -> None:
    """Add ``--dask``."""
    parser.add_argument(
        "--dask",
        metavar="SCHEDULER",
        help="distribute the work over the workers of this Dask cluster, for example tcp://host:8786; each worker "
        "reads the configuration file under the same path",
    )


def open_config(args: Namespace) -> tuple[str, Config]:
    """Return the path of the configuration file and its content."""
    from fsbackup.config import find_config, load_config

    path = str(find_config(args.config))
    return path, load_config(path)


def open_set(args: Namespace) -> ReplicatedStorage:
    """Return the replication set that ``--set`` names, or the only one of the configuration."""
    return set_of(args, *open_config(args))


def set_of(args: Namespace, path: str, config: Config) -> ReplicatedStorage:
    """Return the replication set that ``--set`` names, or the only one, of a configuration that is loaded."""
    from fsbackup.replication.storage import ReplicatedStorage

    return ReplicatedStorage.from_config(config, args.set or _only_set(path, config), origin=path)


def open_archive(args: Namespace, *, reading: bool = False) -> tuple[Archive, PostgresConfig]:
    """Return the archive of the PostgreSQL cluster that ``--cluster`` names, and its settings.

    With `reading`, what it takes to store something is not looked for.
    """
    from fsbackup.postgres.archive import Archive

    path, config = open_config(args)
    archive = Archive.from_config(config, args.cluster, origin=path, reading=reading)
    return archive, config.postgres[args.cluster]


def _only_set(path: str, config: Config) -> str:
    names = list(config.replication)
    if len(names) == 1:
        return names[0]
    if not names:
        raise ConfigError(f"{path} has no replication set", hint="add one: replication: {NAME: {backends: [...]}}")
    raise ConfigError(f"{path} has several replication sets", hint=f"choose with --set: {', '.join(names)}")


def open_executor(args: Namespace) -> AbstractContextManager[Executor | None]:
    """Connect to the Dask cluster that ``--dask`` names; None without that option."""
    if args.dask is None:
        return nullcontext()
    from fsbackup.distributed import connect

    return connect(args.dask)


@contextmanager
def progress_display(args: Namespace) -> Iterator[Display | None]:
    """Show a progress display during the block; None if there is no terminal, or other output was asked for."""
    if not sys.stderr.isatty() or args.quiet or args.verbose or args.json:
        yield None
        return
    from fsbackup.cli.progress import Display

    display = Display()
    with display.progress:
        yield display
