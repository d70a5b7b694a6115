"""`diagnose`: try what each backend can do with a small object, and say what to do about what it cannot.

`run.diagnose` examines all backends at once; for each one `probe.Probe` tries the operations and removes its
object again, `checks.checks` turns the result into lines with an outcome and advice, and `report` has the results.

Beyond the operations, doctor reports only what changes what a person does: whether a newer version of fsbackup
writes there (by the record of the object stored last), the clock, whether older versions are kept, lifecycle
rules that delete, free space, and unfinished uploads once they cost money.
"""

from fsbackup.replication.doctor.report import Check, CheckOutcome, Diagnosis
from fsbackup.replication.doctor.run import diagnose

__all__ = ["Check", "CheckOutcome", "Diagnosis", "diagnose"]
