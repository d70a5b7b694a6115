"""Judges what the stores hold after each step, and what the operations have reported; no code of the package."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.simulation.operation import KEY, Operation
from tests.simulation.proof import View, garbage, generation_in, look
from tests.simulation.store import Bucket, Found, Stored
from tests.simulation.world import Request


@dataclass(frozen=True)
class Violation:
    """A broken promise: which one, on what kind of stores, at which step, and the details."""

    promise: str
    where: str
    step: int
    details: str

    @property
    def kind(self) -> str:
        return f"{self.promise} [{self.where}]"

    def __str__(self) -> str:
        return f"step {self.step}: {self.kind}: {self.details}"


@dataclass(frozen=True)
class Change:
    """Another data object than before stands under the key of a store."""

    step: int
    bucket: Bucket
    operation: Operation | None
    before: View
    after: View
    #: Whether the process had met the data before, and the highest generation it knew.
    had_seen: bool
    known: int
    #: The highest generation that a tombstone of any store had deleted.
    deleted: int


@dataclass
class Judge:
    """Looks at the stores after each step (`after`), and at the reports in the end.

    Parameters
    ----------
    buckets
        What the stores hold.
    operations
        By the names of their processes.
    contents
        All contents that the key may have.
    tolerated
        The serials of data that was wrong in the beginning.
    where
        What kind of stores the set has.
    min_copies
        How many replicas confirm a write.
    """

    buckets: Sequence[Bucket]
    operations: dict[str, Operation]
    contents: frozenset[bytes]
    tolerated: frozenset[int]
    where: str
    min_copies: int
    step: int = 0
    violations: list[Violation] = field(default_factory=list)
    #: By store: what it held, and since which step.
    history: dict[str, list[tuple[int, View]]] = field(default_factory=dict)
    #: The generation and SHA-256 of each data object that was ever proven, by its serial.
    proven: dict[int, tuple[int, str]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    _seen: dict[str, set[int]] = field(default_factory=dict)
    _known: dict[str, int] = field(default_factory=dict)
    #: For each reader: whether a replica has proven a content ever since it began, and with no tombstone.
    _ever_since: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    #: By SHA-256: how many replicas proved it when all operations had ended.
    _held: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.hashes = {hashlib.sha256(each).hexdigest(): each for each in self.contents}
        for bucket in self.buckets:
            view = look(_current(bucket), KEY)
            self.history[bucket.name] = [(0, view)]
            self._note_proof(view)
        self.beginning = {name: views[0][1] for name, views in self.history.items()}
        self._before = self._readable()
        self._deleted = max((each.tombstone or -1 for each in self.beginning.values()), default=-1)

    def view(self, bucket: Bucket) -> View:
        """Return what a store holds now."""
        return self.history[bucket.name][-1][1]

    def fail(self, promise: str, details: str, where: str = "") -> None:
        """Note a violation, once of each kind."""
        violation = Violation(promise, where or self.where, self.step, details)
        if violation.kind not in {each.kind for each in self.violations}:
            self.violations.append(violation)

    def after(self, request: Request, result: object, error: Exception | None) -> None:
        """Judge the state after one step."""
        self.step += 1
        name = request.process.name
        operation = self.operations.get(name)
        if operation is not None and operation.start > self.step:
            operation.start = self.step
        bucket = next(each for each in self.buckets if each.name == request.store)
        if request.writes and error is None:
            self._judge_store(bucket, operation, name)
        self._learn(request, result, bucket)
        self._watch_readers()

    def _learn(self, request: Request, result: object, bucket: Bucket) -> None:
        """Note what a process gets to know."""
        name, seen = request.process.name, self._seen.setdefault(request.process.name, set())
        if isinstance(result, Stored):
            if request.name == KEY:
                seen.add(result.serial)
            self._known[name] = max(self._known.get(name, -1), generation_in(request.name, KEY, result))
        elif isinstance(result, Found):
            seen.update(result.serials)
            current = bucket.get(KEY)
            if current is not None and KEY in {each.name for each in result.stats}:
                seen.add(current.serial)

    def _judge_store(self, bucket: Bucket, operation: Operation | None, process: str) -> None:
        before, now = self.view(bucket), look(_current(bucket), KEY)
        if before == now:
            return
        self.history[bucket.name].append((self.step, now))
        self._note_proof(now)
        self._deleted = max(self._deleted, -1 if now.tombstone is None else now.tombstone)
        if before.serial != now.serial:
            had_seen, known = before.serial in self._seen.get(process, ()), self._known.get(process, -1)
            self.changes.append(Change(self.step, bucket, operation, before, now, had_seen, known, self._deleted))
        if now.serial and now.serial not in self.tolerated:
            self._judge_data(bucket, before, now, process)

    def _note_proof(self, view: View) -> None:
        if view.state == "proven" and view.generation is not None:
            self.proven.setdefault(view.serial, (view.generation, view.sha256))

    def _judge_data(self, bucket: Bucket, before: View, now: View, process: str) -> None:
        """Judge the data and its proof at this moment."""
        where = describe([bucket])
        what = f"{bucket.name}: {self._name(now)} after a step of {process}, before: {self._name(before)}"
        if now.sha256 not in self.hashes:
            self.fail("mixture", what, where)
        once = self.proven.get(now.serial)
        if now.state == "unproven":
            self.fail("data that its records do not prove", what, where)
        elif now.state == "bare" and once is not None:
            self.fail("proven data lost its record", what, where)
        elif now.state == "hidden" and once is not None and now.tombstone is not None and once[0] > now.tombstone:
            self.fail("a tombstone hides a newer version", what, where)

    def _name(self, view: View) -> str:
        content = self.hashes.get(view.sha256, b"?").decode() if view.serial else "-"
        return f"{view.state} {content} #{view.serial} generation {view.generation}"

    def _watch_readers(self) -> None:
        """Note for each reader what has been true ever since it began."""
        now = self._readable()
        for name, operation in self.operations.items():
            if operation.verb == "read" and operation.start <= self.step and operation.status == "running":
                before = self._ever_since.get(name, self._before)
                self._ever_since[name] = before[0] and now[0], before[1] and now[1]
        self._before = now

    def _readable(self) -> tuple[bool, bool]:
        """Return whether a replica proves a content, and whether no tombstone stands against it."""
        views = [self.view(each) for each in self.buckets]
        proven = any(each.state == "proven" for each in views)
        return proven, proven and all(each.tombstone is None for each in views)

    # What the operations reported.

    def judge_reports(self) -> None:
        """Judge reports and changes, when all operations have ended."""
        self._held = Counter(view.sha256 for view in map(self.view, self.buckets) if view.state == "proven")
        for operation in self.operations.values():
            if operation.writes and operation.confirmed:
                self._judge_confirmed(operation)
            if operation.verb == "read":
                self._judge_read(operation)
        for change in self.changes:
            self._judge_change(change)
        self._judge_creators()

    def _judge_confirmed(self, operation: Operation) -> None:
        """Judge that what was confirmed was there, proven, at some moment before the report."""
        assert operation.content is not None
        wanted = hashlib.sha256(operation.content).hexdigest()
        for bucket in self.buckets:
            if bucket.name in operation.confirmed:
                during = self._views_during(bucket, operation)
                if not any(each.sha256 == wanted and each.state in ("proven", "hidden") for each in during):
                    self.fail(
                        "success for bytes that were never there",
                        f"{operation.name} on {bucket.name}",
                        describe([bucket]),
                    )

    def _views_during(self, bucket: Bucket, operation: Operation) -> list[View]:
        history = self.history[bucket.name]
        ends = [*(step for step, _ in history[1:]), 1 << 30]
        return [
            view
            for (_, view), end in zip(history, ends, strict=True)
            if end > operation.start and _ <= operation.end
        ]

    def _judge_read(self, operation: Operation) -> None:
        error = type(operation.error).__name__ if operation.error else ""
        proven, present = self._ever_since.get(operation.name, (False, False))
        if operation.status == "ok" and operation.content not in self.contents:
            if not self.tolerated or operation.content is None:
                self.fail("a reader got a mixture", f"{operation.content!r}")
        elif operation.status == "ok":
            self._judge_freshness(operation)
        elif operation.status == "failed" and not operation.faulted:
            if (proven and error == "IntegrityError") or (present and error == "NoHealthyReplicaError"):
                self.fail("a reader failed while a replica proved a content", f"{operation.error}")
            elif present and error == "ObjectNotFoundError":
                self.fail("a reader was told absent while a replica proved a content", f"{operation.error}")

    def _judge_freshness(self, reader: Operation) -> None:
        for writer in self.operations.values():
            if not writer.writes or writer.status != "ok" or len(writer.confirmed) < len(self.buckets):
                continue
            older = self._sources(reader.content)
            if writer.end < reader.start and all(end < writer.start for _, end in older):
                self.fail(
                    "a reader got what had been replaced everywhere", f"{reader.content!r}, not {writer.name}"
                )

    def _sources(self, content: bytes | None) -> list[tuple[int, int]]:
        """Return begin and end of what may have stored a content; the beginning counts as step 0."""
        found = [
            (each.start, each.end) for each in self.operations.values() if each.writes and each.content == content
        ]
        return found or [(0, 0)]

    def _judge_change(self, change: Change) -> None:
        """Judge that the version that went was the one that the process had looked at."""
        verb = change.operation.verb if change.operation else ""
        old, new = self.proven.get(change.before.serial), self.proven.get(change.after.serial)
        what = (
            f"{change.operation.name if change.operation else ''} on {change.bucket.name} at step {change.step}: "
            f"{self._name(change.before)} became {self._name(change.after)}"
        )
        where = describe([change.bucket])
        if old is None or change.before.serial in self.tolerated:
            return
        if change.after.serial and new is not None:
            if verb == "create" and self._is_others(change, old[1], new[1]) and old[0] > change.deleted:
                self.fail("a create-only writer replaced other content", what, where)
            if verb == "repair" and new[0] < old[0] and not self._came_back(change):
                self.fail("a repair put an older version over a newer one", what, where)
        elif not change.after.serial and verb in ("delete", "prune", "repair"):
            knows = change.had_seen or (verb != "prune" and old[0] <= change.known)
            if not knows:
                self.fail(f"a {verb} removed a version that it had not looked at", what, where)

    def _is_others(self, change: Change, old: str, new: str) -> bool:
        """Tell whether content of others went, for good, by an operation; not when it took back its own."""
        own = self.hashes.get(old) == change.operation.content if change.operation else False
        return old != new and not own and not self._came_back(change)

    def _came_back(self, change: Change) -> bool:
        """Tell whether what was replaced stood there again, as where the service keeps the versions before.

        Or what that had replaced itself: of several creators the first one stays there. What the third put over
        the second's was about to be taken back by that one, too, and nothing of it was to stay.
        """
        history = self.history[change.bucket.name]
        stood = {view.serial for step, view in history if step < change.step and view.serial}
        return any(view.serial in stood for step, view in history if step > change.step)

    def _judge_creators(self) -> None:
        """Judge that at most one create-only writer came first.

        Where `min_copies` is no majority, a replica that does not answer is no obstacle to one.
        """
        creators = [each for each in self.operations.values() if each.verb == "create" and each.status == "ok"]
        if any(each.verb == "delete" for each in self.operations.values()):
            return
        if not self._has_majority and any(each.faulted for each in creators):
            return
        contents = {each.content for each in creators}
        begun = self._begins_with()
        # A creator may be confirmed below a majority by others than who has other content, and does not answer.
        replaced = begun and any(self._has_majority or not each.faulted for each in creators)
        if len(contents) > 1 or replaced:
            where = f"{self.where}, {'majority' if self._has_majority else 'minority'}"
            names = ", ".join(each.name for each in creators)
            self.fail("several create-only writers were told success", names, where)

    # The end.

    def judge_end(self, problems: Iterable[str], work: Iterable[str]) -> None:
        """Judge the state after two repairs without anybody else.

        `problems` are what the first one left, `work` what the second one did.
        """
        views = [self.view(each) for each in self.buckets]
        final = {(each.state, each.sha256) for each in views}
        left = list(problems)
        if len(final) > 1 or next(iter(final))[0] not in ("absent", "proven") or left:
            if self._something_was_sure():
                self.fail(
                    f"repair does not settle: {_why(views, left)}",
                    f"{'; '.join(map(self._name, views))}; left: {left}",
                )
            return
        if done := [*work]:
            self.fail("a second repair finds work", "; ".join(done))
        for bucket in self.buckets:
            if waste := garbage(_current(bucket), KEY, inside=bucket.kind.inside):
                self.fail("garbage stays", f"{bucket.name}: {waste}", describe([bucket]))
        self._judge_winner(next(iter(final))[1])

    def _something_was_sure(self) -> bool:
        """Whether the key was proven in the beginning, or success was told for it."""
        return bool(self._begins_with()) or any(
            each.writes and each.status == "ok" for each in self.operations.values()
        )

    def _judge_winner(self, sha256: str) -> None:
        """Judge that what stands in the end is what may, by the order of the operations in time."""
        done = [each for each in self.operations.values() if each.status == "ok" and _counts(each)]
        makers = self._makers(sha256)
        what = f"in the end: {self.hashes.get(sha256, b'nothing').decode()}"
        allowed = [
            maker
            for maker in makers
            if not any(maker.end < other.start for other in done if other is not maker and not _same(other, maker))
        ]
        if not allowed:
            lost = ", ".join(each.name for each in done)
            if not done:  # prune lets go what others hold, and repair takes nothing away
                self.fail("what nobody deleted is lost", what)
            elif sha256 and all(each.verb == "delete" for each in done):
                self.fail("what was deleted came back", f"{what}; {lost}")
            else:
                self.fail("acknowledged work is lost", f"{what}; {lost}")
            return
        deletes = any(each.verb == "delete" for each in self.operations.values())
        # A refused write that replaced too many of the confirmed copies stays: nothing is left to put back.
        # Below a majority, each of two writers may have been told success.
        kept = [each for each in done if each.content and self._has_majority and self._is_held(each.content)]
        if sha256 and kept and not deletes and all(each.status == "failed" for each in allowed):
            self.fail("a refused write won over an acknowledged one", f"{what}; {done[0].name} was acknowledged")

    @property
    def _has_majority(self) -> bool:
        """Whether any two sets of replicas that confirm a write have one in common."""
        return 2 * self.min_copies > len(self.buckets)

    def _is_held(self, content: bytes) -> bool:
        return self._held[hashlib.sha256(content).hexdigest()] >= self.min_copies

    def _makers(self, sha256: str) -> list[Operation]:
        """Return what may have led to this end; the beginning is an operation that ended before all others."""
        found = [each for each in self.operations.values() if self._leads_to(each, sha256)]
        begun = self._begins_with()
        if sha256 in begun or (not sha256 and not begun):
            content = self.hashes.get(sha256)
            found.append(
                Operation("beginning", "replace" if sha256 else "delete", content, start=0, end=0, status="ok")
            )
        return found

    def _begins_with(self) -> set[str]:
        """Return the hash of the newest version in the beginning; empty where there is none, or it was deleted."""
        proven = [each for each in self.beginning.values() if each.state == "proven"]
        newest = max((each.generation or 0 for each in proven), default=-1)
        deleted = max((each.tombstone or -1 for each in self.beginning.values()), default=-1)
        return {each.sha256 for each in proven if each.generation == newest > deleted}

    def _leads_to(self, operation: Operation, sha256: str) -> bool:
        if not sha256:
            return operation.verb == "delete"
        return operation.writes and self.hashes.get(sha256) == operation.content


def _why(views: Sequence[View], left: Sequence[str]) -> str:
    """Return in a word what a repair could not do."""
    if left:
        return left[0].partition(" ")[0]
    return "delete" if any(each.tombstone is not None for each in views) else "no word"


def _counts(operation: Operation) -> bool:
    return operation.writes or operation.verb == "delete"


def _same(one: Operation, other: Operation) -> bool:
    return one.verb != "delete" and other.verb != "delete" and one.content == other.content


def _current(bucket: Bucket) -> dict[str, Stored]:
    return {name: versions[-1] for name, versions in bucket.versions.items()}


def describe(buckets: Iterable[Bucket]) -> str:
    """Return what kind the stores are: where records lie, and whether all refuse a create-only write.

    ``"locked"``: beside, where the processes exclude each other.
    """
    kinds = [each.kind for each in buckets]
    places = sorted({"inside" if each.inside else "locked" if each.locks else "beside" for each in kinds})
    return f"{'+'.join(places)}, {'conditional' if all(each.conditional for each in kinds) else 'unconditional'}"
