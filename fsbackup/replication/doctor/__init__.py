"""`examine`: what each backend can do and cannot, tried with a small object, and what to do about it."""

from fsbackup.replication.doctor.report import Check, CheckOutcome, Diagnosis
from fsbackup.replication.doctor.run import diagnose

__all__ = ["Check", "CheckOutcome", "Diagnosis", "diagnose"]
