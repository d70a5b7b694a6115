"""A base backup of a running PostgreSQL, beside ``pg_basebackup | zstd | age | rclone``, to one bucket and to two.

pg_basebackup waits for the WAL, which ``wal-push`` archives in both buckets, in all of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
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
_TWICE = f"{_PRACTICE}, to two"
#: Configuration of an archive on the first bucket only.
_ONE = "one.yaml"
#: Bytes of a row of the table, about.
_ROW = 100


def base(arena: Arena, size: int, count: int) -> tuple[str, dict[str, Any]]:
    """Compare both; both compress and encrypt."""
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    places = [fresh_bucket(server) for server in arena.servers]
    series: dict[str, Series] = {}
    with (
        temporary_home(_config(places, recipient)) as home,
        Server(home).create(archive_command="true").running() as server,
    ):
        numbers = f"generate_series(1, {size // _ROW}) i"
        server.sql(f"create table t as select i, md5(i::text) a, repeat('x', 20) b from {numbers}")
        server.set(archive_command=" ".join(home.command("wal-push", "%p", "--cluster", "shop")))
        server.sql("select pg_reload_conf()")
        server.switch()  # now the archive knows the cluster
        (home.path / _ONE).write_text(_config(places[:1], recipient))
        contenders = _contenders(home, places, recipient)
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
    """Return a configuration with an archive on all of the buckets."""
    backends = {name: place.backend for name, place in zip(("r2", "b2"), places, strict=False)}
    sets = {"all": {"backends": list(backends), "min_copies": len(backends)}}
    stages = {"compress": "zstd", "encrypt": {"age": [recipient]}}
    clusters = {"shop": {"replication": "all", "prefix": "pg/shop", **stages}}
    return json.dumps({"version": 1, "backends": backends, "replication": sets, "postgres": clusters})


def _contenders(home: Home, places: list[S3Endpoint], recipient: str) -> Mapping[str, Command]:
    dump = "pg_basebackup --pgdata=- --format=tar --wal-method=none --checkpoint=fast --no-password"
    one, two = (f'"$1" --config /nowhere/rclone.conf rcat "{at}/base-$$.tar.zst.age"' for at in ("$2", "$3"))
    made = f'{dump} | zstd -3 -T1 -q -c | age -r "$0"'
    pipe = f"set -o pipefail; {made} | {one}"
    twice = f"set -o pipefail; {{ {made} | tee /dev/fd/3 | {one}; }} 3> >({two}) && wait $!"
    prefix = AS_NOBODY if os.geteuid() == 0 else ()

    def ours(config: str) -> Command:
        words = ["-c", str(home.path / config), "base-backup", "shop"]
        return Command([*prefix, sys.executable, "-m", "fsbackup", *words], env=home.environ)

    given = [recipient, find_binary("rclone"), *map(_remote, places)]
    return {
        "fsbackup to two buckets": ours("fsbackup.yaml"),
        "fsbackup to one bucket": ours(_ONE),
        _TWICE: Command([*prefix, "bash", "-c", twice, *given], env=home.environ),
        _PRACTICE: Command([*prefix, "bash", "-c", pipe, *given], env=home.environ),
    }


def _remote(place: S3Endpoint) -> str:
    """Return a bucket as rclone names it."""
    remote = f":s3,provider=Other,no_check_bucket=true,endpoint='{place.endpoint_url}',region={place.region}"
    remote += f",access_key_id={place.access_key_id},secret_access_key={place.secret_access_key}"
    return f"{remote}:{place.bucket}"
