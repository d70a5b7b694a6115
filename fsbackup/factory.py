"""From types and configuration to backends and the arguments of a set: the one place that wires things together.

The factory stands below `fsbackup.replication`: `ReplicatedStorage.from_config` uses it, and imports go down only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fsbackup import backends as kinds
from fsbackup.backends.base import ErrorMode, SingleBackend
from fsbackup.engine.replicas import Spool
from fsbackup.errors import ConfigError
from fsbackup.stages import Stages
from fsbackup.stages.definition import KEY_FILE
from fsbackup.state import state_directory

if TYPE_CHECKING:
    from fsbackup.config import BackendConfig, CompressConfig, Config, EncryptConfig
    from fsbackup.retention import ArchiveRule, Retention

#: Each type's class, loaded on first use: a local backup needs no S3 client.
_CLASSES: Mapping[str, str] = {
    "local": "LocalStorage",
    "r2": "CloudflareR2Storage",
    "b2": "BackblazeB2Storage",
    "s3": "S3Storage",
    "fsspec": "GenericStorage",
}


def get_storage_backend(backend_type: str, **options: Any) -> SingleBackend:
    """Return a backend by its type.

    Parameters
    ----------
    backend_type
        ``"local"``, ``"r2"``, ``"b2"``, ``"s3"`` or ``"fsspec"``, in any case.
    **options
        The arguments of its class. What is left out comes from the environment: ``BACKUP_LOCAL_PATH``;
        ``R2_ACCOUNT_ID``, ``R2_BUCKET_NAME``, ``R2_ACCESS_KEY_ID``, ``R2_SECRET_ACCESS_KEY``,
        ``R2_SESSION_TOKEN``;
        ``B2_BUCKET_NAME``, ``B2_REGION``, ``B2_ACCESS_KEY_ID``, ``B2_SECRET_ACCESS_KEY``, ``B2_SESSION_TOKEN``.

    Raises
    ------
    ConfigError
        For an unknown type, naming the known ones, an unknown option, or missing credentials.
    """
    known = _CLASSES.get(str(backend_type).lower())
    if known is None:
        raise ConfigError(f"unknown backend type {backend_type!r}", hint=f"known types: {', '.join(_CLASSES)}")
    make = cast(Callable[..., SingleBackend], getattr(kinds, known))
    try:
        return make(**options)
    except TypeError as error:
        # Python's own message names the argument; the options' values are not in it.
        raise ConfigError(f"backend type {backend_type!r}: {error}".replace(f"{known}.__init__() ", "")) from None


def open_backend(config: Config, name: str, *, errors: ErrorMode = "return") -> SingleBackend:
    """Return the backend `name` of a loaded configuration."""
    if name not in config.backends:
        raise ConfigError(f"no backend is called {name!r}", hint=f"there are: {', '.join(config.backends)}")
    settings = config.backends[name]
    return get_storage_backend(settings.type, name=name, errors=errors, **_arguments(settings))


def set_arguments(config: Config, name: str) -> dict[str, Any]:
    """Return what `ReplicatedStorage` is made with for the replication set `name` of a loaded configuration.

    Raises
    ------
    ConfigError
        When there is no such set, or a backend cannot be opened as it is configured.
    """
    if name not in config.replication:
        known = ", ".join(config.replication) or "none"
        raise ConfigError(f"no replication set is called {name!r}", hint=f"there are: {known}")
    settings = config.replication[name]
    sizes = [config.backends[each].part_size for each in settings.backends]
    spool = settings.spool
    return {
        "backends": [open_backend(config, each) for each in settings.backends],
        "min_copies": settings.min_copies,
        "read_order": settings.read_order,
        "name": name,
        # One part size for all replicas, so that their copies can be compared: the largest that one asks for.
        "part_size": max((size for size in sizes if size is not None), default=None),
        "memory": settings.memory,
        "spool": Spool(Path(spool.dir), spool.max_bytes) if spool else None,
        "stall_timeout": settings.stall_timeout,
        "unproven": settings.unproven,
        "append": settings.append,
        "retention": _retention(config, settings.backends),
    }


def stages_of(
    config: Config,
    compress: CompressConfig | str | None,
    encrypt: EncryptConfig | None,
    *,
    needs_key: bool = True,
) -> Stages | None:
    """Return the stages of these settings, which a job has or others like it; None for none.

    Without `needs_key`, the identity key is not looked for yet.

    Raises
    ------
    ConfigError
        When a package or the identity key is missing, or a file of recipients is wrong by now.
    """
    if compress is None and encrypt is None:
        return None
    stages = Stages(
        compress=None if compress is None else level_of(compress),
        encrypt=None if encrypt is None else {"age": encrypt.age},
        identity_key_file=identity_key_file(config),
    )
    stages.check(needs_key=needs_key)
    return stages


def level_of(compress: CompressConfig | str) -> str | dict[str, int]:
    """Return the setting `compress` as `Stages` takes it."""
    return compress if isinstance(compress, str) else {"zstd": compress.zstd}


def identity_key_file(config: Config) -> Path:
    """Return where this machine keeps the secret by which encrypted sources are recognised."""
    return Path(config.identity_key_file or state_directory(config.state_dir) / KEY_FILE)


def _retention(config: Config, backends: Sequence[str]) -> dict[str, Retention]:
    """Return each backend's rule, with the destinations of all jobs that store there, also into another set.

    The archives of PostgreSQL clusters there have rules of their own, on all backends of the set: also where
    another backend of it has one, but not they.
    """
    if not config.postgres and all(config.backends[name].retention is None for name in backends):
        return {}
    from fsbackup.retention import Retention

    archives = _archives(config, set(backends))
    rules = {}
    for name in backends:
        rule = config.backends[name].retention
        jobs = (job for job in config.jobs.values() if name in config.replication[job.replication].backends)
        if rule is not None or archives:
            rules[name] = Retention(
                **(dict(rule) if rule is not None else {}),
                destinations=tuple(dict.fromkeys(job.key_template for job in jobs)),
                archives=archives,
            )
    return rules


def _archives(config: Config, backends: set[str]) -> tuple[ArchiveRule, ...]:
    """Return the rules of the PostgreSQL archives that any of these backends has."""
    from fsbackup.retention import ArchiveRule

    return tuple(
        ArchiveRule(cluster.prefix, **(dict(cluster.retention) if cluster.retention is not None else {}))
        for cluster in config.postgres.values()
        if not backends.isdisjoint(config.replication[cluster.replication].backends)
    )


def _arguments(settings: BackendConfig) -> dict[str, Any]:
    """Return the constructor's arguments for one backend's settings, secrets in the clear."""
    given = {name: getattr(settings, name) for name in type(settings).model_fields}
    for name in list(given):
        if name in ("type", "part_size", "retention") or name.endswith("_file"):  # used elsewhere
            given.pop(name)
    translate = _TRANSLATE.get(settings.type)
    plain = _reveal(given)
    return translate(plain, settings) if translate else plain


def _reveal(given: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
        for name, value in given.items()
    }


def _local(given: dict[str, Any], _settings: Any) -> dict[str, Any]:
    return {"base_path": given.pop("path"), **given}


def _fsspec(given: dict[str, Any], settings: Any) -> dict[str, Any]:
    return {**given, "options": settings.storage_options}


_TRANSLATE: Mapping[str, Callable[[dict[str, Any], Any], dict[str, Any]]] = {"local": _local, "fsspec": _fsspec}
