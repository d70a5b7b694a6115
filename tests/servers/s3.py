"""S3 servers on loopback: moto, SeaweedFS, `rclone serve s3`, and the strict fronts of R2 and B2."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import trustme
from botocore.exceptions import ClientError

from tests.servers.bucket import (
    Head,
    Upload,
    Version,
    content_md5,
    delete_key,
    empty_bucket,
    error_of,
    head,
    list_keys,
    list_uploads,
    list_versions,
    put_bytes,
    put_parts,
    read_bytes,
    replace_metadata,
)
from tests.servers.endpoint import S3Endpoint, client, default_client, fresh_bucket, new_credentials
from tests.servers.ports import GRPC_OFFSET, LOOPBACK, claimed_ports
from tests.servers.process import ServerSpec, Workplace, find_binary, running_server
from tests.servers.strict.control import Control

__all__ = [
    "Head",
    "S3Endpoint",
    "StrictEndpoint",
    "Upload",
    "Version",
    "client",
    "content_md5",
    "default_client",
    "delete_key",
    "empty_bucket",
    "error_of",
    "fresh_bucket",
    "head",
    "list_keys",
    "list_uploads",
    "list_versions",
    "moto_server",
    "put_bytes",
    "put_parts",
    "rclone_s3_server",
    "read_bytes",
    "replace_metadata",
    "seaweedfs_server",
    "strict_b2",
    "strict_r2",
    "unreachable",
]

BUCKET = "test-bucket"
_ROOT = Path(__file__).parents[2]  # from where a child process can import these tests
# A volume is a file that only grows; small ones keep a test run's disk use and start-up low.
_WEED_VOLUME_MB = 256


def _make_usable(endpoint: S3Endpoint) -> None:
    """Make the bucket and store something: a server may accept connections before it can do that."""
    try:
        client(endpoint).create_bucket(Bucket=endpoint.bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise
    put_bytes(endpoint, ".probe", b"probe")
    delete_key(endpoint, ".probe")


def _endpoint(name: str, region: str = "us-east-1") -> S3Endpoint:
    return S3Endpoint(name, "", *new_credentials(), region=region, bucket=BUCKET)


def _at(endpoint: S3Endpoint, place: Workplace) -> S3Endpoint:
    return replace(endpoint, endpoint_url=f"http://{LOOPBACK}:{place.port}")


@contextmanager
def moto_server() -> Iterator[S3Endpoint]:
    """Run moto's S3 server: in memory, quick, lenient. It knows versioning and conditional writes."""
    endpoint = _endpoint("moto")
    spec = ServerSpec(
        command=lambda place: [sys.executable, "-m", "tests.servers.moto_app", LOOPBACK, str(place.port)],
        env={"PYTHONPATH": str(_ROOT)},
        probe=lambda place: _make_usable(_at(endpoint, place)),
    )
    with running_server(spec) as place:
        yield _at(endpoint, place)


@contextmanager
def seaweedfs_server(*, tls: bool = False) -> Iterator[S3Endpoint]:
    """Run SeaweedFS: a real store on disk that checks every signature."""
    endpoint = _endpoint("seaweedfs")

    def at(place: Workplace) -> S3Endpoint:
        found = _at(endpoint, place)
        url = found.endpoint_url.replace("http:", "https:")
        return replace(found, endpoint_url=url, ca_bundle=place.folder / "ca.pem") if tls else found

    spec = ServerSpec(
        command=lambda place: [*_weed_command(place, endpoint), *(_certificate(place) if tls else ())],
        probe=lambda place: _make_usable(at(place)),
        ports=4,
        with_grpc=True,
        env={"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},  # one volume per bucket, not seven
        grace=0.2,  # its own way out takes 15 seconds, to save data that nobody wants any more
    )
    with running_server(spec) as place:
        try:
            yield at(place)
        finally:
            _remove_sockets(place)


def _certificate(place: Workplace) -> list[str]:
    """Return the options for a certificate of a new authority, which is left in ``ca.pem``."""
    authority = trustme.CA()
    own = authority.issue_cert(LOOPBACK, "localhost")
    key, chain = place.folder / "key.pem", place.folder / "chain.pem"
    own.private_key_pem.write_to_path(str(key))
    for number, part in enumerate(own.cert_chain_pems):
        part.write_to_path(str(chain), append=number > 0)
    authority.cert_pem.write_to_path(str(place.folder / "ca.pem"))
    return [f"-s3.key.file={key}", f"-s3.cert.file={chain}"]


def _remove_sockets(place: Workplace) -> None:
    """Remove the Unix sockets that SeaweedFS leaves in /tmp, named after its ports."""
    for port in place.ports:
        for number in (port, port + GRPC_OFFSET):
            for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                path.unlink(missing_ok=True)


def _weed_command(place: Workplace, endpoint: S3Endpoint) -> list[str]:
    s3, master, volume, filer = place.ports
    data = place.folder / "data"
    data.mkdir()
    return [
        find_binary("weed"),
        "server",
        f"-dir={data}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-master.port={master}",
        "-master.peers=none",  # a single master has nobody to hold an election with
        "-master.telemetry=false",
        f"-master.volumeSizeLimitMB={_WEED_VOLUME_MB}",
        "-master.vacuumIntervalSeconds=86400",  # a volume that is being tidied up takes no writes
        f"-volume.port={volume}",
        "-volume.max=1000",
        "-volume.minFreeSpace=10MiB",  # its own 1% of a big disk stops all writes where plenty is left
        f"-filer.port={filer}",
        "-s3",
        f"-s3.port={s3}",
        "-s3.autoCreateBucket=false",  # a bucket that is missing must be an error
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={_weed_identities(place.folder, endpoint)}",
    ]


def _weed_identities(folder: Path, endpoint: S3Endpoint) -> Path:
    pair = {"accessKey": endpoint.access_key_id, "secretKey": endpoint.secret_access_key}
    identity = {"name": "tester", "credentials": [pair], "actions": ["Admin", "Read", "Write", "List"]}
    path = folder / "identities.json"
    path.write_text(json.dumps({"identities": [identity]}))
    return path


@contextmanager
def rclone_s3_server(*extra: str) -> Iterator[S3Endpoint]:
    """Run `rclone serve s3` over a folder: a slow one with ``rclone_s3_server("--bwlimit", "1M")``."""
    endpoint = _endpoint("rclone")
    spec = ServerSpec(
        command=lambda place: _rclone_command(place, endpoint, extra),
        probe=lambda place: _make_usable(_at(endpoint, place)),
    )
    with running_server(spec) as place:
        yield _at(endpoint, place)


def _rclone_command(place: Workplace, endpoint: S3Endpoint, extra: Sequence[str]) -> list[str]:
    data = place.folder / "data"
    data.mkdir()
    return [
        find_binary("rclone"),
        "serve",
        "s3",
        f"--config={place.folder / 'no-config'}",  # never the configuration of whoever runs the tests
        f"--addr={LOOPBACK}:{place.port}",
        f"--auth-key={endpoint.access_key_id},{endpoint.secret_access_key}",
        *extra,
        str(data),
    ]


@contextmanager
def unreachable(endpoint: S3Endpoint) -> Iterator[S3Endpoint]:
    """Yield the endpoint at a port where nobody listens: every connection is refused at once."""
    with claimed_ports(1) as (port,):
        yield replace(endpoint, endpoint_url=f"http://{LOOPBACK}:{port}", ca_bundle=None)


@dataclass(frozen=True, kw_only=True)
class StrictEndpoint(S3Endpoint):
    """A strict server; `control` tells what it was asked and what it refused, also behind a proxy."""

    control: Control


@contextmanager
def strict_r2() -> Iterator[StrictEndpoint]:
    """Run a server with the rules of Cloudflare R2, over TLS."""
    with _strict("r2", "auto") as endpoint:
        yield endpoint


@contextmanager
def strict_b2() -> Iterator[StrictEndpoint]:
    """Run a server with the rules of Backblaze B2, over TLS."""
    with _strict("b2", "us-west-004") as endpoint:
        yield endpoint


@contextmanager
def _strict(provider: str, region: str) -> Iterator[StrictEndpoint]:
    endpoint = _endpoint(f"strict-{provider}", region)
    spec = ServerSpec(
        command=lambda place: _strict_command(place, endpoint, provider),
        probe=lambda place: _control(place).reset(),
        env={"PYTHONPATH": str(_ROOT)},
    )
    with running_server(spec) as place:
        control = _control(place)
        known = {field.name: getattr(endpoint, field.name) for field in fields(endpoint)}
        yield StrictEndpoint(
            **{**known, "endpoint_url": control.url, "ca_bundle": control.ca_bundle, "control": control}
        )


def _control(place: Workplace) -> Control:
    return Control(f"https://{LOOPBACK}:{place.port}", place.folder / "ca.pem")


def _strict_command(place: Workplace, endpoint: S3Endpoint, provider: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tests.servers.strict",
        f"--provider={provider}",
        f"--port={place.port}",
        f"--ca-file={place.folder / 'ca.pem'}",
        f"--bucket={endpoint.bucket}",
        f"--access-key-id={endpoint.access_key_id}",
        f"--secret-access-key={endpoint.secret_access_key}",
    ]
