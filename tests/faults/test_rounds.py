"""Rounds of random faults: every promise holds afterwards, for an independent reader and for our own."""

from __future__ import annotations

from pathlib import Path

from tests.faults.plan import Kind, plan_of
from tests.faults.rounds import FaultScenario
from tests.replication.rig import make_rig
from tests.servers.endpoint import S3Endpoint


def test_the_promises_hold(
    fault_seed: tuple[Kind, int], moto: S3Endpoint, seaweedfs: S3Endpoint, tmp_path: Path
) -> None:
    """Whatever happens in a round, nothing is torn, lost, wrong or left behind."""
    plan = plan_of(*fault_seed)
    servers = (seaweedfs, moto) if plan.swapped else (moto, seaweedfs)
    try:
        with make_rig(*servers, tmp_path, proxied=True) as rig:
            one = FaultScenario(rig, plan)
            try:
                one.run()
            finally:
                one.clean_up()
    except BaseException as error:
        error.add_note(f"{plan}\nagain: pytest tests/faults --fault-seeds={plan.kind}:{plan.seed}")
        raise
