"""Whether to show progress, without loading what draws it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsbackup.cli.display import Display


@contextmanager
def shown(args: Namespace) -> Iterator[Display | None]:
    """Show a display while the block runs: on a terminal, where no other lines tell what happens. Else None."""
    if not sys.stderr.isatty() or args.quiet or args.verbose or args.json:
        yield None
        return
    from fsbackup.cli.display import Display

    display = Display()
    with display.progress:
        yield display
