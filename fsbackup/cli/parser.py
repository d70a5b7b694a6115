"""The parser of the command line, and the page that `fsbackup --help` prints."""

from __future__ import annotations

import argparse
from textwrap import fill

from fsbackup import __version__
from fsbackup.cli import config, doctor, exits, get, ls, prune, put, repair, rm, run, stat, status, verify
from fsbackup.cli.command import Command

_GROUPS: tuple[tuple[str, tuple[Command, ...]], ...] = (
    ("Back up", (run.COMMAND, put.COMMAND)),
    ("Look", (ls.COMMAND, stat.COMMAND, status.COMMAND, verify.COMMAND, doctor.COMMAND)),
    ("Mend", (repair.COMMAND,)),
    ("Get back", (get.COMMAND,)),
    ("Delete", (rm.COMMAND, prune.COMMAND)),
    ("Set up", (config.COMMAND,)),
)

_INTRODUCTION = """\
usage: fsbackup [options] COMMAND ...

fsbackup keeps every backup file in several places at once (local disk, Cloudflare R2, Backblaze B2, anything
fsspec can reach) and proves that each copy is whole. It reads from whichever copy is alive."""

_EXAMPLES = """\
Examples
  fsbackup run nightly                            store what the job "nightly" says, everywhere it says
  pg_dump shop | fsbackup put - db/shop.sql       store a stream under a key
  fsbackup get db/shop.sql /tmp/shop.sql          read it back, proven, from any copy that is alive"""

_ENVIRONMENT = """\
Configuration
  A YAML file: -c FILE, else $FSBACKUP_CONFIG, else the first that exists of ./fsbackup.yaml,
  ~/.config/fsbackup/config.yaml and /etc/fsbackup/config.yaml. `fsbackup config check` says what is wrong with it.

Environment
  FSBACKUP_CONFIG     the configuration file
  FSBACKUP_DEBUG      set to anything: show tracebacks of errors
  TZ                  the time zone of {now} in destinations, local time by default
  BACKUP_LOCAL_PATH, R2_ACCOUNT_ID, R2_BUCKET_NAME, R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY, B2_BUCKET_NAME,
  B2_REGION, B2_ACCESS_KEY_ID, B2_SECRET_ACCESS_KEY
                      settings of backends that the configuration leaves out"""


class _Parser(argparse.ArgumentParser):
    """The top parser: its help is a page to learn from, not a list of options."""

    def format_help(self) -> str:
        return f"{help_page()}\n"


def help_page() -> str:
    """Return what `fsbackup --help` prints."""
    return "\n\n".join([_INTRODUCTION, *map(_group, _GROUPS), _OPTIONS, _EXAMPLES, _exit_codes(), _ENVIRONMENT])


def _group(group: tuple[str, tuple[Command, ...]]) -> str:
    title, commands = group
    return "\n".join([title, *(f"  {command.name:<10}{command.summary}" for command in commands)])


def _exit_codes() -> str:
    return "\n".join(["Exit codes", *(f"  {code:<5}{meaning}" for code, meaning in exits.MEANING.items())])


_OPTIONS = """\
Options, before or after the command (fsbackup COMMAND --help shows the command's own)
  -c, --config FILE   the configuration file
  --json              results as JSON on standard output
  -v, -vv             also every file and outcome; -vv: debugging, with tracebacks
  -q, --quiet         nothing but failures
  --log-format FORM   of the log lines on standard error: text or json
  --version           print the version
  -h, --help          print this page"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; what it returns has `execute`, the function of the command."""
    parser = _Parser(prog="fsbackup", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fsbackup {__version__}")
    _add_common(parser, top=True)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser)
    for _, members in _GROUPS:
        for command in members:
            _add_command(commands, command)
    return parser


def _add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], command: Command) -> None:
    examples = "\n".join(f"  {line}" for line in command.examples)
    parser = commands.add_parser(
        command.name,
        help=command.summary,
        description=fill(command.description, width=100),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.arguments(parser)
    _add_common(parser.add_argument_group("options of every command"), top=False)
    parser.set_defaults(execute=command.execute)


def _add_common(parser: argparse._ActionsContainer, *, top: bool) -> None:
    """Add the options that stand before or after the command; after it, left out must not undo before it."""

    def otherwise(value: object) -> object:
        return value if top else argparse.SUPPRESS

    parser.add_argument("-c", "--config", metavar="FILE", default=otherwise(None), help="the configuration file")
    parser.add_argument(
        "--json", action="store_true", default=otherwise(False), help="results as JSON on standard output"
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=otherwise(0), help="also every file and outcome; -vv: debugging"
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", default=otherwise(False), help="nothing but failures"
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default=otherwise("text"),
        help="of the log lines on standard error",
    )
