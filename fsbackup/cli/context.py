"""What most commands start with: the configuration, one set of it, and that set opened."""

from __future__ import annotations

from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from fsbackup.cli import redact
from fsbackup.errors import ConfigError

if TYPE_CHECKING:
    from fsbackup.config import Config
    from fsbackup.replication.batches import Executor
    from fsbackup.replication.storage import ReplicatedStorage


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


def open_executor(args: Namespace) -> AbstractContextManager[Executor | None]:
    """Connect to the Dask cluster that ``--dask`` names, if any."""
    if args.dask is None:
        return nullcontext()
    from fsbackup.distributed import connect

    return connect(args.dask)


def _only_set(path: str, config: Config) -> str:
    names = list(config.replication)
    if len(names) == 1:
        return names[0]
    if not names:
        raise ConfigError(f"{path} has no replication set", hint="add one: replication: {NAME: {backends: [...]}}")
    raise ConfigError(f"{path} has several replication sets", hint=f"choose with --set: {', '.join(names)}")
