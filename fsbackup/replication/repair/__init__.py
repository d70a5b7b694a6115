"""`repair`: what `verify` finds, made right from replicas that prove it.

- `evidence` is what a decision needs: the verdict, announcements, and what doubtful data really is;
- `plan` decides, purely; `act` does one round of it, `mend` as many as an object needs, and counts;
- `garbage` is what unfinished writes left; `run` walks the set;
- `results` is what they say.
"""

from fsbackup.replication.repair.repairer import RepairOptions
from fsbackup.replication.repair.report import Action, RepairReport, Step
from fsbackup.replication.repair.run import repair

__all__ = ["Action", "RepairOptions", "RepairReport", "Step", "repair"]
