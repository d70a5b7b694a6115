"""A case: stores, what they hold in the beginning, operations, and how the schedule goes; all from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Literal

from tests.simulation.operation import Operation, Verb
from tests.simulation.store import KINDS
from tests.simulation.world import Mode

Beginning = Literal["absent", "present", "missing", "stale", "rotten", "deleted"]

VERBS: tuple[Verb, ...] = ("create", "replace", "delete", "prune", "repair", "read")
BEGINNINGS: tuple[Beginning, ...] = ("absent", "present", "missing", "stale", "rotten", "deleted")
MODES: tuple[Mode, ...] = ("uniform", "lanes", "lanes", "processes", "bursts")

#: The kinds of the stores of a set.
LAYOUTS: tuple[tuple[str, ...], ...] = (
    ("disk", "r2"),
    ("disk", "r2", "b2"),
    ("disk", "r2", "kms"),
    ("disk", "disk"),
    ("disk", "disk", "disk"),
    ("share", "share"),
    ("share", "gateway", "share"),
    ("ftp", "old"),
    ("ftp", "disk", "ftp"),
    ("r2", "kms"),
    ("r2", "r2", "kms"),
    ("r2", "b2"),
    ("b2", "b2"),
    ("b2", "b2", "kms"),
)

#: Operations of a case: all pairs, and triples that are likely to meet.
PAIRS: tuple[tuple[Verb, ...], ...] = tuple(combinations_with_replacement(VERBS, 2))
TRIPLES: tuple[tuple[Verb, ...], ...] = (
    ("replace", "replace", "read"),
    ("replace", "delete", "repair"),
    ("create", "create", "create"),
    ("create", "delete", "repair"),
    ("create", "create", "repair"),
    ("replace", "prune", "repair"),
    ("replace", "repair", "repair"),
    ("replace", "replace", "replace"),
    ("replace", "replace", "repair"),
    ("replace", "repair", "read"),
    ("delete", "create", "read"),
    ("delete", "delete", "create"),
    ("replace", "delete", "read"),
    ("prune", "repair", "read"),
)


@dataclass(frozen=True)
class Case:
    """See the module's docstring.

    `odd` is the number of the replica that differs in the beginning. `crash` names a process by number, its step,
    and whether that step has its effect.
    """

    seed: int
    layout: tuple[str, ...]
    min_copies: int
    beginning: Beginning
    odd: int
    verbs: tuple[Verb, ...]
    same_size: bool
    part_size: int
    deep: bool
    target: int
    mode: Mode
    changes: frozenset[int]
    jump: float
    tick: float
    crash: tuple[int, int, bool] | None
    faults: int

    @cached_property
    def is_conditional(self) -> bool:
        """Whether every store refuses a create-only write of a name that exists."""
        return all(KINDS[each].conditional for each in self.layout)

    def operations(self) -> list[Operation]:
        """Return the operations, not begun."""
        found = []
        for number, verb in enumerate(self.verbs):
            content = (
                content_of(f"new-{number}", self.same_size, number) if verb in ("create", "replace") else None
            )
            found.append(Operation(f"{verb}-{number}", verb, content, self.deep, self.target))
        return found

    def __str__(self) -> str:
        crash = f", crash of {self.crash}" if self.crash else ""
        return (
            f"seed {self.seed}: {' + '.join(self.verbs)} on {'/'.join(self.layout)}, {self.beginning} "
            f"(odd {self.odd}), min_copies {self.min_copies}, {self.mode}, "
            f"parts of {self.part_size}, same size {self.same_size}, tick {self.tick}{crash}, faults {self.faults}"
        )


def content_of(text: str, same_size: bool, number: int) -> bytes:
    """Return a content; of contents of different sizes, each has its own."""
    return text.ljust(8 if same_size else 9 + number, ".").encode()


def case_of(seed: int, **given: object) -> Case:
    """Return the case of a seed; `given` replaces some of its properties."""
    numbers = random.Random(seed)
    layout = numbers.choice(LAYOUTS)
    verbs = numbers.choice(PAIRS if numbers.random() < 0.6 else TRIPLES)
    crashes, fails = numbers.random() < 0.3, numbers.random() < 0.15
    crash = (numbers.randrange(len(verbs)), numbers.randrange(1, 25), numbers.random() < 0.5)
    case: dict[str, object] = {
        "layout": layout,
        "min_copies": numbers.choice((1, 2)),
        "beginning": numbers.choice(BEGINNINGS),
        "odd": numbers.randrange(len(layout)),
        "verbs": verbs,
        "same_size": numbers.random() < 0.7,
        "part_size": numbers.choice((64, 64, 4)),
        "deep": numbers.random() < 0.3,
        "target": numbers.randrange(len(layout)),
        "mode": numbers.choice(MODES),
        "changes": frozenset(numbers.randrange(1, 90) for _ in range(numbers.randrange(1, 6))),
        "jump": numbers.choice((0.0, 0.0, 0.02, 0.1)),
        "tick": numbers.choice((0.0001, 0.003)),
        "crash": crash if crashes else None,
        "faults": numbers.randrange(1, 4) if fails else 0,
    }
    if "prune" in verbs and case["beginning"] == "rotten":
        case["beginning"] = "present"  # rot that no ETag shows: `prune` does not read what it compares
    return Case(seed, **{**case, **given})  # type: ignore[arg-type]  # each has the type of its field
