"""Sources of a batch: small files are opened together, and whatever was opened is closed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from fsbackup.engine.open_source import open_source
from fsbackup.engine.source import Source
from fsbackup.errors import SourceError
from fsbackup.replication.batch import BatchItem
from fsbackup.replication.sources import Sources

SMALL, LARGE = 100, 400_000


@pytest.fixture
def items(tmp_path: Path) -> list[BatchItem]:
    """Return a hundred small files."""
    return [_item(tmp_path / f"{number:02}", SMALL) for number in range(100)]


def _item(path: Path, size: int) -> BatchItem:
    path.write_bytes(bytes(size))
    return BatchItem(path, path.name)


class Opener:
    """Opens sources, and knows how many."""

    def __init__(self) -> None:
        self.opened = 0

    def __call__(self, item: BatchItem) -> Source:
        self.opened += 1
        return open_source(item.source)


@pytest.mark.parametrize(("workers", "opened"), [(1, 6), (10, 5), (50, 1), (100, 1)])
def test_small_files_are_opened_together_while_there_are_enough_for_all(
    items: list[BatchItem], workers: int, opened: int
) -> None:
    async def main() -> int:
        opener = Opener()
        sources = Sources(items, opener, workers)
        assert await sources.take() is not None
        sources.close()
        return opener.opened

    assert asyncio.run(main()) == opened


def test_each_item_comes_once_with_its_source_or_its_error(items: list[BatchItem], tmp_path: Path) -> None:
    items[1:1] = [BatchItem(tmp_path / "missing", "missing"), _item(tmp_path / "large", LARGE)]

    async def main() -> dict[str, int | str]:
        sources, found = Sources(items, Opener(), 3), dict[str, int | str]()

        async def work() -> None:
            while (taken := await sources.take()) is not None:
                item, source = taken
                assert item.key not in found
                if isinstance(source, Source):
                    found[item.key] = source.size or 0
                    source.close()
                else:
                    assert isinstance(source, SourceError)
                    found[item.key] = "error"

        await asyncio.gather(work(), work(), work())
        return found

    sizes: dict[str, int | str] = {item.key: SMALL for item in items}
    assert asyncio.run(main()) == sizes | {"missing": "error", "large": LARGE}


def test_what_nobody_took_is_closed(tmp_path: Path) -> None:
    """A large file is open until then; a small one has been read, and is not."""
    items = [_item(tmp_path / "first", SMALL), _item(tmp_path / "second", LARGE)]

    def descriptors() -> int:
        return sum("/second" in os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())

    async def main() -> tuple[int, int]:
        sources = Sources([*items, *items], Opener(), 1)
        assert await sources.take() is not None
        before = descriptors()
        sources.close()
        return before, descriptors()

    assert asyncio.run(main()) == (1, 0)
