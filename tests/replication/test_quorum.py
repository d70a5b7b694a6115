"""What a quorum proves: absence, and that a version is the newest; and what is said without one."""

from __future__ import annotations

import asyncio
import io
from datetime import timedelta
from typing import Any

import pytest

from fsbackup import ReplicatedStorage, StaleReadWarning
from fsbackup.engine.results import Report
from fsbackup.errors import BackendUnavailableError, ConfigError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.retention import Retention
from tests.replication.memory import MemoryStore, backend
from tests.replication.raw_replicas import MARKER, mark
from tests.replication.rig import ReplicaRig, content
from tests.servers.faults import Refuse

KEY = "backups/db.dump"
DAYS = {days: Retention(max_age=timedelta(days=days)) for days in (30, 365)}


class Away(MemoryStore):
    """A store that does not answer while `away`."""

    away = False

    async def stat(self, name: str) -> Any:
        self._check()
        return await super().stat(name)

    async def read(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return await super().read(name, *args, **kwargs)

    def _check(self) -> None:
        if self.away:
            raise BackendUnavailableError("away", backend=self.name)


def make_set(
    count: int = 3, min_copies: int = 2, away: str = "", **options: Any
) -> tuple[dict[str, Away], ReplicatedStorage]:
    """Return stores a, b, c in use, and the set of them; those in `away` do not answer."""
    stores = {name: Away(name) for name in "abcde"[:count]}
    for number, each in enumerate(stores.values()):
        each.place(MARKER, mark(number))
    for name in away:
        stores[name].away = True
    backends = [backend(each) for each in stores.values()]
    return stores, ReplicatedStorage(backends, min_copies=min_copies, errors="raise", **options)


def put(store: ReplicatedStorage, data: bytes) -> Report:
    """Store an object, also in place of another version."""
    return store.replicate(io.BytesIO(data), KEY, overwrite=True)


@pytest.mark.parametrize(
    ("count", "min_copies", "away", "proven"),
    [
        (3, 2, "c", True),
        (3, 2, "bc", False),
        (3, 3, "bc", True),
        (3, 1, "c", False),
        (2, 1, "b", False),
        (2, 2, "b", True),
        (5, 3, "de", True),
        (5, 3, "cde", False),
        (1, 1, "", True),
    ],
)
def test_absence(count: int, min_copies: int, away: str, proven: bool) -> None:
    """Of N replicas, N - min_copies + 1 clear noes are enough: a confirmed object is on one of them."""
    _, store = make_set(count, min_copies, away)
    if proven:
        assert not store.exists(KEY)
        assert store.get_size(KEY) is None
        for read in (store.read, store.stat):
            with pytest.raises(ObjectNotFoundError):
                read(KEY)
        return
    for ask in (store.exists, store.get_size, store.read, store.stat):
        with pytest.raises(NoHealthyReplicaError, match="too few"):
            ask(KEY)


@pytest.mark.parametrize(
    ("rules", "away", "proven"),
    [
        ({"a": 30, "b": 365, "c": 365}, "c", True),  # b has what c has
        ({"a": 30, "b": 365, "c": 365}, "a", True),
        ({"a": 30, "b": 30, "c": 365}, "c", False),  # what is old is on c alone
        ({"a": 30, "b": 30, "c": 365}, "b", True),
        ({"a": 30, "b": 30}, "c", False),  # without a rule, c keeps everything
    ],
)
def test_absence_where_retention_differs(rules: dict[str, int], away: str, proven: bool) -> None:
    """What one backend has let go, another one keeps: the noes of those that keep longest count."""
    _, store = make_set(away=away, retention={name: DAYS[days] for name, days in rules.items()})
    if proven:
        assert not store.exists(KEY)
    else:
        with pytest.raises(NoHealthyReplicaError):
            store.exists(KEY)


@pytest.mark.parametrize(
    ("local", "cloud", "proven"),
    [
        ({"keep_last": 7}, {}, False),  # the disk keeps the last seven of a series that has ended, c only one
        ({}, {"keep_monthly": 12}, True),
        ({"keep_daily": 7}, {"keep_monthly": 12}, False),  # neither keeps all that the other one does
    ],
)
def test_rules_of_which_none_keeps_all(local: dict[str, Any], cloud: dict[str, Any], proven: bool) -> None:
    """Then all backends must answer."""
    month, year = timedelta(days=30), timedelta(days=365)
    rules = {"a": Retention(max_age=month, **local), "b": Retention(max_age=year, **cloud)}
    _, store = make_set(away="a", retention={**rules, "c": rules["b"]})
    if proven:
        assert not store.exists(KEY)
    else:
        with pytest.raises(NoHealthyReplicaError):
            store.exists(KEY)


def test_a_manifest_whose_data_is_gone_is_no_clear_no() -> None:
    """The data may be where nobody answers."""
    stores, store = make_set()
    assert put(store, b"data")
    for name in "ab":
        del stores[name].objects[KEY]
    stores["c"].away = True
    for ask in (store.exists, store.get_size, store.read, store.stat):
        with pytest.raises(NoHealthyReplicaError):
            ask(KEY)


def write_two_versions(stores: dict[str, Away], store: ReplicatedStorage) -> None:
    """Have an old version on a, which slept through the overwrite, and the new one on the others."""
    assert put(store, b"old")
    stores["a"].away = True
    assert put(store, b"new")
    stores["a"].away = False


def test_a_stale_replica_alone_is_read_with_a_warning() -> None:
    """With two of three away nobody can tell; who they are is said."""
    stores, store = make_set()
    write_two_versions(stores, store)
    stores["b"].away = stores["c"].away = True
    with pytest.warns(StaleReadWarning, match=f"{KEY}: a newer version may exist.*b, c: away"):
        assert store.read(KEY) == b"old"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("away", ["b", "c"])
def test_a_quorum_knows_the_newest(away: str) -> None:
    """Without a warning; so does any one replica where all have to confirm."""
    stores, store = make_set()
    write_two_versions(stores, store)
    stores[away].away = True
    assert store.read(KEY) == b"new"
    _, all_of_them = make_set(min_copies=3)
    assert put(all_of_them, b"data")
    assert all_of_them.read(KEY) == b"data"


def test_what_is_not_proven_can_be_an_error() -> None:
    stores, store = make_set(unproven="raise")
    write_two_versions(stores, store)
    stores["b"].away = stores["c"].away = True
    with pytest.raises(NoHealthyReplicaError, match="a newer version may exist") as caught:
        store.read(KEY)
    assert "unproven: warn" in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_what_is_not_proven_can_be_allowed() -> None:
    stores, store = make_set(unproven="allow")
    write_two_versions(stores, store)
    stores["b"].away = stores["c"].away = True
    assert store.read(KEY) == b"old"


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="unproven must be one of warn, raise, allow, not 'never'"):
        make_set(unproven="never")


def test_the_report_says_so(rig: ReplicaRig) -> None:
    """Whether or not Python's warnings are shown."""
    store = rig.store(min_copies=2)
    assert store.replicate(rig.file(content(100)), KEY)
    assert store.restore(KEY, rig.tmp / "back").proven
    for proxy in rig.proxies.values():
        proxy.add(Refuse())
    with pytest.warns(StaleReadWarning, match="r2"):
        report = rig.store(min_copies=2).restore(KEY, rig.tmp / "back")
    assert report
    assert report.proven is report.as_dict()["proven"] is False


class Left(Away):
    """A store that has what it has until it is asked for it: then that is in another one."""

    other: MemoryStore | None = None

    async def stat(self, name: str) -> Any:
        if name == KEY and self.other is not None:
            await asyncio.sleep(0)  # the other one has answered
            self.other.objects |= {each: self.objects.pop(each) for each in list(self.objects) if KEY in each}
        return await super().stat(name)


@pytest.mark.parametrize("question", ["exists", "get_size", "read", "stat"])
def test_what_has_gone_from_one_replica_to_another_is_there(question: str) -> None:
    """Although each of them says that it does not have it, at different instants."""
    there, left = Away("there"), Left("left")
    for number, each in enumerate([there, left]):
        each.place(MARKER, mark(number))
    ReplicatedStorage([backend(left)], errors="raise").replicate(io.BytesIO(b"data"), KEY)
    both = ReplicatedStorage([backend(there), backend(left)], min_copies=1, errors="raise")
    left.other = there
    assert getattr(both, question)(KEY)
    assert there.objects[KEY] == b"data"
