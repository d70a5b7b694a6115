"""The command line. One file per command: parse, call, render.

Nothing here imports the configuration or a backend before a command needs it, so that ``--help`` is instant.
"""

from fsbackup.cli.app import main

__all__ = ["main"]
