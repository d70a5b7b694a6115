"""No secret in anything that people see or that is stored; a set crosses into another process without one."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.backends import SingleBackend
from tests.replication.rig import ReplicaRig, connect, content
from tests.servers.endpoint import S3Endpoint, new_credentials
from tests.servers.faults import Refuse

KEY = "backups/secret.dump"
CONFIG = """
version: 1
backends:
  local: {{type: local, path: {base}}}
  r2:
    type: s3
    bucket: {bucket}
    endpoint_url: "{url}"
    access_key_id: "{id}"
    secret_access_key: "{secret}"
    prefix: {prefix}
replication:
  pair: {{backends: [local, r2], min_copies: 2}}
"""


def assert_hidden(text: str, *endpoints: S3Endpoint) -> None:
    """Check that neither half of any pair of credentials is in a text."""
    for endpoint in endpoints:
        for secret in (endpoint.secret_access_key, endpoint.access_key_id):
            assert secret not in text, f"{secret!r} is shown in {text[max(0, text.index(secret) - 200) :][:400]}"


@pytest.fixture
def shown(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return what our loggers said at DEBUG, with every field of every record and the tracebacks."""
    caplog.set_level(logging.DEBUG, "fsbackup")

    def text() -> str:
        ours = [record for record in caplog.records if record.name.startswith("fsbackup")]
        return "\n".join(f"{logging.Formatter().format(record)} {vars(record)}" for record in ours)

    return text


def described(error: BaseException) -> str:
    """Return all that an exception says, with everything underneath and its pickle."""
    lines = "".join(traceback.format_exception(error))
    return f"{lines}{error!r}{vars(error)}{pickle.dumps(error)!r}"


def dumped(dump: Callable[..., Any], *objects_planned: Any) -> str:
    """Return what a dump says, or how it refuses."""
    try:
        return repr(dump(*objects_planned))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        return described(error)


def test_success_shows_no_secret(rig: ReplicaRig, shown: Callable[[], str]) -> None:
    """Store, list, ask, read and delete: nothing logged, reported, printed or stored has a secret in it."""
    store = rig.store()
    report = store.replicate(rig.file(content(3000)), KEY)
    seen = [repr(report), str(report.as_dict()), repr(store), repr(pickle.dumps(report))]
    for name in ("r2", "b2"):
        backend = store.backends[name]
        seen += [repr(backend), str(backend), backend.location, repr(backend.store), repr(backend.fs)]
        seen += [str(backend.fs.storage_options), dumped(backend.fs.to_json), dumped(pickle.dumps, backend.fs)]
        manifest = rig.raw_replicas[name].get(f".fsbackup/manifests/{KEY}")
        assert manifest is not None
        seen.append(manifest.decode())
    seen += [repr(list(store.ls())), repr(store.status()), repr(store.stat(KEY))]
    seen += [repr(store.restore(KEY, rig.tmp / "back")), repr(store.remove(KEY)), shown()]
    assert_hidden("\n".join(seen), *rig.endpoints.values())


@pytest.mark.parametrize("role", ["r2", "b2"])
@pytest.mark.parametrize("wrong", ["secret", "both"])
def test_a_server_that_refuses_the_keys_shows_none(
    rig: ReplicaRig, shown: Callable[[], str], role: str, wrong: str
) -> None:
    """Keys that SeaweedFS does not accept: 403 answers name the access key, and our errors must not."""
    key_id, secret = new_credentials()
    sea = rig.endpoints["b2"]
    bad = (
        replace(sea, secret_access_key=secret)
        if wrong == "secret"
        else replace(sea, access_key_id=key_id, secret_access_key=secret)
    )
    backend = connect(role, bad, rig.prefix, errors="raise", name="bad")
    assert_hidden(_every_failure(backend, rig.file(b"x"), rig.tmp / "back") + shown(), bad, sea)


def test_a_server_that_is_away_shows_no_secret(rig: ReplicaRig, shown: Callable[[], str]) -> None:
    """Refused connections end in errors, logs and reports without a secret."""
    rig.proxies["r2"].add(Refuse())
    backend = rig.backend("r2", errors="raise", timeout=0.5)
    text = _every_failure(backend, rig.file(b"x"), rig.tmp / "back") + shown()
    assert_hidden(text, rig.endpoints["r2"])


def _every_failure(backend: SingleBackend, source: Path, target: Path) -> str:
    """Have every operation fail, and return what the errors and reports tell."""
    store = ReplicatedStorage([backend], errors="raise")
    report = store.replicate(source, KEY)
    assert not report
    seen = [repr(report), str(report.as_dict()), repr(pickle.dumps(report)), described(report.failure())]
    attempts: list[Callable[[], Any]] = [
        lambda: backend.upload(source, KEY),
        lambda: backend.download(KEY, target),
        lambda: backend.exists(KEY),
        lambda: backend.delete(KEY),
        lambda: backend.get_size(KEY),
        lambda: list(store.ls()),
        store.status,
        lambda: store.stat(KEY),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - whichever it is
            attempt()
        seen.append(described(caught.value))
    return "\n".join(seen)


@pytest.mark.parametrize("name", ["local", "r2", "b2"])
def test_a_backend_cannot_be_pickled_or_copied(rig: ReplicaRig, name: str) -> None:
    """A backend holds credentials and connections: pickling it, or a set of it, is refused with a reason."""
    backend = rig.backend(name)
    for planned in (backend, ReplicatedStorage([backend])):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled"):
                attempt(planned)


@pytest.fixture
def configured(rig: ReplicaRig) -> ReplicatedStorage:
    """Return a set from a configuration file with secrets in it, which holds one object."""
    end = rig.endpoints["b2"]
    path = rig.tmp / "fsbackup.yaml"
    path.write_text(
        CONFIG.format(
            base=rig.base,
            bucket=end.bucket,
            url=end.endpoint_url,
            id=end.access_key_id,
            secret=end.secret_access_key,
            prefix=rig.prefix,
        )
    )
    store = ReplicatedStorage.from_config(path, "pair", errors="raise")
    assert store.replicate(rig.file(content(3000)), KEY).status == "complete"
    return store


def _in_child(store: ReplicatedStorage, source: Path, target: Path) -> None:
    """Read and write in another process; any failure is its exit code."""
    try:
        store.restore(KEY, target)
        assert store.replicate(source, "from/child").status == "complete"
        assert {entry.copies for entry in store.ls()} == {2}
    except BaseException:  # noqa: BLE001 - told by the exit code
        traceback.print_exc()
        os._exit(1)


def test_a_configured_set_crosses_into_a_spawned_process(configured: ReplicatedStorage, rig: ReplicaRig) -> None:
    """Its pickle is path and name, without a secret; the other process opens it and works."""
    data = pickle.dumps(configured)
    assert_hidden(repr(data), rig.endpoints["b2"])
    again = pickle.loads(data)
    assert (again.name, again.errors, list(again.backends)) == ("pair", "raise", ["local", "r2"])
    context = multiprocessing.get_context("spawn")
    target = rig.tmp / "back"
    child = context.Process(target=_in_child, args=(configured, rig.file(b"of the child"), target))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert target.read_bytes() == content(3000)
    assert configured.get_size("from/child") == 12


def test_a_set_works_in_a_forked_process_and_still_in_its_parent(
    configured: ReplicatedStorage, rig: ReplicaRig
) -> None:
    """`os.fork` after use: the child has a loop of its own, and neither side's connections disturb the other."""
    source, target = rig.file(b"of the child"), rig.tmp / "back"
    child = os.fork()
    if child == 0:
        _in_child(configured, source, target)
        os._exit(0)
    configured.restore(KEY, rig.tmp / "meanwhile")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert target.read_bytes() == content(3000)
    assert configured.replicate(source, "from/parent").status == "complete"
    assert configured.get_size("from/child") == 12
