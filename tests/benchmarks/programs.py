"""The contenders that are programs: rclone and s5cmd, each as its users would call it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.benchmarks.measure import Command
from tests.benchmarks.task import Task
from tests.servers.endpoint import S3Endpoint
from tests.servers.process import find_binary

#: Small files at once, as many as fsbackup has on their way.
_AT_ONCE = 24
#: Where in a bucket rclone has its own copy.
_OWN = "rclone"


def rclone_union(task: Task) -> list[Command]:
    """Return one rclone that writes to a union of all places."""
    return [_rclone(task, "copyto", os.fspath(task.paths()[0]), f"all:{task.files[0]}")]


def rclone_three(task: Task) -> list[Command]:
    """Return one rclone for each place."""
    source, name = os.fspath(task.paths()[0]), task.files[0]
    targets = [f"{_bucket(index, endpoint)}/{name}" for index, endpoint in enumerate(task.endpoints)]
    if task.local:
        targets.append(os.fspath(task.local / name))
    return [_rclone(task, "copyto", source, target) for target in targets]


def rclone_many(task: Task) -> list[Command]:
    """Return one rclone that copies the whole directory to the first endpoint."""
    at_once = [f"--transfers={_AT_ONCE}", f"--checkers={_AT_ONCE}"]
    return [_rclone(task, "copy", *at_once, os.fspath(task.source), _bucket(0, task.endpoints[0]))]


def rclone_own(task: Task) -> list[Command]:
    """Return one rclone that stores the file at the first endpoint as its users have it: with its MD5."""
    return [_rclone(task, "copyto", os.fspath(task.paths()[0]), _own(task))]


def rclone_back(task: Task) -> list[Command]:
    """Return one rclone that reads back what `rclone_own` stored, and compares MD5s, as it does by default."""
    return [_rclone(task, "copyto", _own(task), os.fspath(task.back))]


def rclone_unproven(task: Task) -> list[Command]:
    """Return one rclone that reads back what it knows no MD5 of."""
    return [_rclone(task, "copyto", f"{_bucket(0, task.endpoints[0])}/{task.files[0]}", os.fspath(task.back))]


def s5cmd_back(task: Task) -> list[Command]:
    """Return one s5cmd that reads a file back from the first endpoint."""
    endpoint = task.endpoints[0]
    return [_s5cmd(endpoint, f"s3://{endpoint.bucket}/{task.files[0]}", os.fspath(task.back))]


def s5cmd(task: Task) -> list[Command]:
    """Return one s5cmd for each endpoint, and dd for the local copy."""
    source, name = os.fspath(task.paths()[0]), task.files[0]
    commands = [_s5cmd(endpoint, source, f"s3://{endpoint.bucket}/{name}") for endpoint in task.endpoints]
    if task.local:
        commands.append(Command(["dd", f"if={source}", f"of={task.local / name}", "bs=4M", "conv=fsync"]))
    return commands


def _s5cmd(endpoint: S3Endpoint, source: str, target: str) -> Command:
    env = {
        "AWS_ACCESS_KEY_ID": endpoint.access_key_id,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_access_key,
        "AWS_REGION": endpoint.region,
    }
    return Command(
        [find_binary("s5cmd"), f"--endpoint-url={endpoint.endpoint_url}", "cp", source, target], env=env
    )


def _rclone(task: Task, *arguments: str) -> Command:
    return Command([find_binary("rclone"), f"--config={_configured(task)}", *arguments])


def _own(task: Task) -> str:
    return f"{_bucket(0, task.endpoints[0])}/{_OWN}/{task.files[0]}"


def _bucket(index: int, endpoint: S3Endpoint) -> str:
    return f"cloud{index}:{endpoint.bucket}"


def _configured(task: Task) -> Path:
    """Write rclone's configuration and return where it is."""
    sections = [_remote(index, endpoint) for index, endpoint in enumerate(task.endpoints)]
    places = [_bucket(index, endpoint) for index, endpoint in enumerate(task.endpoints)]
    upstreams = " ".join([*places, os.fspath(task.local or "")]).strip()
    union = f"[all]\ntype = union\nupstreams = {upstreams}\ncreate_policy = all\naction_policy = all\n"
    path = task.scratch / "rclone.conf"
    path.write_text("\n".join([*sections, union]))
    return path


def _remote(index: int, endpoint: S3Endpoint) -> str:
    return f"""[cloud{index}]
type = s3
provider = SeaweedFS
endpoint = {endpoint.endpoint_url}
access_key_id = {endpoint.access_key_id}
secret_access_key = {endpoint.secret_access_key}
region = {endpoint.region}
no_check_bucket = true
"""
