"""The argument parser, and the page that `fsbackup --help` prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from textwrap import fill
from typing import NoReturn

from fsbackup import __version__
from fsbackup.cli import exits
from fsbackup.cli.command import Command
from fsbackup.redact import redact

_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Back up", ("run", "put")),
    ("Inspect", ("ls", "stat", "status", "verify", "doctor")),
    ("Repair", ("repair",)),
    ("Restore", ("get",)),
    ("Delete", ("rm", "prune")),
    ("PostgreSQL", ("wal-push", "wal-fetch", "pg-status", "base-backup", "pg-restore", "drill")),
    ("Configure", ("config",)),
)
_NAMES = tuple(name for _, names in _GROUPS for name in names)

_INTRODUCTION = """\
usage: fsbackup [options] COMMAND ...

fsbackup stores every backup file on several backends at once (local disk, Cloudflare R2, Backblaze B2, any fsspec
filesystem), verifies each replica, and restores from any good replica that is reachable."""

_EXAMPLES = """\
Examples
  fsbackup run nightly                            run the job "nightly" of the configuration
  fsbackup put db/shop.dump --command -- pg_dump -Fc shop
                                                  store what a command writes, if it succeeds
  fsbackup get db/shop.sql /tmp/shop.sql          restore it, verified, from any good replica"""

_ENVIRONMENT = """\
Configuration
  A YAML file: -c FILE, else $FSBACKUP_CONFIG, else the first that exists of ./fsbackup.yaml,
  ~/.config/fsbackup/config.yaml and /etc/fsbackup/config.yaml. `fsbackup config check` validates it.

Environment
  FSBACKUP_CONFIG     the configuration file
  FSBACKUP_DEBUG      any value: print tracebacks of errors
  TZ                  the time zone of {now} and of the days of keep_* (default: local time)
  BACKUP_LOCAL_PATH, R2_ACCOUNT_ID, R2_BUCKET_NAME, R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY, R2_SESSION_TOKEN,
  B2_BUCKET_NAME, B2_REGION, B2_ACCESS_KEY_ID, B2_SECRET_ACCESS_KEY, B2_SESSION_TOKEN
                      backend settings that the configuration does not contain
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
                      the proxy to S3 services: http(s)://[user:password@]host[:port]"""


class UsageExit(SystemExit):
    """The end of a process whose command line is wrong; `message` says why, and has been printed."""

    def __init__(self, message: str) -> None:
        super().__init__(exits.USAGE)
        self.message = message


class _CommandParser(argparse.ArgumentParser):
    """A parser whose errors quote what was typed, and none of the secrets in it."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the command line, and end the process."""
        text = redact(message)
        try:
            super().error(text)
        except SystemExit:
            raise UsageExit(text) from None


class _Parser(_CommandParser):
    """The top-level parser; its help is `help_page`."""

    def format_help(self) -> str:
        return f"{help_page()}\n"


def _command(name: str) -> Command:
    """Return a command; its module is loaded now."""
    command: Command = import_module(f"fsbackup.cli.{name.replace('-', '_')}").COMMAND
    return command


def failure_code(words: Sequence[str], code: int) -> int:
    """Return the exit code of a failure that would be `code`, given the words of the command line."""
    command = next((_command(word) for word in words if word in _NAMES), None)
    return code if command is None or command.failure is None else command.failure


def help_page() -> str:
    """Return the page that `fsbackup --help` prints."""
    return "\n\n".join([_INTRODUCTION, *map(_group, _GROUPS), _OPTIONS, _EXAMPLES, _exit_codes(), _ENVIRONMENT])


def _group(group: tuple[str, tuple[str, ...]]) -> str:
    title, names = group
    commands = map(_command, names)
    return "\n".join([title, *(f"  {command.name:<13}{command.summary}" for command in commands)])


def _exit_codes() -> str:
    return "\n".join(["Exit codes", *(f"  {code:<5}{meaning}" for code, meaning in exits.MEANING.items())])


_OPTIONS = """\
Options, before or after the command (fsbackup COMMAND --help shows those of the command)
  -c, --config FILE   the configuration file
  --json              print results as JSON on standard output
  -v, -vv             print also every file and outcome; -vv: also debug messages and tracebacks
  -q, --quiet         print problems only
  --log-format FORM   the format of log lines on standard error: text or json
  --version           print the version
  -h, --help          print this page"""


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of a command line; the namespace it returns has the command's function as `execute`.

    It knows the one command that these words name: making all of them takes longer than all else. Without that it
    knows all.
    """
    parser = _Parser(prog="fsbackup", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fsbackup {__version__}")
    _add_common(parser, is_top=True)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_CommandParser)
    named = _first_argument(words)
    for name in (named,) if named in _NAMES else _NAMES:
        _add_command(commands, _command(name))
    return parser


def _first_argument(words: Sequence[str]) -> str:
    """Return the first word that is neither an option nor the value of one, "" without one."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return word
        if word in ("--config", "--log-format") or (word.endswith("c") and not word.startswith("--")):
            next(rest, None)  # -c, -qc, -vvc
    return ""


#: Takes the place of the second positional argument where `--command` leaves no SOURCE before KEY.
_PROGRAM = "PROGRAM"


def own_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line that are for fsbackup, and for no program after ``--``."""
    return list(words[: words.index("--")] if "--" in words else words)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; `program` is what follows ``--`` after ``--command`` or ``--restore-command``."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = own_words(words)
    parser = build_parser(words)
    if "--restore-command" in own:
        if own == words:
            parser.error(
                "--restore-command: write -- before the program: "
                "fsbackup drill JOB --restore-command -- PROGRAM [ARGUMENT ...]"
            )
        args = parser.parse_args(own)
        args.program = words[len(own) + 1 :]
        return args
    if "--command" not in own:
        return parser.parse_args(words)
    if own == words:
        parser.error(
            "--command: write -- before the program: fsbackup put KEY --command -- PROGRAM [ARGUMENT ...]"
        )
    args, unknown = parser.parse_known_args([*own, "--", _PROGRAM])
    if unknown:
        names = " ".join(each for each in unknown if each not in ("--", _PROGRAM))
        parser.error(
            f"unrecognized arguments: {names}" if names else "--command: KEY stands alone, without a SOURCE"
        )
    args.key, args.program = args.source, words[len(own) + 1 :]
    return args


def _add_command(commands: argparse._SubParsersAction[_CommandParser], command: Command) -> None:
    examples = "\n".join(f"  {line}" for line in command.examples)
    parser = commands.add_parser(
        command.name,
        help=command.summary,
        description=fill(command.description, width=100),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    _add_common(parser.add_argument_group("common options"), is_top=False)
    parser.set_defaults(execute=command.execute)


def _add_common(parser: argparse._ActionsContainer, *, is_top: bool) -> None:
    """Add the options that may stand before or after the command.

    Only the top-level parser has defaults: those of a command's parser would replace the values given before it.
    """

    def default(value: object) -> object:
        return value if is_top else argparse.SUPPRESS

    parser.add_argument("-c", "--config", metavar="FILE", default=default(None), help="the configuration file")
    parser.add_argument(
        "--json", action="store_true", default=default(False), help="print results as JSON on standard output"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=default(0),
        help="print also every file and outcome; -vv: also debug messages",
    )
    parser.add_argument("-q", "--quiet", action="store_true", default=default(False), help="print problems only")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default=default("text"),
        help="the format of log lines on standard error",
    )
