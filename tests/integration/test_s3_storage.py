"""The backends built on the S3 adapter: their arguments, their variables, and what they never show."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from fsbackup.backends import BackblazeB2Storage, CloudflareR2Storage, S3Backend, S3Storage
from fsbackup.errors import ConfigError
from fsbackup.loop import run
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import connect
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import FaultProxy

KEYS: dict[str, Any] = {"access_key_id": "AKIDENTIFIER", "secret_access_key": "s3cr3t-s3cr3t"}
TEMPORARY: dict[str, Any] = {**KEYS, "session_token": "t0ken-t0ken"}
R2_ENVIRONMENT = {
    "R2_ACCOUNT_ID": "accountid",
    "R2_BUCKET_NAME": "r2-bucket",
    "R2_ACCESS_KEY_ID": "AKIDENTIFIER",
    "R2_SECRET_ACCESS_KEY": "s3cr3t-s3cr3t",
}
B2_ENVIRONMENT = {
    "B2_BUCKET_NAME": "b2-bucket",
    "B2_REGION": "us-east-005",
    "B2_ACCESS_KEY_ID": "AKIDENTIFIER",
    "B2_SECRET_ACCESS_KEY": "s3cr3t-s3cr3t",
}
BACKENDS: dict[str, Callable[[], S3Backend]] = {
    "s3": lambda: S3Storage("bucket", endpoint_url="http://127.0.0.1:1", **TEMPORARY),
    "r2": lambda: CloudflareR2Storage("account", "bucket", **TEMPORARY),
    "b2": lambda: BackblazeB2Storage("bucket", "us-west-004", **TEMPORARY),
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*R2_ENVIRONMENT, *B2_ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)


# --- arguments and variables ------------------------------------------------------------------------------


def test_r2_from_arguments() -> None:
    r2 = CloudflareR2Storage("accountid", "backups", **KEYS, prefix="team/x")
    assert (r2.name, r2.bucket) == ("r2", "backups")
    assert r2.endpoint_url == "https://accountid.r2.cloudflarestorage.com"
    assert r2.location == "r2://backups/team/x at https://accountid.r2.cloudflarestorage.com"
    assert (r2.store.capabilities.conditional_create, r2.store.capabilities.removes_versions) == (True, False)
    assert r2.store.capabilities.wants_md5


def test_r2_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in R2_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    r2 = CloudflareR2Storage()
    assert (r2.bucket, r2.endpoint_url) == ("r2-bucket", "https://accountid.r2.cloudflarestorage.com")
    assert CloudflareR2Storage(bucket="mine").bucket == "mine"


def test_b2_from_arguments() -> None:
    b2 = BackblazeB2Storage("backups", "us-west-004", **KEYS, name="cold")
    assert (b2.name, b2.bucket) == ("cold", "backups")
    assert b2.endpoint_url == "https://s3.us-west-004.backblazeb2.com"
    assert b2.location == "b2://backups at https://s3.us-west-004.backblazeb2.com"
    assert (b2.store.capabilities.conditional_create, b2.store.capabilities.removes_versions) == (False, True)


def test_b2_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in B2_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    b2 = BackblazeB2Storage()
    assert (b2.bucket, b2.endpoint_url) == ("b2-bucket", "https://s3.us-east-005.backblazeb2.com")


def test_s3_from_arguments() -> None:
    plain = S3Storage("backups", **KEYS)
    assert (plain.name, plain.endpoint_url, plain.location) == ("s3", None, "s3://backups")
    assert plain.store.capabilities.conditional_create
    other = S3Storage("backups", endpoint_url="https://s3.example.com", **KEYS)
    assert not other.store.capabilities.conditional_create


def test_an_endpoint_needs_no_account() -> None:
    r2 = CloudflareR2Storage(bucket="b", endpoint_url="https://x.eu.r2.cloudflarestorage.com", **KEYS)
    assert r2.endpoint_url == "https://x.eu.r2.cloudflarestorage.com"


@pytest.mark.parametrize(
    ("make", "missing"),
    [
        (CloudflareR2Storage, list(R2_ENVIRONMENT)),
        (BackblazeB2Storage, list(B2_ENVIRONMENT)),
        (lambda: S3Storage("b"), ["access_key_id", "secret_access_key"]),
        (lambda: S3Storage("", access_key_id="x"), ["bucket", "secret_access_key"]),
        (lambda: CloudflareR2Storage(endpoint_url="http://x", bucket="b"), list(R2_ENVIRONMENT)[2:]),
    ],
)
def test_everything_that_is_missing_is_named_at_once(make: Callable[[], Any], missing: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert all(name in str(caught.value) for name in missing)
    assert str(caught.value).count("R2_ACCOUNT_ID") == ("R2_ACCOUNT_ID" in missing)


@pytest.mark.parametrize("prefix", ["/abs", "a//b", "../up", "a/./b", "x\0y", "//"])
def test_a_prefix_that_no_key_could_begin_with_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be used|must not be empty"):
        S3Storage("b", prefix=prefix, **KEYS)


@pytest.mark.parametrize("url", ["r2.example.com", "ftp://x", "https://user:pass@x", "https://"])
def test_an_endpoint_that_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint_url") as caught:
        S3Storage("b", endpoint_url=url, **KEYS)
    assert "pass@" not in str(caught.value)


def test_a_way_of_addressing_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="addressing"):
        S3Storage("b", **KEYS, addressing="host")  # type: ignore[arg-type]  # as from a careless program


@pytest.mark.parametrize("variable", ["R2_SESSION_TOKEN", "B2_SESSION_TOKEN"])
def test_a_token_from_the_environment_is_sent(
    monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy, variable: str
) -> None:
    monkeypatch.setenv(variable, "t0ken-t0ken")
    keys = {**KEYS, "endpoint_url": proxy.endpoint.endpoint_url, "bucket": proxy.endpoint.bucket}
    made = CloudflareR2Storage(**keys) if variable[0] == "R" else BackblazeB2Storage(region="us-east-1", **keys)
    run(made.store.stat("any"))
    run(made.store.close())
    assert {dict(one.headers)["X-Amz-Security-Token"] for one in proxy.requests} == {"t0ken-t0ken"}


@pytest.mark.parametrize(("option", "value"), [("timeout", 0), ("timeout", -1), ("max_concurrency", 0)])
def test_numbers_that_make_no_sense_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        S3Storage("b", **{**KEYS, option: value})


# --- what is never shown ------------------------------------------------------------------------------------


def _shown(value: object, depth: int = 6) -> str:
    """Return all that looking around in an object shows."""
    text = f"{value!r} {value!s}"
    inside = list(vars(value).values()) if hasattr(value, "__dict__") and depth else []
    slots = [getattr(value, name) for name in getattr(type(value), "__slots__", ()) if depth]
    return " ".join([text, *(_shown(one, depth - 1) for one in [*inside, *slots])])


@pytest.mark.parametrize("kind", BACKENDS)
def test_keys_are_never_shown(kind: str) -> None:
    backend = BACKENDS[kind]()
    shown = _shown(backend) + _shown(backend.store) + repr(backend.fs.storage_options) + repr(backend.fs)
    assert "bucket" in shown
    assert [value for value in TEMPORARY.values() if value in shown] == []


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_store_cannot_be_pickled_and_says_why(kind: str) -> None:
    with pytest.raises(TypeError, match="configuration"):
        pickle.dumps(BACKENDS[kind]().store)


@pytest.mark.parametrize("kind", BACKENDS)
def test_the_filesystem_cannot_be_sent_away_with_the_keys(kind: str) -> None:
    fs = BACKENDS[kind]().fs
    for dump in (pickle.dumps, lambda one: one.to_json(), lambda one: json.dumps(one.to_dict())):
        try:
            told = str(dump(fs))
        except Exception:  # noqa: BLE001 - refusing is right, however it is done
            continue
        assert [value for value in TEMPORARY.values() if value in told] == []


# --- loading, notebooks, forks, closing ---------------------------------------------------------------------


def _python(code: str, *arguments: str) -> str:
    """Run a program of its own, with warnings as errors, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "AWS_PROFILE": "no-such-profile"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def test_nothing_heavy_is_loaded_before_it_is_used() -> None:
    code = """
        import sys
        from fsbackup.backends import CloudflareR2Storage
        from fsbackup.backends import BackblazeB2Storage
        CloudflareR2Storage("a", "b", "c", "d").location
        print([name for name in ("s3fs", "botocore", "aiobotocore", "aiohttp", "fsspec") if name in sys.modules])
    """
    assert _python(code) == "[]"


_CONNECT = """
    import asyncio, os, sys
    from fsbackup.stores.s3.store import S3Store
    from fsbackup.loop import run
    url, bucket, key_id, secret, region = sys.argv[1:]
    store = S3Store("x", bucket=bucket, endpoint_url=url, region=region, access_key_id=key_id,
                      secret_access_key=secret, timeout=20)
"""


def _arguments(endpoint: S3Endpoint) -> tuple[str, ...]:
    keys = (endpoint.access_key_id, endpoint.secret_access_key)
    return (endpoint.endpoint_url, endpoint.bucket, *keys, endpoint.region)


def test_a_program_may_end_without_closing(moto: S3Endpoint) -> None:
    """And somebody else's AWS profile is nobody's business."""
    code = f"""{_CONNECT}
    run(store.put("a", b"x"))
    print(run(store.read("a")).decode())
    """
    assert _python(code, *_arguments(s3.fresh_bucket(moto))) == "x"


def test_a_forked_child_makes_its_own_connections(seaweedfs: S3Endpoint) -> None:
    """And leaves its parent's alone, which are kept alive and share what the kernel knows of them."""
    code = f"""{_CONNECT}
    import gc
    async def clean_up():
        gc.collect()
        await asyncio.sleep(0.1)
    run(store.put("a", b"parent"))
    child = os.fork()
    if not child:
        run(store.put("b", run(store.read("a")) + b" and child"))
        run(clean_up())  # must not close what is the parent's
        run(store.close())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(run(store.read("b")).decode(), run(store.read("a")).decode())
    run(store.close())
    """
    assert _python(code, *_arguments(s3.fresh_bucket(seaweedfs))) == "parent and child parent"


def test_the_filesystem_works_in_a_notebook(seaweedfs: S3Endpoint) -> None:
    endpoint = s3.fresh_bucket(seaweedfs)
    store = connect(endpoint)
    run(store.put("a/b.txt", b"hello"))
    fs = store.filesystem
    assert fs is store.filesystem
    assert [name.removeprefix(f"{endpoint.bucket}/") for name in fs.ls(f"{endpoint.bucket}/a")] == ["a/b.txt"]
    assert fs.cat_file(f"{endpoint.bucket}/a/b.txt") == b"hello"
    run(store.put("a/c.txt", b"x"))
    assert len(fs.ls(f"{endpoint.bucket}/a")) == 2  # nothing is answered from memory
    run(store.close())


def test_a_store_works_again_after_it_was_closed(moto: S3Endpoint) -> None:
    store = connect(s3.fresh_bucket(moto))
    run(store.close())
    for number in range(3):
        run(store.put(f"{number}", b"x"))
        run(store.close())
        run(store.close())
    assert run(store.read("2")) == b"x"
    run(store.close())


def test_one_bucket_may_hold_many_prefixes(moto: S3Endpoint) -> None:
    endpoint = s3.fresh_bucket(moto)
    stores: dict[str, S3Store] = {
        prefix: connect(endpoint, prefix=prefix) for prefix in ("", "one", "one/", "one/two")
    }
    for prefix in ("one", "one/two"):
        run(stores[prefix].put("x", prefix.encode()))
    assert set(s3.list_keys(endpoint)) == {"one/x", "one/two/x"}
    assert run(stores["one/"].read("x")) == b"one"
    assert run(stores[""].read("one/two/x")) == b"one/two"
    assert stores["one/two"].location.startswith(f"s3://{endpoint.bucket}/one/two at ")
    for store in stores.values():
        run(store.close())
