"""With one of three replicas away everything works: two prove what is absent, and two copies suffice.

However it is away. One that says nothing is waited for by the first operation, and by no other one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Literal

import dask.dataframe as dd
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
import zarr
from upath import UPath

from fsbackup import DegradedWriteWarning, NotStoredWarning
from fsbackup.engine import breaker
from tests.filesystem.configured_set import ROOT, ConfiguredSet, make_configured_set
from tests.matrix import sparing
from tests.servers.faults import Drop, Fault, Refuse, Stall, Status

#: How the third replica is away: it refuses every connection, drops it after the request, is broken, says nothing.
AWAY: dict[str, Callable[[], Fault]] = {
    "refusing": Refuse,
    "dropping": Drop,
    "503": lambda: Status(503, "ServiceUnavailable"),
    "silent": Stall,
}


@pytest.fixture(scope="module", params=sparing(AWAY, {"silent"}))
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ConfiguredSet]:
    """Return a set in use, of two directories and a service that is away now."""
    tmp = tmp_path_factory.mktemp("site")
    with make_configured_set("local+local+s3", tmp, request.getfixturevalue) as made:
        made.min_copies = 2
        made.fs().pipe_file(f"{ROOT}/first", b"1")
        made.proxies["moto2"].add(AWAY[request.param]())
        made.timeouts["moto2"] = 1.0 if request.param == "503" else 0.3  # so that it is tried again
        made.write()
        yield made


@pytest.fixture(autouse=True)
def known_away(site: ConfiguredSet, forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Have it found out before each test that the third is away; a probe of it is not waited for."""
    monkeypatch.setattr(breaker, "GRACE", 0.0)
    site.fs().pipe_file(f"{ROOT}/first", b"1")


@pytest.fixture
def url() -> str:
    """Return a directory that is not there."""
    return f"fsbackup://{ROOT}/{secrets.token_hex(4)}"


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"shop": ["a", "b", "a", "c"], "total": [1.5, 2.5, 3.5, 4.5]})


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # dask to pandas
def test_pandas_and_dask(site: ConfiguredSet, url: str, frame: pd.DataFrame) -> None:
    """A partitioned data set is written and read."""
    frame.to_parquet(f"{url}/shops", partition_cols=["shop"], storage_options=site.options)
    back = dd.read_parquet(f"{url}/shops", storage_options=site.options).compute()
    assert sorted(back["total"]) == [1.5, 2.5, 3.5, 4.5]
    dd.from_pandas(frame, npartitions=2).to_parquet(f"{url}/dask", storage_options=site.options)
    assert pd.read_parquet(f"{url}/dask", storage_options=site.options)["total"].sum() == 12.0


def test_pyarrow(site: ConfiguredSet, url: str, frame: pd.DataFrame) -> None:
    path = url.removeprefix("fsbackup://")
    table, fs = pa.Table.from_pandas(frame), site.shared
    pa.dataset.write_dataset(table, path, filesystem=fs, format="parquet")
    assert pa.dataset.dataset(path, filesystem=fs).to_table().equals(table, check_metadata=False)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(site: ConfiguredSet, url: str, version: Literal[2, 3]) -> None:
    """An array is created, opened again, and written to."""
    options = site.options
    array = zarr.create_array(
        url, shape=(10,), chunks=(5,), dtype="i4", storage_options=options, zarr_format=version
    )
    array[:] = np.arange(10)
    again = zarr.open_array(url, mode="a", storage_options=site.options)
    again[2] = 20
    back = zarr.open_array(url, mode="r", storage_options=site.options)
    assert np.array_equal(back[1:4], [1, 20, 3])


def test_duckdb(site: ConfiguredSet, url: str) -> None:
    with duckdb.connect() as connection:
        connection.register_filesystem(site.shared)
        connection.execute(f"COPY (SELECT range AS n FROM range(10)) TO '{url}/n.parquet'")
        assert connection.execute(f"SELECT sum(n) FROM '{url}/n.parquet'").fetchone() == (45,)


def test_directories_and_names(site: ConfiguredSet, url: str, tmp_path: pytest.TempPathFactory) -> None:
    """`put` of a tree, `mkdir`, `touch`, copies, globs and what is not there."""
    base = UPath(url, **site.options)
    source = UPath(str(tmp_path)) / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep/file").write_bytes(b"1")
    assert not base.exists()
    base.mkdir()
    (base / "touched").touch()
    fs = base.fs
    fs.put(str(source), base.path, recursive=True)
    (base / "source/deep/file").copy(base / "copied")
    assert sorted(each.name for each in base.iterdir()) == ["copied", "source", "touched"]
    assert fs.glob(f"{base.path}/**/file") == [f"{base.path}/source/deep/file"]
    assert not fs.exists(f"{base.path}/nothing")
    assert fs.find(f"{base.path}/nowhere") == []
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{base.path}/nothing")
    (base / "touched").unlink()
    with pytest.warns(DegradedWriteWarning, match="source/deep/file is deleted on local0, local1 only: moto2: "):
        fs.rm(f"{base.path}/source", recursive=True)
    fs.mv(f"{base.path}/copied", f"{base.path}/moved")
    assert [each.name for each in base.iterdir()] == ["moved"]


def test_many_partitions_wait_once(site: ConfiguredSet, url: str) -> None:
    """The service is asked whether it is back, and not once for each; a busy one is asked a few times more."""
    proxy, fs = site.proxies["moto2"], site.fs()
    proxy.forget()
    for number in range(50):
        fs.pipe_file(f"{url}/p={number}/x.parquet", b"x")
    assert len(fs.find(url)) == 50
    fs.rm(url, recursive=True)
    assert not fs.exists(url)
    assert sum(not each.key.endswith("/backend") for each in proxy.requests) < 25


def test_what_a_write_says(site: ConfiguredSet, url: str) -> None:
    """A warning that a notebook shows, the report, and who does not answer, since when and why."""
    fs = site.fs()
    assert fs.last_report is None  # nothing was stored
    with pytest.warns(DegradedWriteWarning, match=f"{url}/x is stored on local0, local1 only: moto2: .*repair"):
        fs.pipe_file(f"{url}/x", b"1")
    report = fs.last_report
    assert report is not None
    assert report.status == "degraded"
    assert [name for name, each in report.replicas.items() if not each.ok] == ["moto2"]
    assert fs.cat_file(f"{url}/x") == b"1"
    health = fs.health()[ROOT.partition("/")[0]]
    assert health["local0"] is health["local1"] is None
    outage = health["moto2"]
    assert outage is not None
    assert outage.since.tzinfo is not None
    assert "moto2" in str(outage.error)


@pytest.mark.matrix
@pytest.mark.parametrize("version", [2, 3])
def test_xarray(site: ConfiguredSet, url: str, version: int) -> None:
    """A data set is created, opened again, and appended to."""
    import xarray as xr

    data = xr.Dataset({"total": ("day", np.arange(4.0))}, coords={"day": np.arange(4)})
    data.to_zarr(url, zarr_format=version, consolidated=False, storage_options=site.options)
    more = data.assign_coords(day=data["day"] + 4)
    more.to_zarr(url, append_dim="day", zarr_format=version, consolidated=False, storage_options=site.options)
    back = xr.open_zarr(url, consolidated=False, storage_options=site.options)
    assert back["total"].sum() == 12.0
    assert list(back["day"].to_numpy()) == list(range(8))


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:The 'fastparquet' engine is deprecated")
def test_fastparquet(site: ConfiguredSet, url: str, frame: pd.DataFrame) -> None:
    options = {"engine": "fastparquet", "storage_options": site.options}
    frame.to_parquet(f"{url}/one.parquet", **options)
    assert pd.read_parquet(f"{url}/one.parquet", **options)["total"].sum() == 12.0


@pytest.mark.matrix
def test_polars(site: ConfiguredSet, url: str, frame: pd.DataFrame) -> None:
    import polars as pl

    fs = site.shared
    with fs.open(f"{url}/x.parquet", "wb") as file:
        pl.from_pandas(frame).write_parquet(file)
    with fs.open(f"{url}/x.parquet") as file:
        assert pl.read_parquet(file)["total"].sum() == 12.0
    with fs.open(f"{url}/x.csv", "wb") as file:
        pl.from_pandas(frame).write_csv(file)
    with fs.open(f"{url}/x.csv") as file:
        assert pl.read_csv(file)["total"].sum() == 12.0


@pytest.mark.matrix
def test_hugging_face_datasets(
    site: ConfiguredSet,
    url: str,
    frame: pd.DataFrame,
    tmp_path: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A data set is saved and loaded, and made of files; the library passes options for its own protocol."""
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import datasets

    datasets.Dataset.from_pandas(frame).save_to_disk(f"{url}/saved", storage_options=site.options)
    assert sum(datasets.load_from_disk(f"{url}/saved", storage_options=site.options)["total"]) == 12.0
    frame.to_parquet(f"{url}/x.parquet", storage_options=site.options)
    loaded = datasets.load_dataset(
        "parquet",
        data_files=f"{url}/*.parquet",
        storage_options=site.options,
        cache_dir=str(tmp_path),
        split="train",
    )
    assert sum(loaded["total"]) == 12.0


@pytest.mark.matrix
@pytest.mark.parametrize("store_dropped", [True, False])
def test_duckdb_export(site: ConfiguredSet, url: str, store_dropped: bool) -> None:
    """And imported; the two scripts, which DuckDB never closes, are stored by choice only."""
    fs = site.fs(store_dropped=store_dropped)
    expected = nullcontext() if store_dropped else pytest.warns(NotStoredWarning, match=r"all/(schema|load)\.sql")
    with duckdb.connect() as connection, expected:
        connection.register_filesystem(fs)
        connection.execute("CREATE TABLE n AS SELECT range AS n FROM range(10)")
        connection.execute(f"EXPORT DATABASE '{url}/all' (FORMAT parquet)")
    with duckdb.connect() as connection:
        connection.register_filesystem(fs)
        if store_dropped:
            connection.execute(f"IMPORT DATABASE '{url}/all'")
        else:
            connection.execute(f"CREATE TABLE n AS SELECT * FROM '{url}/all/n.parquet'")
        assert connection.execute("SELECT sum(n) FROM n").fetchone() == (45,)
