"""Whether an exception is what closes a file.

Files are closed by wrappers that pass on no exception: `io.TextIOWrapper`, gzip, pyarrow's streams, fsspec's
`OpenFile`, pandas' handles. The ``with`` statement that calls them knows, and its frame can be looked at. That an
exception is being handled says little: an explicit ``close()`` in an ``except`` block means what it says.
"""

from __future__ import annotations

import dis
import sys
import traceback

#: What a frame executes while a ``with`` block is left by an exception: the call of ``__exit__``.
_CALL_EXIT = dis.opmap["WITH_EXCEPT_START"]


def unwinding(known: BaseException | None) -> BaseException | None:
    """Return the exception by which a caller's ``with`` block is being left right now.

    Parameters
    ----------
    known
        An exception that does not count: it was being handled before.
    """
    error = sys.exception()
    if error is None or error is known:
        return None
    passed = {frame for frame, _ in traceback.walk_tb(error.__traceback__)}
    for frame, _ in traceback.walk_stack(sys._getframe()):
        if frame in passed and frame.f_code.co_code[frame.f_lasti] == _CALL_EXIT:
            return error
    return None
