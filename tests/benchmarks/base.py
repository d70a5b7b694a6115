"""A base backup of a running PostgreSQL, beside ``pg_basebackup | zstd | age | rclone rcat`` to one bucket."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyrage

from tests.benchmarks.arena import Arena
from tests.benchmarks.measure import Command, run
from tests.benchmarks.results import Series, as_dict, ratio, table
from tests.benchmarks.rounds import show_progress
from tests.postgres.server import AS_NOBODY, Home, Server, temporary_home
from tests.servers.endpoint import S3Endpoint, fresh_bucket
from tests.servers.process import find_binary

_PRACTICE = "pg_basebackup | zstd | age | rclone"
#: Bytes of a row of the table, about.
_ROW = 100


def base(arena: Arena, size: int, count: int) -> tuple[str, dict[str, Any]]:
    """Compare both, and fsbackup to two buckets; all compress and encrypt."""
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    places = [fresh_bucket(server) for server in arena.servers]
    series: dict[str, Series] = {}
    with (
        temporary_home(_config(places, recipient)) as home,
        Server(home).create(archive_command="true").running() as server,
    ):
        numbers = f"generate_series(1, {size // _ROW}) i"
        server.sql(f"create table t as select i, md5(i::text) a, repeat('x', 20) b from {numbers}")
        push = (" ".join(home.command("wal-push", "%p", "--cluster", each)) for each in ("one", "shop"))
        server.set(archive_command=" && ".join(push))
        server.sql("select pg_reload_conf()")
        for cluster in ("one", "shop"):
            home.fsbackup("wal-push", str(_segment(server)), "--cluster", cluster)
        contenders = _contenders(home, places[0], recipient)
        for number in range(count):
            for who in list(contenders)[:: 1 if number % 2 else -1]:
                cost = run([contenders[who]], arena.folder)
                series.setdefault(who, Series(who)).costs.append(cost)
                show_progress(f"{who}: {cost.wall:.2f} s")
        taken = int(server.sql("select sum(pg_database_size(oid)) from pg_database")) >> 20
    rows = [
        [who, f"{each.wall:.2f}", ratio(each, series[_PRACTICE]), f"{each.cpu:.2f}"]
        for who, each in series.items()
    ]
    title = f"base: a cluster of {taken} MiB, compressed and encrypted, {count} rounds"
    return table(title, ["", "wall s", f"x {_PRACTICE}", "CPU s"], rows), as_dict(series)


def _config(places: list[S3Endpoint], recipient: str) -> str:
    """Return a configuration with an archive on one bucket, and another on both."""
    backends = {name: place.backend for name, place in zip(("r2", "b2"), places, strict=True)}
    sets = {"one": {"backends": ["r2"]}, "two": {"backends": ["r2", "b2"], "min_copies": 2}}
    stages = {"compress": "zstd", "encrypt": {"age": [recipient]}}
    clusters = {
        "one": {"replication": "one", "prefix": "pg/one", **stages},
        "shop": {"replication": "two", "prefix": "pg/two", **stages},
    }
    return json.dumps({"version": 1, "backends": backends, "replication": sets, "postgres": clusters})


def _segment(server: Server) -> Path:
    """Return a segment that PostgreSQL has archived, to make the other archive known, too."""
    return server.data / "pg_wal" / server.switch()


def _contenders(home: Home, place: S3Endpoint, recipient: str) -> Mapping[str, Command]:
    rclone = ":s3,provider=Other,no_check_bucket=true"
    remote = f"{rclone},endpoint='{place.endpoint_url}',region={place.region}"
    remote += f",access_key_id={place.access_key_id},secret_access_key={place.secret_access_key}"
    dump = "pg_basebackup --pgdata=- --format=tar --wal-method=none --checkpoint=fast --no-password"
    store = f'"$1" --config /nowhere/rclone.conf rcat "$2:{place.bucket}/base-$$.tar.zst.age"'
    pipe = f'set -o pipefail; {dump} | zstd -3 -T1 -q -c | age -r "$0" | {store}'
    prefix = AS_NOBODY if os.geteuid() == 0 else ()

    def ours(cluster: str) -> Command:
        words = ["-c", str(home.path / "fsbackup.yaml"), "base-backup", cluster]
        return Command([*prefix, sys.executable, "-m", "fsbackup", *words], env=home.environ)

    bash = ["bash", "-c", pipe, recipient, find_binary("rclone"), remote]
    return {
        "fsbackup to one bucket": ours("one"),
        "fsbackup to two buckets": ours("shop"),
        _PRACTICE: Command([*prefix, *bash], env=home.environ),
    }
