"""`examine`: what each backend can do and cannot, tried with a small object, and what to do about it."""

from fsbackup.replication.doctor.examination import examine
from fsbackup.replication.doctor.results import Check, Diagnosis, Outcome

__all__ = ["Check", "Diagnosis", "Outcome", "examine"]
