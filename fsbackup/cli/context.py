"""What most commands start with: the configuration, one set of it, and that set opened."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import redact
from fsbackup.errors import ConfigError

if TYPE_CHECKING:
    from fsbackup.config import Config
    from fsbackup.distributed import Cluster
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
    from fsbackup.replication.storage import ReplicatedStorage

    path, config = open_config(args)
    return ReplicatedStorage.from_config(config, args.set or _only_set(path, config), origin=path)


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
