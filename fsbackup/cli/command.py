"""What a command is, and the kinds of arguments that several of them take."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fsbackup.cli import redact
from fsbackup.errors import ConfigError
from fsbackup.keys import check_key, check_prefix

if TYPE_CHECKING:
    from fsbackup.cli.progress import Display
    from fsbackup.config import Config
    from fsbackup.distributed import Cluster
    from fsbackup.replication.storage import ReplicatedStorage


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Parameters
    ----------
    name, summary
        As `fsbackup --help` lists it.
    description
        What `fsbackup NAME --help` says it does.
    examples
        Lines of a shell, each without its prompt.
    arguments
        Adds its own arguments to its parser.
    execute
        Does it, and returns the exit code.
    """

    name: str
    summary: str
    description: str
    examples: tuple[str, ...]
    arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]


def key(text: str) -> str:
    """Return `text` when it is a legal key."""
    try:
        return check_key(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def prefix(text: str) -> str:
    """Return `text` when it is a legal prefix of keys."""
    try:
        return check_prefix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_dask(parser: argparse.ArgumentParser) -> None:
    """Add ``--dask``."""
    parser.add_argument(
        "--dask",
        metavar="SCHEDULER",
        help="spread the work over the workers of this Dask cluster, for example tcp://host:8786; each reads the "
        "configuration file under the same path",
    )


def add_prefix(parser: argparse.ArgumentParser) -> None:
    """Add the optional argument PREFIX."""
    parser.add_argument(
        "prefix", nargs="?", default="", metavar="PREFIX", type=prefix, help="a key, or the first segments of keys"
    )


def add_set(parser: argparse.ArgumentParser, *, otherwise: str = "the only one of the configuration") -> None:
    """Add ``--set``."""
    parser.add_argument("--set", metavar="NAME", help=f"the replication set (default: {otherwise})")


def open_config(args: Namespace) -> tuple[str, Config]:
    """Return the configuration's path, as it was named, and what it says."""
    from fsbackup.config import find_config, load_config

    path = str(find_config(args.config))
    config = load_config(path)
    redact.learn(config)
    return path, config


def open_set(args: Namespace) -> ReplicatedStorage:
    """Return the replication set that ``--set`` names, or the only one there is."""
    from fsbackup import factory

    path, config = open_config(args)
    return factory.open_set(config, args.set or _only_set(path, config), origin=path)


def open_cluster(args: Namespace) -> Cluster | None:
    """Return the Dask cluster that ``--dask`` names, if any."""
    if args.dask is None:
        return None
    from fsbackup.distributed import Cluster

    return Cluster(args.dask)


def _only_set(path: str, config: Config) -> str:
    names = list(config.replication)
    if len(names) == 1:
        return names[0]
    if not names:
        raise ConfigError(f"{path} has no replication set", hint="add one: replication: {NAME: {backends: [...]}}")
    raise ConfigError(f"{path} has several replication sets", hint=f"choose with --set: {', '.join(names)}")


@contextmanager
def shown(args: Namespace) -> Iterator[Display | None]:
    """Show a display while the block runs: on a terminal, where no other lines tell what happens. Else None."""
    if not sys.stderr.isatty() or args.quiet or args.verbose or args.json:
        yield None
        return
    from fsbackup.cli.progress import Display

    display = Display()
    with display.progress:
        yield display
