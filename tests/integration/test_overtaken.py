"""A process that another one overtakes, as from another host: held right before a request, it gives way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli_helpers import TIMEOUT, Cli
from tests.matrix import matrix
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import FaultProxy, Hold, fault_proxy
from tests.servers.operations import Operation

TYPES = {"strict-r2": "r2", "strict-b2": "b2"}
BOTH = ("--set", "both")


@pytest.fixture
def proxy(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    """A proxy before the server that the test names."""
    endpoint: S3Endpoint = request.getfixturevalue(request.param)
    if isinstance(endpoint, s3.StrictEndpoint):
        endpoint.control.reset()
        endpoint.control.configure(unavailable_every=0, write_interval=0)
    else:
        endpoint = s3.fresh_bucket(endpoint)
    with fault_proxy(endpoint) as running:
        yield running


@pytest.fixture
def cli(proxy: FaultProxy, tmp_path: Path) -> Cli:
    """The command line with a set of a disk and the bucket, which has the file ``one``, and a set of each."""
    cli = Cli(tmp_path)
    cloud = {**proxy.endpoint.backend, "type": TYPES.get(proxy.endpoint.name, "s3"), "timeout": 20}
    if cloud["type"] == "r2":
        del cloud["region"]
    backends = {"disk": {"type": "local", "path": "disk"}, "cloud": cloud}
    sets: dict[str, Any] = {each: {"backends": [each]} for each in backends}
    sets["both"] = {"backends": [*backends], "min_copies": 1}
    (tmp_path / "fsbackup.yaml").write_text(json.dumps({"version": 1, "backends": backends, "replication": sets}))
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(name)
    assert cli("put", "one", "key", *BOTH).code == 0
    return cli


def overtake(cli: Cli, proxy: FaultProxy, on: Operation, command: str, *arguments: str) -> tuple[int, str]:
    """Store ``three`` in the bucket while a command waits before its request; return how that one ends."""
    held = proxy.add(Hold("before"), on=on, key="key", times=1)
    with cli.started(command, *arguments, *BOTH) as running:
        held.wait_reached(TIMEOUT)
        assert cli("put", "three", "key", "--overwrite", "--set", "cloud").code == 0
        held.release()
        out, error = running.communicate(timeout=TIMEOUT)
    return running.returncode, (out + error).decode()


def stored(cli: Cli) -> str:
    """Return what the set has, once every copy has been read."""
    assert cli("repair", *BOTH).code == 0
    assert cli("verify", "--deep", *BOTH).code == 0
    assert cli("get", "key", "copy", *BOTH).code == 0
    return (cli.home / "copy").read_text()


@pytest.mark.parametrize("proxy", ["seaweedfs", matrix("moto")], indirect=True)
def test_a_delete_keeps_what_was_stored_since_its_look(cli: Cli, proxy: FaultProxy) -> None:
    code, said = overtake(cli, proxy, "delete", "rm", "key")
    assert code != 0
    assert "another writer stored another object" in said
    assert stored(cli) == "three"


@pytest.mark.parametrize("proxy", ["seaweedfs", "strict_b2", *map(matrix, ["moto", "strict_r2"])], indirect=True)
def test_a_repair_keeps_what_was_stored_since_its_look(cli: Cli, proxy: FaultProxy) -> None:
    """The bucket missed a version; it gets a newer one than the repair is about to write there."""
    assert cli("put", "two", "key", "--overwrite", "--set", "disk").code == 0
    overtake(cli, proxy, "put_object", "repair")
    assert stored(cli) == "three"


@pytest.mark.parametrize("proxy", ["seaweedfs", *map(matrix, ["moto", "strict_r2"])], indirect=True)
def test_an_overwrite_is_refused_what_was_stored_since_its_look(cli: Cli, proxy: FaultProxy) -> None:
    """Where the service knows the condition; elsewhere the later one stays."""
    _, said = overtake(cli, proxy, "put_object", "put", "two", "key", "--overwrite")
    assert "cloud" in said
    assert s3.read_bytes(proxy.endpoint, "key") == b"three"
