"""Loaded once by the process that all children are forked from."""

from tests.faults.child import warm_up

warm_up()
