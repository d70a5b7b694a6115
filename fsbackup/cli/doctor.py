"""`fsbackup doctor`: what each backend can do and cannot, and what to do about it."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import context, exits, output, text
from fsbackup.cli.command import Command
from fsbackup.cli.redact import redact
from fsbackup.errors import ConfigError

if TYPE_CHECKING:
    from fsbackup.replication.doctor import Check, Diagnosis

_CODES = {"ok": exits.COMPLETE, "limited": exits.DEGRADED, "failed": exits.FAILED}
_BAD = ("failed", "not allowed", "warning")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "backends", nargs="*", metavar="BACKEND", help="names of backends (default: all of the configuration)"
    )


def _execute(args: Namespace) -> int:
    from fsbackup import factory
    from fsbackup.replication.doctor import diagnose

    path, config = context.open_config(args)
    names = list(dict.fromkeys(args.backends)) or list(config.backends)
    if not names:
        raise ConfigError(f"{path} has no backend")
    found = diagnose(factory.open_backend(config, name) for name in names)
    health = _worst(found)
    if args.json:
        output.print_json({"health": health, "backends": {each.backend: each.as_dict() for each in found}})
    elif not (args.quiet and health == "ok"):
        _print(found, quiet=args.quiet)
    return _CODES[health]


def _worst(found: list[Diagnosis]) -> str:
    return max((each.health for each in found), key=list(_CODES).index)


def _print(found: list[Diagnosis], *, quiet: bool) -> None:
    if not quiet:
        rows = [["backend", "check", "outcome", "found"]]
        rows += [_row(each, check) for each in found for check in each.checks]
        output.print_table(rows)
        output.print_line()
    for each in found:
        for check in each.checks:
            if check.outcome in _BAD:
                output.print_line(redact(f"{each.backend}: {check.name}: {_problem(check)}"))
    output.print_line(_verdict(found))


def _row(each: Diagnosis, check: Check) -> list[str]:
    first = check is each.checks[0]
    return [each.backend if first else "", check.name, check.outcome, redact(check.detail)]


def _problem(check: Check) -> str:
    said = f"{check.outcome}: {text.one_line(check.detail)}"
    return f"{said} - {check.advice}" if check.advice else said


def _verdict(found: list[Diagnosis]) -> str:
    counts = text.count(len(found), "backend")
    lines = {health: [each.backend for each in found if each.health == health] for health in _CODES}
    if lines["failed"]:
        others = f"; {', '.join(lines['limited'])} with limits" if lines["limited"] else ""
        return f"failed: {', '.join(lines['failed'])} of {counts}{others}"
    if lines["limited"]:
        return f"limited: {', '.join(lines['limited'])} of {counts}; nothing failed"
    return f"ok: {counts}, everything works"


COMMAND = Command(
    name="doctor",
    summary="check the backends: what works, what does not, what to do about it",
    description="Tries each backend with a small object that is deleted again, all backends at once: connect, "
    "list, write, read back, create only once, delete. Checks the clock, versions, lifecycle rules that delete, "
    "free space and old unfinished uploads, and says what to do about what is wrong. The exit code is 1 when "
    "something failed, 3 when something is not allowed or needs attention.",
    examples=("fsbackup doctor", "fsbackup doctor r2 b2 --json", "fsbackup doctor -q || echo look at the backups"),
    arguments=_arguments,
    execute=_execute,
)
