"""What a command is, and the kinds of arguments that several of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from fsbackup.keys import check_key, check_prefix


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
        help="let the workers of this Dask cluster do the work, for example tcp://host:8786; each reads the "
        "configuration file under the same path",
    )


def add_set(parser: argparse.ArgumentParser, *, otherwise: str = "the only one of the configuration") -> None:
    """Add ``--set``."""
    parser.add_argument("--set", metavar="NAME", help=f"the replication set (default: {otherwise})")
