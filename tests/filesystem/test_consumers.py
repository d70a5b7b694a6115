"""pandas, Dask, DuckDB, fsspec's caches, UPath: the same results while a replica sends wrong bytes or dies."""

from __future__ import annotations

import io
import secrets
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from fsspec.parquet import open_parquet_file
from pandas.testing import assert_frame_equal
from upath import UPath

from tests.filesystem.configured_set import ROOT, ConfiguredSet, make_configured_set, overwrite
from tests.matrix import matrix

#: All in order; wrong bytes in every block that is read from one; one that dies within its second answer.
TROUBLES = ["dying+s3", *map(matrix, ["s3+s3", "rotten+local"])]


@pytest.fixture(scope="module", params=TROUBLES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConfiguredSet]:
    with make_configured_set(request.param, tmp_path_factory.mktemp("site"), request.getfixturevalue) as made:
        yield made


@pytest.fixture
def base() -> str:
    """Return a directory of one's own."""
    return f"fsbackup://{ROOT}/{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return a table of about 4 MB, so that its file has several blocks."""
    numbers = np.random.default_rng(1)
    rows = 120_000
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "price": numbers.random(rows).round(6),
            "weight": numbers.random(rows).round(6),
            "name": [f"item {number}" for number in range(rows)],
        }
    )


def test_pandas_parquet(place: ConfiguredSet, base: str, frame: pd.DataFrame) -> None:
    """Written to all replicas and read back; also two columns of it only."""
    frame.to_parquet(f"{base}/table.parquet", storage_options=place.options)
    assert_frame_equal(pd.read_parquet(f"{base}/table.parquet", storage_options=place.options), frame)
    two = pd.read_parquet(f"{base}/table.parquet", columns=["id", "name"], storage_options=place.options)
    assert_frame_equal(two, frame[["id", "name"]])


def test_pandas_parquet_directory(place: ConfiguredSet, base: str, frame: pd.DataFrame) -> None:
    """A directory of partitions is a table."""
    parted = frame.assign(part=frame["id"] % 3)
    parted.to_parquet(f"{base}/table", partition_cols=["part"], storage_options=place.options)
    back = pd.read_parquet(f"{base}/table", storage_options=place.options).sort_values("id", ignore_index=True)
    assert_frame_equal(back[list(frame.columns)], frame)


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_pandas_csv(place: ConfiguredSet, base: str, frame: pd.DataFrame, name: str) -> None:
    """Through text and compression layers."""
    frame.to_csv(f"{base}/{name}", index=False, storage_options=place.options)
    assert_frame_equal(pd.read_csv(f"{base}/{name}", storage_options=place.options), frame)


def test_pandas_json(place: ConfiguredSet, base: str, frame: pd.DataFrame) -> None:
    """Lines of JSON."""
    few = frame.head(5000)
    few.to_json(f"{base}/table.json", orient="records", lines=True, storage_options=place.options)
    assert_frame_equal(pd.read_json(f"{base}/table.json", lines=True, storage_options=place.options), few)


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_dask_threads(place: ConfiguredSet, base: str, frame: pd.DataFrame) -> None:
    """Partitions are written and read side by side, as Parquet and as CSV."""
    import dask.dataframe as dd

    table = dd.from_pandas(frame, npartitions=4)
    table.to_parquet(f"{base}/parquet", storage_options=place.options)
    back = dd.read_parquet(f"{base}/parquet", storage_options=place.options).compute(scheduler="threads")
    assert_frame_equal(back, frame, check_dtype=False)
    table.to_csv(f"{base}/csv/*.csv", index=False, storage_options=place.options)
    lines = dd.read_csv(f"{base}/csv/*.csv", storage_options=place.options, blocksize=700_000)
    assert_frame_equal(lines.compute(scheduler="threads").reset_index(drop=True), frame, check_dtype=False)


def test_duckdb(place: ConfiguredSet, base: str, frame: pd.DataFrame) -> None:
    """Reads, globs, and writes with and without partitions."""
    import duckdb

    fs = place.fs()
    with fs.open(f"{base}/one.parquet", "wb") as out:
        frame.to_parquet(out)
    with duckdb.connect() as database:
        database.register_filesystem(fs)
        [[total]] = database.sql(f"SELECT sum(id) FROM read_parquet('{base}/*.parquet')").fetchall()
        assert total == frame["id"].sum()
        database.execute(f"COPY (SELECT * FROM read_parquet('{base}/one.parquet')) TO '{base}/two.csv'")
        [[count]] = database.sql(f"SELECT count(*) FROM read_csv('{base}/two.csv')").fetchall()
        assert count == len(frame)
        half = f"SELECT id, id % 2 AS odd FROM read_parquet('{base}/one.parquet')"
        database.execute(f"COPY ({half}) TO '{base}/parts' (FORMAT parquet, PARTITION_BY (odd))")
        found = database.sql(f"SELECT odd, count(*) FROM read_parquet('{base}/parts/**/*.parquet') GROUP BY odd")
        assert sorted(found.fetchall()) == [(0, 60_000), (1, 60_000)]


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # pandas leaves the cache's file open
@pytest.mark.parametrize("cache", ["filecache", "simplecache", "blockcache"])
def test_chains(place: ConfiguredSet, base: str, frame: pd.DataFrame, cache: str, tmp_path: Path) -> None:
    """fsspec's own caches in front of it; the second read comes from the cache."""
    frame.to_parquet(f"{base}/table.parquet", storage_options=place.options)
    options = {"fsbackup": place.options, cache: {"cache_storage": str(tmp_path / "cache")}}
    for _ in range(2):
        back = pd.read_parquet(f"{cache}::{base}/table.parquet", storage_options=options)
        assert_frame_equal(back, frame)


def test_open_parquet_file(place: ConfiguredSet, base: str, frame: pd.DataFrame) -> None:
    """fsspec's way to fetch the needed parts of a Parquet file in advance."""
    frame.to_parquet(f"{base}/table.parquet", storage_options=place.options)
    opened = open_parquet_file(
        f"{base}/table.parquet", columns=["price"], engine="pyarrow", storage_options=place.options
    )
    with opened as file:
        assert_frame_equal(pd.read_parquet(file, columns=["price"]), frame[["price"]])


def test_upath(place: ConfiguredSet, base: str) -> None:
    """Paths as objects."""
    path = UPath(f"{base}/a/b.txt", **place.options)
    path.write_text("day")
    assert path.read_text() == "day"
    assert path.exists()
    assert path.parent.is_dir()
    assert [each.name for each in path.parent.iterdir()] == ["b.txt"]
    path.unlink()
    assert not path.exists()


def test_mapper(place: ConfiguredSet, base: str) -> None:
    """A directory as a mapping."""
    mapper = fsspec.get_mapper(f"{base}/map", **place.options)
    mapper["x/y"] = b"1"
    mapper["z"] = b"2"
    assert dict(mapper) == {"x/y": b"1", "z": b"2"}
    del mapper["z"]
    with pytest.raises(KeyError):
        _ = mapper["z"]


def dask_csv(url: str, storage_options: dict[str, str]) -> pd.DataFrame:
    import dask.dataframe as dd

    lazy = dd.read_csv(url, storage_options=storage_options, blocksize=1 << 20)
    found: pd.DataFrame = lazy.compute(scheduler="sync").reset_index(drop=True)
    return found


def dask_parquet(url: str, storage_options: dict[str, str]) -> pd.DataFrame:
    import dask.dataframe as dd

    found: pd.DataFrame = dd.read_parquet(url, storage_options=storage_options).compute(scheduler="sync")
    return found


def text(frame: pd.DataFrame) -> bytes:
    data: bytes = frame.to_csv(index=False).encode()
    return data


def parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("read", "encode"),
    [
        (pd.read_csv, text),
        (partial(pd.read_parquet, engine="pyarrow"), parquet),
        (partial(pd.read_parquet, engine="fastparquet"), parquet),
        (dask_csv, text),
        (dask_parquet, parquet),
    ],
    ids=["csv", "pyarrow", "fastparquet", "dask csv", "dask parquet"],
)
def test_what_another_process_overwrote(
    disks: ConfiguredSet,
    base: str,
    frame: pd.DataFrame,
    elsewhere: Pool,
    read: Callable[..., pd.DataFrame],
    encode: Callable[[pd.DataFrame], bytes],
) -> None:
    """A table is read as it was overwritten, however short a while ago it was looked at or read."""
    fs = fsspec.filesystem("fsbackup", **disks.options)
    path = f"{base}/table"
    for rows in (100_000, 120_000, 5, 1000):
        table = frame[["id", "price", "weight"]][:rows]
        elsewhere.apply(overwrite, (disks.config, fs._strip_protocol(path), encode(table)))
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # fastparquet
            assert_frame_equal(read(path, storage_options=disks.options), table, check_dtype=False)
        assert fs.exists(path)
