"""Attempts to break the replication engine; what the backends hold is looked at without the library."""
