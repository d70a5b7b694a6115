"""What the workers of a Dask cluster are at when a test has waited for them in vain; a hang is rare."""

from __future__ import annotations

import asyncio
import io
import sys
import traceback
from typing import Any

from fsbackup.loop import get_loop

#: Seconds that the workers have to answer.
_PATIENCE = 10


def print_stuck_tasks(client: Any) -> None:
    """Print the stacks of all threads of each worker, and of the tasks of its loop."""
    found = client.sync(client._run, _stacks, on_error="return", callback_timeout=_PATIENCE)
    for worker, text in found.items():
        print(f"=== {worker}\n{text}")


def _stacks() -> str:
    """Return the stacks of the process that it is called in."""
    out = io.StringIO()
    for number, frame in sys._current_frames().items():
        out.write(f"--- thread {number}\n{''.join(traceback.format_stack(frame))}")
    for task in asyncio.all_tasks(get_loop()):
        task.print_stack(file=out)
    return out.getvalue()
