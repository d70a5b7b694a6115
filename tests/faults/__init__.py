"""Faults at random: kill -9, outages, slow lines and damage, at a place that a seed decides, in every operation.

A round is a function of its seed: three replicas (a directory and two real S3 servers behind fault proxies), a few
objects, one operation in a process of its own, and what the seed has happen to it. Afterwards the promises are
checked by a reader that uses no fsbackup code (`promises`), then a restore, then a repair, after which all
replicas must hold the same provable version of everything, nothing unfinished, and all that is somebody else's.

The seed is in the test's id and in the failure's notes, with the plan and the command that runs it again:

    pytest tests/faults --fault-seeds=kill:17                           again (kill, damage, outage or mixed)
    pytest tests/faults --fault-rounds=1000 --fault-base=5000 -n auto   1,000 other kills, the rest in proportion

A kill may be a power cut as well: then files on the disk lose what was written and not yet synced. Most kills are
at the n-th request that a proxy sees or at the n-th step on the disk, and come back at the same place; those at a
moment in time (`Delay` in the plan) may need to be run a few times.

What is not tried: directories that lose entries in a power cut; forged manifests with a right checksum; and damage
that keeps every size, time and ETag, while prune decides by these.
"""
