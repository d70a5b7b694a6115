"""A deterministic simulator: the real engine on simulated stores, its steps permuted, judged from outside.

- `loop`: an event loop whose time is virtual and whose threads are none.
- `world`: the steps that wait, the `Schedule` that picks the next one, faults and crashes.
- `store`: the simulated stores.
- `operations`: what processes do: create, replace, delete, prune, repair, read.
- `case`: a case (stores, beginning, operations, schedule), made from a seed; `run` runs it.
- `proof`, `judge`: what the stores hold, and whether that is right; no code of the package.
- `known`: the violations that the engine is known for.

``python -m tests.simulation --seeds 0:10000`` hunts for violations.
"""
