"""The settings of PostgreSQL clusters, each with the exact place and words of its error."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fsbackup.config import parse_config
from tests.unit.test_config_jobs import mistakes

HEAD = """version: 1
backends: {a: {type: local}}
replication: {wal: {backends: [a]}}
jobs: {j: {source: {path: /x}, destination: pg/b/x, replication: wal}}
postgres:
"""


def test_a_cluster_as_it_is_written() -> None:
    """Defaults are filled in, durations read, and all of it can be shown."""
    text = HEAD + "  shop: {replication: wal, prefix: pg/shop/, retention: {window: 35d, min_bases: 4}}"
    config = parse_config(text, environ={})
    shop = config.postgres["shop"]
    assert (shop.prefix, shop.patience, shop.conninfo) == ("pg/shop", 5.0, None)
    assert shop.retention is not None
    assert (shop.retention.window, shop.retention.min_bases) == (timedelta(days=35), 4)
    assert config.show()["postgres"]["shop"]["retention"] == {"window": "35d", "min_bases": 4}


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("{prefix: pg}", "6: postgres.shop.replication: is missing (for example replication: wal)"),
        (
            "{replication: val, prefix: pg}",
            "6: postgres.shop.replication: must be the name of a replication set, not 'val' (did you mean 'wal'?)",
        ),
        ("{replication: wal}", "6: postgres.shop.prefix: is missing (for example prefix: pg/shop)"),
        (
            "{replication: wal, prefix: /pg}",
            "6: postgres.shop.prefix: must be like a key, not '/pg' "
            "(it starts or ends with '/' or has an empty segment)",
        ),
        (
            '{replication: wal, prefix: ""}',
            "6: postgres.shop.prefix: must not be empty (for example pg/shop)",
        ),
        (
            "{replication: wal, prefix: pg, workers: 4000}",
            "6: postgres.shop.workers: must be at most 64, not 4000",
        ),
        (
            "{replication: wal, prefix: pg, conninfo: 'host=x password=secret'}",
            "6: postgres.shop.conninfo: must not hold a password "
            "(put it into ~/.pgpass, or a service file: service=shop)",
        ),
        (
            "{replication: wal, prefix: pg, compress: gzip}",
            "6: postgres.shop.compress: must be zstd, not 'gzip' (or with a level from 1 to 19, {zstd: 9})",
        ),
        (
            "{replication: wal, prefix: pg, encrypt: {age: []}}",
            "6: postgres.shop.encrypt.age: must name at least one public key",
        ),
        (
            "{replication: wal, prefix: pg, retention: {}}",
            "6: postgres.shop.retention: must say what to keep (window: 35d, or min_bases: 4, or both)",
        ),
        (
            "{replication: wal, prefix: pg, retention: {windw: 1d}}",
            "6: postgres.shop.retention.windw: is not a setting here (did you mean 'window'?)",
        ),
        (
            "{replication: wal, prefix: pg/b}",
            "4: jobs.j.destination: must not be below a cluster's prefix (the archive of 'shop')",
        ),
        (
            "{replication: wal, prefix: pg}\n  crm: {replication: wal, prefix: pg/crm}",
            "7: postgres.crm.prefix: must be a prefix of its own, not 'pg/crm' ('shop' has its archive there)",
        ),
    ],
)
def test_mistakes_in_a_cluster(cluster: str, expected: str) -> None:
    """Each says what to write instead; a password is never quoted."""
    found = mistakes(f"{HEAD}  shop: {cluster}\n")
    assert expected in found
    assert "secret" not in "".join(found)
