"""What it costs to store files with fsbackup, side by side with what a user would pick instead.

    python -m tests.benchmarks [upload|small|restore|filesystem|memory|lag|away|stages|wal|base|all]
                               [--size 512MiB] [--rounds 3]

Every run of every contender is a process of its own, so that CPU seconds and peak memory are its own. The
contenders take turns in every round, and medians are compared: only ratios within one run mean anything.
"""
