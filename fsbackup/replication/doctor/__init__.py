"""`examine`: what each backend can do and cannot, tried with a small object, and what to do about it."""

from fsbackup.replication.doctor.report import Check, Diagnosis, Outcome
from fsbackup.replication.doctor.run import examine

__all__ = ["Check", "Diagnosis", "Outcome", "examine"]
