"""What is wrong with a configuration, where, and what would be right; and the error that lists it all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

from fsbackup.errors import ConfigError

#: Where a value is in the configuration: keys of mappings and indexes of lists, from the top.
Loc = tuple[str | int, ...]

#: The type of the pydantic errors that our own rules raise.
OWN_RULE = "fsbackup_rule"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake.

    Parameters
    ----------
    file
        The file as it was named by the caller, or ``<string>``.
    line
        Counted from 1; `None` when the file could not be read at all.
    field
        The dotted path of the setting, ``replication.triple.backends[1]``; empty for the file as a whole.
    message
        What is wrong, and in parentheses what would be right. Never a value that may be a secret.
    """

    file: str
    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (where, self.field, self.message) if part)


class InvalidConfigError(ConfigError):
    """A configuration file is wrong; the message has one line for every mistake in it.

    Parameters
    ----------
    problems
        The mistakes in the order of their lines; kept as `.problems`, a tuple of `Mistake`.
    """

    def __init__(self, problems: Iterable[Mistake]) -> None:
        self.problems: tuple[Mistake, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[InvalidConfigError], tuple[tuple[Mistake, ...]]]:
        return type(self), (self.problems,)


@dataclass(frozen=True, slots=True)
class RuleViolation:
    """A mistake before its line is known: `problem` says which rule is broken, `fix` what to write instead.

    With `shows_value` the message may quote the value found there, if it is a plain one from the file itself.
    """

    loc: Loc
    problem: str
    fix: str = ""
    shows_value: bool = False
    line: int | None = None


def rule_error(problem: str, fix: str = "") -> PydanticCustomError:
    """Return the error a validator raises: "must be …" and what to write instead. It never holds the value."""
    return PydanticCustomError(
        OWN_RULE, "{problem} ({fix})" if fix else "{problem}", {"problem": problem, "fix": fix}
    )


def dotted(loc: Loc) -> str:
    """Return a location as people write it: ``jobs.nightly.source.exclude[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the known name nearest to `name`, else the list of those there are."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(names)}" if names else "there are none"
