"""What holds for every test: the servers' fixtures, and that a CI run leaves no test out silently."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler.worksteal import WorkStealingScheduling

from fsbackup import redact
from fsbackup.engine import away_note, breaker
from tests.matrix import belongs_to_matrix, mark_combinations
from tests.servers.faults import FaultProxy

pytest_plugins = ["pytester", "tests.servers.fixtures", "tests.faults.options"]

#: The beginnings of the reasons for which a test may be left out where everything has to run.
_ALLOWED_SKIPS = ("needs the right to mount", "only measured on request")

# A shell starts background commands with Ctrl-C ignored, nohup any with SIGHUP ignored, and so would be the
# processes that tests interrupt.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# Where nothing compiled is kept, each of hundreds of processes that tests start compiles all that it imports.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Days are counted in local time: tests that build dates say UTC, wherever they run.
os.environ["TZ"] = "UTC"
time.tzset()


@pytest.fixture(autouse=True, scope="session")
def state_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep locks and notes, also of the processes that tests start, away from this machine's own."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def forget_outages() -> None:
    """Be as a new process: nobody is known to be away, and no note says so."""
    (Path(os.environ["XDG_STATE_HOME"]) / "fsbackup" / away_note.NAME).unlink(missing_ok=True)
    breaker.forget()


# Otherwise a server that is back is away for as long as a busy machine needs to answer the probe.
FaultProxy.cleared = staticmethod(forget_outages)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Begin each test as a new process, to which no word is a secret either."""
    hidden = redact._hidden
    forget_outages()
    yield
    breaker.forget()  # and do not ask servers of the test that are about to end
    redact._hidden = hidden


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what belongs to the second set as a whole, before it is loaded with packages of its own."""
    if config.option.markexpr == "not matrix" and collection_path.suffix == ".py":
        return True if belongs_to_matrix(collection_path) else None
    return None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have no garbage looked for among thousands of tests and all libraries, which stay to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before marks are selected by
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the second set what the default run can spare."""
    mark_combinations(items)


def pytest_xdist_auto_num_workers() -> int:
    """Return what ``-n auto`` stands for: half of the time a test waits for a server, a disk or a timeout."""
    return 2 * (os.cpu_count() or 1)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> WorkStealingScheduling:
    """Let a worker that has finished take tests from the others: they differ a hundredfold in time."""
    return WorkStealingScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:  # noqa: ARG001 - the hook's
    """Where ``CI`` is set, turn a skip for any other reason into a failure."""
    report: pytest.TestReport = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(_ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where every test has to run: {reason}"
    return report
