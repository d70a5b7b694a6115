"""Where contenders meet: two SeaweedFS servers, fresh buckets for every run, and a look at what was stored."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.contenders import Contender
from tests.benchmarks.measure import Cost, run
from tests.benchmarks.task import Task
from tests.servers.endpoint import S3Endpoint, client, fresh_bucket
from tests.servers.s3 import delete_key, list_keys, put_bytes, rclone_s3_server, seaweedfs_server

_PIECE = 1 << 20


@dataclass(frozen=True)
class Arena:
    """Two servers and a folder; a SeaweedFS is warmed up for each new bucket."""

    servers: Sequence[S3Endpoint]
    folder: Path
    cache_botocore_models: bool = True

    @contextmanager
    def task(self, source: Path, files: Sequence[str], roles: Sequence[str], *, local: bool) -> Iterator[Task]:
        """Yield the task to store files in fresh places, one bucket for each role, removed afterwards."""
        endpoints = [fresh_bucket(server) for server, _ in zip(self.servers, roles, strict=False)]
        for endpoint in endpoints if self.cache_botocore_models else ():
            _warm(endpoint)
        scratch = Path(tempfile.mkdtemp(dir=self.folder))
        target = scratch / "local"
        target.mkdir()
        try:
            yield Task(source, files, endpoints, roles, target if local else None, scratch)
        finally:
            shutil.rmtree(scratch)
            for endpoint in endpoints:
                _free(endpoint)


@contextmanager
def arena() -> Iterator[Arena]:
    """Run the servers."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process compiles what it imports
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
        servers = [stack.enter_context(seaweedfs_server()) for _ in range(2)]
        yield Arena(servers, Path(folder))


@contextmanager
def rclone_arena(folder: Path, *options: str) -> Iterator[Arena]:
    """Run two `rclone serve s3` instead, which take less of the processor, with `options` of theirs."""
    with ExitStack() as stack:
        servers = [stack.enter_context(rclone_s3_server(*options)) for _ in range(2)]
        yield Arena(servers, folder, cache_botocore_models=False)


def compete(task: Task, contender: Contender) -> Cost:
    """Have one contender do a task."""
    return run(contender(task), task.scratch)


def differences(task: Task) -> list[str]:
    """Return the places where a file is missing or not byte for byte what it should be."""
    hashes = {name: _hash_of_file(path) for name, path in zip(task.files, task.paths(), strict=True)}
    with ThreadPoolExecutor(4) as pool:
        places = [(endpoint, name) for endpoint in task.endpoints for name in task.files]
        stored = pool.map(lambda place: _hash_in_bucket(*place), places)
        found = zip(places, stored, strict=True)
        wrong = [f"{where.endpoint_url}/{name}" for (where, name), hash_ in found if hash_ != hashes[name]]
    if task.local:
        wrong += [f"local/{name}" for name in task.files if _hash_of_file(task.local / name) != hashes[name]]
    return wrong


def same_content(one: Path, other: Path) -> bool:
    """Tell whether two files are there and hold the same bytes."""
    found = _hash_of_file(one)
    return found is not None and found == _hash_of_file(other)


def _warm(endpoint: S3Endpoint) -> None:
    """Have SeaweedFS make the bucket's first volume now."""
    put_bytes(endpoint, ".warm", b"warm")
    delete_key(endpoint, ".warm")  # a bucket that holds anything is in use, which an empty disk beside it is not


def _free(endpoint: S3Endpoint) -> None:
    """Remove a bucket, which frees the disk of SeaweedFS at once; rclone wants it empty."""
    if endpoint.name == "rclone":
        for key in list_keys(endpoint):
            delete_key(endpoint, key)
    client(endpoint).delete_bucket(Bucket=endpoint.bucket)


def _hash_in_bucket(endpoint: S3Endpoint, name: str) -> str | None:
    try:
        body = client(endpoint).get_object(Bucket=endpoint.bucket, Key=name)["Body"]
    except client(endpoint).exceptions.NoSuchKey:
        return None
    digest = hashlib.sha256()
    for piece in body.iter_chunks(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _hash_of_file(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
