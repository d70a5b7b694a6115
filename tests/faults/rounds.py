"""One round: build the world, run the operation with its trouble, check, restore, repair, and check again."""

from __future__ import annotations

import os
import signal

from fsbackup.errors import IntegrityError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.keys import TEMP_SUFFIX
from fsbackup.loop import run
from fsbackup.replication.prune import find_expired
from fsbackup.replication.repair import RepairOptions, RepairReport, repair
from tests.faults import promises, setup
from tests.faults.child import MIN_COPIES, RULE, Event, Running, Task, running
from tests.faults.damage import damage
from tests.faults.outages import away, begin_outage, end_outage
from tests.faults.plan import FOLDER, KEYS, REPLICAS, Delay, ObjectPlan, Plan, Request
from tests.faults.promises import Contents, described
from tests.faults.requests import CallAtRequest
from tests.replication.raw_replicas import RawBucket
from tests.replication.rig import ReplicaRig, wait_idle
from tests.servers import s3
from tests.servers.endpoint import client

#: Seconds after which an operation that goes on has hung.
_PATIENCE = 60.0
#: Seconds of silence that are a stall, and the same where a round has an outage, which is waited for many times.
_TIMEOUT, _OUTAGE_TIMEOUT = 10.0, 3.0


class FaultScenario:
    """Runs one plan in one world."""

    def __init__(self, rig: ReplicaRig, plan: Plan) -> None:
        self._rig = rig
        self._plan = plan
        timeout = _OUTAGE_TIMEOUT if plan.outage else _TIMEOUT
        self._task = Task(plan, rig.places, rig.tmp, rig.tmp / "targets", timeout)
        self._store = self._task.store()
        self._ledger = setup.prepare(rig, plan, self._store, self._task.targets)
        self._damaged = self._ended = False
        self._errors: list[Exception] = []

    def run(self) -> None:
        """Run it, and check every promise."""
        events = self._operate()
        self._check(events)
        if self._ended and not self._plan.victim:
            promises.nothing_unfinished(self._ledger)
        # Each read waits for a replica that is away.
        self._restore(KEYS[:1] if self._plan.outage == "refuse" else KEYS)
        end_outage(self._rig)
        if self._plan.outage:
            self._restore(KEYS)
        report = self._mend()
        self._ledger.look()
        if self._plan.kind == "mixed":
            # Two things went wrong at once: what is whole stays whole, and nothing wrong is ever read.
            promises.others_untouched(self._ledger)
            self._restore(KEYS)
            return
        undone = [step.as_dict() for step in report.steps if step.outcome != "done"]
        staying = {key for _, key in self._ledger.stays}
        ours = [each for each in undone if each["key"].startswith(FOLDER) and each["key"] not in staying]
        assert not ours, f"repair left {ours}"
        gone = {name: set(self._ledger.expiring) for name in self._plan.ruled}
        promises.converged(self._ledger, gone)

    def clean_up(self) -> None:
        """Remove everything from the servers, which keep it in memory."""
        for raw in self._rig.raw_replicas.values():
            if isinstance(raw, RawBucket):
                names = [{"Key": key} for key in s3.list_keys(raw.endpoint, raw.prefix)]
                client(raw.endpoint).delete_objects(Bucket=raw.endpoint.bucket, Delete={"Objects": names})

    def _operate(self) -> list[Event]:
        with running(self._task) as process:
            self._arm(process)
            process.go()
            code = self._wait(process)
            events = process.said()
        expected_codes = (0, -signal.SIGKILL) if self._plan.kill else (0,)
        raised = [what for what in events if what[0] == "raised"]
        assert not raised or self._plan.kind == "mixed", raised[0][1]
        assert code in expected_codes, f"the process ended with {code}"
        self._ended = code == 0
        self._settle()
        return [what for what in events if what[0] != "raised"]

    def _arm(self, process: Running) -> None:
        """Set up what shall happen and when."""
        plan, proxies = self._plan, self._rig.proxies
        for moment in plan.kill:
            if isinstance(moment, Request):
                deadly = CallAtRequest(moment.side, lambda: os.kill(process.pid, signal.SIGKILL), cut=True)
                proxies[moment.replica].add(deadly, first=moment.number, times=1)
        if plan.outage:
            begin_outage(self._rig, plan)
        if plan.damage and plan.operation == "prune":
            self._damage()  # what rots behind prune's back, after it looked, is not prune's to see
        elif plan.damage and plan.at:
            proxies[plan.at.replica].add(CallAtRequest(plan.at.side, self._damage), first=plan.at.number, times=1)

    def _wait(self, process: Running) -> int:
        delays = [moment.seconds for moment in self._plan.kill if isinstance(moment, Delay)]
        if delays and process.join(delays[0]) is None:
            process.kill()
        code = process.join(_PATIENCE)
        assert code is not None, f"{self._plan.operation} hangs"
        return code

    def _settle(self) -> None:
        """Wait until everything on its way to the servers has arrived or is lost, and do late damage."""
        for proxy in self._rig.proxies.values():
            if self._plan.outage:
                proxy.cut_connections()
            wait_idle(proxy)
            if not self._plan.outage:
                proxy.clear()
        if self._plan.damage and not self._damaged:
            self._damage()
        if self._errors:
            raise self._errors[0]

    def _damage(self) -> None:
        plan, raw_replicas = self._plan, self._rig.raw_replicas
        assert plan.damage is not None
        assert plan.victim is not None
        self._damaged = True
        chance = plan.chance
        keys = chance.sample(KEYS, len(KEYS))
        try:
            hurt = damage(raw_replicas[plan.victim], plan.damage, keys, chance, hidden=plan.operation != "prune")
            self._ledger.excused |= {(plan.victim, key): None for key in hurt}
            # What prune cannot believe it leaves, with what mends it; once repair did, that counts as new.
            self._ledger.stays |= {(name, key) for name in plan.ruled for key in hurt}
        except Exception as error:  # noqa: BLE001 - on the proxy's thread: told by the round
            self._errors.append(error)

    def _check(self, events: list[Event]) -> None:
        """Check what was said to be done, and then everything else."""
        self._ledger.look(away(self._rig))
        for what, key, names in events:
            self._check_event(what, key, names)
        promises.nothing_torn(self._ledger)
        promises.still_provable(
            self._ledger, [planned.key for planned in self._plan.objects_planned if self._must_stay(planned)]
        )
        promises.others_untouched(self._ledger)
        self._check_targets()

    def _must_stay(self, planned: ObjectPlan) -> bool:
        """Tell whether some version of an object must be provable at any time."""
        if planned.before is None or planned.after is None:
            return False
        return len(self._ledger.expiring.get(planned.key, ())) < len(REPLICAS)

    def _check_event(self, what: str, key: str, names: tuple[str, ...]) -> None:
        expected, plan = self._ledger, self._plan
        done = what.endswith(": done") and "clear" not in what and "forget" not in what
        if what in ("stored", "not stored"):
            assert what == "stored" or plan.kind == "mixed", f"{key} is not stored, but on {names}"
            after = self._after(key)
            assert after is not None
            if what == "stored":
                expected.due[key] = after
                promises.stored(expected, key, after, names, MIN_COPIES)
            assert {*names, plan.victim} >= set(REPLICAS), f"{key}: one replica's trouble cost others: {names}"
        elif what in ("deleted", "not deleted"):
            assert what == "deleted" or plan.victim, f"{key} is not deleted, but on {names}"
            promises.gone(expected, key, names)
            if len(names) >= MIN_COPIES:
                expected.due[key] = None
        elif what in ("deleted", "cleared"):
            promises.gone(expected, key, names)
        elif done and names and expected.excused.get((names[0], key), frozenset()) is not None:
            data = self._after(key)
            assert promises.held(expected.seen[names[0]], key) == ("proven", data), (
                f"{what} of {key} on {names[0]}"
            )
        else:
            assert what != "not restored" or plan.kind == "mixed", f"{key} could not be restored"

    def _after(self, key: str) -> bytes | None:
        planned = next(planned for planned in self._plan.objects_planned if planned.key == key)
        return planned.after.data if planned.after else None

    def _check_targets(self) -> None:
        """A target is whole or as it was, whatever became of the restore."""
        allowed = {*self._ledger.allowed, ""}
        for path in self._task.targets.iterdir():
            if path.name.endswith(TEMP_SUFFIX):
                assert self._plan.kill, f"{path.name} stays behind"
                continue
            key = f"{FOLDER}/{path.name}"
            assert key in allowed, path.name
            data = path.read_bytes()
            whole = data in self._ledger.wanted(key) or (self._plan.earlier and data == setup.EARLIER)
            assert whole, f"the target {path.name} is {described(data)}"

    def _restore(self, keys: tuple[str, ...]) -> None:
        """Read everything through the library: old or new bytes, the right ones where they were promised."""
        for key in keys:
            wanted, target = self._ledger.wanted(key), self._rig.tmp / "back"
            try:
                report = self._store.restore(key, target)
            except ObjectNotFoundError:
                assert None in wanted, f"{key} is said to be nowhere"
                got = None
            except (IntegrityError, NoHealthyReplicaError):
                if not self._may_fail(wanted):
                    raise
                assert not target.exists(), f"{key}: an error, and a file"
                continue
            else:
                got = target.read_bytes()
                target.unlink()
                bare = key in self._ledger.bare or (self._plan.victim, key) in self._ledger.stays
                assert report.verified or bare, f"{key} was read unproven"
                proven = report.verified or self._plan.kind != "mixed"
                assert got in wanted or not proven, f"{key} was read as {described(got)}"
            if self._plan.kind != "mixed" and got == self._after(key) and key not in self._ledger.expiring:
                self._ledger.due[key] = got  # the new version, once read, is there to stay

    def _may_fail(self, wanted: Contents) -> bool:
        """Tell whether an object may not be readable: while one is away, nobody knows that there is none."""
        return self._plan.kind == "mixed" or (self._plan.outage is not None and None in wanted)

    @property
    def _reads_all(self) -> bool:
        """Whether there may be damage that only reading finds."""
        return self._plan.damage is not None or any(
            planned.harm == "rotten" for planned in self._plan.objects_planned
        )

    def _mend(self) -> RepairReport:
        """Repair everything, give up what is unfinished, and prune what is left to prune."""
        rules = dict.fromkeys(self._plan.ruled, RULE)
        targets = self._store.replica_set
        expired, _ = run(find_expired(targets, rules))
        if self._ledger.bare:  # without the prefix, data of others would be adopted too
            run(repair(targets, RepairOptions(FOLDER, adopt=True, safe_age=0.0)))
        report = run(repair(targets, RepairOptions(deep=self._reads_all, expired=expired, safe_age=0.0)))
        if rules:
            self._store.prune(dry_run=False)
        return report
