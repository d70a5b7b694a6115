"""What a job's source consists of: real trees, odd names, and nothing left out in silence."""

from __future__ import annotations

import inspect
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsbackup.config import SourceConfig
from fsbackup.config.sources import Links
from fsbackup.errors import SourceNotFoundError
from fsbackup.jobs import Note, Skipped, SourceEntry, SourceFile, Unreadable, find_files


def source(path: str | Path, *exclude: str, links: Links = "skip") -> SourceConfig:
    """Return the settings of a source, as a configuration file would give them."""
    return SourceConfig(path=str(path), exclude=exclude, links=links)


def files(path: str | Path, *exclude: str) -> list[str]:
    """Return the relpaths of the files found; anything else found fails the test."""
    found = [each for each in find_files(source(path, *exclude)) if not isinstance(each, Note)]
    assert all(isinstance(each, SourceFile) for each in found), found
    return [each.relpath for each in found if isinstance(each, SourceFile)]


def make(root: Path, *names: str) -> Path:
    """Make small files (names ending with a slash: directories) below `root`."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(name))
    return root


def only(found: Iterator[SourceEntry], kind: type[SourceEntry]) -> Any:
    """Return the one thing of this kind among what was found."""
    [one] = [each for each in found if isinstance(each, kind)]
    return one


def test_a_single_file_is_its_name(tmp_path: Path) -> None:
    """A file's relpath is its own name, without any directory."""
    make(tmp_path, "dumps/db.sql.gz")
    assert files(tmp_path / "dumps/db.sql.gz") == ["db.sql.gz"]


def test_a_directory_keeps_its_tree_in_the_order_of_bytes(tmp_path: Path) -> None:
    """The order is the one of the keys' bytes, as listings have it: ``a.txt`` before what is below ``a``."""
    make(tmp_path, "b/2", "a.txt", "a/1", "a/B", "a/b", "c", "empty/")
    assert files(f"{tmp_path}/") == ["a.txt", "a/1", "a/B", "a/b", "b/2", "c"]


def test_odd_names_are_found_as_they_are(tmp_path: Path) -> None:
    """Spaces, line breaks, wildcards, dots, other scripts and bytes that are no text."""
    odd = [" a", "*", "-rf", ".hidden", "[x]", "a\nb", "ü", "日本", "🙂", "{now}", os.fsdecode(b"\xff\xfe")]
    make(tmp_path, *odd)
    assert sorted(files(tmp_path)) == sorted(odd)


def test_a_tree_deeper_than_pythons_recursion_limit(tmp_path: Path) -> None:
    """The walk keeps its own stack: 300 directories in each other with room for 100 more calls."""
    deep = tmp_path.joinpath(*["d"] * 300)
    make(deep, "leaf")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = files(tmp_path)
    finally:
        sys.setrecursionlimit(before)
    assert found == ["d/" * 300 + "leaf"]


def test_it_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file comes before the second directory is even listed."""
    make(tmp_path, "a/1", "b/2")
    listed: list[str] = []
    scandir = os.scandir

    def note(path: str) -> Any:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", note)
    found = find_files(source(tmp_path))
    assert isinstance(next(found), SourceFile)
    assert listed == [str(tmp_path), f"{tmp_path}/a"]


class TestGlobs:
    """A glob's files are named relative to the directory before its first wildcard."""

    def test_one_level(self, tmp_path: Path) -> None:
        """Only what matches, in one directory, hidden names included."""
        make(tmp_path, "x.gz", ".y.gz", "z.txt", "sub/a.gz")
        assert files(tmp_path / "*.gz") == [".y.gz", "x.gz"]

    def test_a_wildcard_in_the_middle(self, tmp_path: Path) -> None:
        """The relpath starts below the last fixed directory."""
        make(tmp_path, "t/shop1/db.sql", "t/shop2/db.sql", "t/shop2/other", "t/db.sql")
        assert files(tmp_path / "t/*/db.sql") == ["shop1/db.sql", "shop2/db.sql"]

    def test_any_number_of_directories(self, tmp_path: Path) -> None:
        """``**`` matches none, one and many directories, and each file once."""
        make(tmp_path, "a.gz", "b/a.gz", "b/c/a.gz", "b/c/a.txt")
        assert files(tmp_path / "**/*.gz") == ["a.gz", "b/a.gz", "b/c/a.gz"]
        assert files(f"{tmp_path}/**/**/*.gz") == ["a.gz", "b/a.gz", "b/c/a.gz"]
        assert files(tmp_path / "**") == ["a.gz", "b/a.gz", "b/c/a.gz", "b/c/a.txt"]

    def test_a_directory_that_matches_is_taken_whole(self, tmp_path: Path) -> None:
        """``tenants/*`` means the tenants' files too."""
        make(tmp_path, "t/shop1/a/b", "t/shop2/c", "t/note")
        assert files(tmp_path / "t/*") == ["note", "shop1/a/b", "shop2/c"]

    def test_a_slash_at_the_end_means_directories_only(self, tmp_path: Path) -> None:
        """``tenants/*/`` leaves out files beside the tenants' directories."""
        make(tmp_path, "t/shop1/a/b", "t/note")
        assert files(f"{tmp_path}/t/*/") == ["shop1/a/b"]

    def test_a_file_that_is_called_like_a_glob(self, tmp_path: Path) -> None:
        """What is there under this very name is what is meant."""
        make(tmp_path, "[old]/x", "o/y")
        assert files(tmp_path / "[old]") == ["x"]


class TestExcludes:
    """What is left out on purpose."""

    def test_by_name_at_any_depth_and_by_path(self, tmp_path: Path) -> None:
        """A pattern is matched with each name and with the path below the source."""
        make(tmp_path, "a.tmp", "b/c.tmp", "b/keep", "cache/x", "b/cache/y", "logs/2024/x", "b/logs/2024/y")
        assert files(tmp_path, "*.tmp", "cache", "logs/2024") == ["b/keep", "b/logs/2024/y"]

    def test_directories_only(self, tmp_path: Path) -> None:
        """A slash at the end spares a file of the same name."""
        make(tmp_path, "build/x", "sub/build")
        assert files(tmp_path, "build/") == ["sub/build"]

    def test_an_excluded_directory_is_never_entered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may be huge, or not readable at all."""
        make(tmp_path, ".git/objects/x", "a")
        scandir = os.scandir

        def guarded(path: str) -> Any:
            assert ".git" not in path
            return scandir(path)

        monkeypatch.setattr(os, "scandir", guarded)
        assert files(tmp_path, ".git") == ["a"]

    @pytest.mark.parametrize(
        ("patterns", "left"),
        [
            (("/a",), ["b/a", "b/keep.tmp", "b/x.tmp"]),
            (("*.tmp", "!keep.tmp"), ["a", "b/a", "b/keep.tmp"]),
            (("b/*", "!b/a"), ["a", "b/a"]),
            (("b/", "!b/a"), ["a"]),
            (("**/x.tmp", "./a"), ["b/keep.tmp"]),
        ],
    )
    def test_the_patterns_are_those_of_gitignore(
        self, tmp_path: Path, patterns: tuple[str, ...], left: list[str]
    ) -> None:
        """Anchored at the top, taken back, and no way back into a directory that is left out."""
        make(tmp_path, "a", "b/a", "b/x.tmp", "b/keep.tmp")
        assert files(tmp_path, *patterns) == left

    def test_a_pattern_that_matches_nothing_is_told(self, tmp_path: Path) -> None:
        """It may be misspelt, or of another language; one that starts with # is no comment."""
        make(tmp_path, "a.tmp", "#b", "c")
        found = list(find_files(source(tmp_path, "*.tmp", "#b", "{a,b}", "/x")))
        assert [each.relpath for each in found if isinstance(each, SourceFile)] == ["c"]
        texts = [each.text for each in found if isinstance(each, Note)]
        assert texts == ["exclude '{a,b}' matches nothing", "exclude '/x' matches nothing"]


class TestLinks:
    """Below a source they are what the job says; the source itself may be one."""

    def make(self, tmp_path: Path) -> Path:
        """Make a tree with a link to a file outside, to a directory, to nothing and to itself."""
        make(tmp_path, "outside/real", "tree/a", "tree/z")
        for name, target in (("file", "../outside/real"), ("loop", "."), ("gone", "nowhere"), ("self", "self")):
            (tmp_path / "tree" / name).symlink_to(target)
        return tmp_path / "tree"

    def test_they_are_skipped_and_told(self, tmp_path: Path) -> None:
        """Whoever may write in a directory must not get at files that only the backup may read."""
        tree = self.make(tmp_path)
        found = list(find_files(source(tree)))
        assert [each.relpath for each in found if isinstance(each, SourceFile)] == ["a", "z"]
        skipped = {each.path: each for each in found if isinstance(each, Skipped)}
        assert set(skipped) == {f"{tree}/{name}" for name in ("file", "loop", "gone", "self")}
        assert all(each.level == logging.INFO and "links: follow" in each.reason for each in skipped.values())
        assert len(found) == 6

    def test_those_to_files_can_be_followed(self, tmp_path: Path) -> None:
        """A link to nothing is a note: it has nothing to back up."""
        tree = self.make(tmp_path)
        found = list(find_files(source(tree, links="follow")))
        assert [each.relpath for each in found if isinstance(each, SourceFile)] == ["a", "file", "z"]
        reasons = {each.path.removeprefix(f"{tree}/"): each.reason for each in found if isinstance(each, Skipped)}
        assert reasons == {
            "loop": "a link to a directory is not followed",
            "gone": "a link to nothing (nowhere)",
            "self": "a link to nothing (self)",
        }

    def test_they_can_fail(self, tmp_path: Path) -> None:
        """Each by its name, unless it is excluded; the rest go on."""
        found = list(find_files(source(self.make(tmp_path), "loop", "self", links="fail")))
        assert [each.relpath for each in found if isinstance(each, SourceFile)] == ["a", "z"]
        failed = [each for each in found if isinstance(each, Unreadable)]
        assert sorted(each.path.rpartition("/")[2] for each in failed) == ["file", "gone"]
        assert all("is a link" in str(each.error) for each in failed)

    def test_the_source_itself_may_be_a_link(self, tmp_path: Path) -> None:
        """``current -> releases/42`` is what people name."""
        make(tmp_path, "releases/42/a")
        (tmp_path / "current").symlink_to("releases/42")
        (tmp_path / "latest").symlink_to("releases/42/a")
        assert files(tmp_path / "current") == ["a"]
        assert files(tmp_path / "latest") == ["latest"]


def test_special_files_are_skipped_with_a_warning(tmp_path: Path) -> None:
    """A FIFO would block for ever; a socket cannot be read at all."""
    make(tmp_path, "a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        found = list(find_files(source(tmp_path, links="follow")))
    skipped = {each.path: each for each in found if isinstance(each, Skipped)}
    names = {"link": "a FIFO", "pipe": "a FIFO", "socket": "a socket"}
    assert {path: each.reason for path, each in skipped.items()} == {
        f"{tmp_path}/{name}": reason for name, reason in names.items()
    }
    assert all(each.level == logging.WARNING for each in skipped.values())


def test_a_directory_that_cannot_be_listed_is_missed_and_the_rest_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, whom no mode keeps out: the system's answer is given for it."""
    make(tmp_path, "a/1", "locked/2", "z/3")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("/locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(find_files(source(tmp_path)))
    assert [each.relpath for each in found if isinstance(each, SourceFile)] == ["a/1", "z/3"]
    missed = only(iter(found), Unreadable)
    assert str(missed.error) == f"{tmp_path}/locked: cannot be read: Permission denied"


def test_a_directory_that_vanishes_on_the_way_is_missed(tmp_path: Path) -> None:
    """It was listed, and is gone when its turn comes."""
    make(tmp_path, "a/1", "b/2")
    found = find_files(source(tmp_path))
    next(found)
    (tmp_path / "b/2").unlink()
    (tmp_path / "b").rmdir()
    missed = only(found, Unreadable)
    assert missed.path == f"{tmp_path}/b"
    assert isinstance(missed.error, SourceNotFoundError)


@pytest.mark.parametrize("path", ["nothing", "nothing/", "nothing/*.gz", "*.gz", "empty", "excluded", "file/"])
def test_a_source_with_nothing_in_it_is_missed(tmp_path: Path, path: str) -> None:
    """A backup that backs up nothing is the commonest way to lose everything."""
    make(tmp_path, "empty/sub/", "excluded/a.tmp", "file")
    [missed] = find_files(source(f"{tmp_path}/{path}", "*.tmp"))
    assert isinstance(missed, Unreadable)
    assert str(tmp_path) in str(missed.error)


@pytest.mark.parametrize("path", ["empty", "excluded", "empty/*.gz"])
def test_a_source_may_be_empty_where_that_is_said(tmp_path: Path, path: str) -> None:
    """Then nothing in it is no mistake; a directory that is not there still is."""
    make(tmp_path, "empty/sub/", "excluded/a.tmp")
    assert list(find_files(source(f"{tmp_path}/{path}", "*.tmp"), allow_empty=True)) == []
    only(find_files(source(f"{tmp_path}/nothing"), allow_empty=True), Unreadable)


def test_places_that_are_kept_out_are_not_entered(tmp_path: Path) -> None:
    """Also when the source is named through a link; the place is told, since it holds files."""
    make(tmp_path, "real/a", "real/copies/disk1/b")
    (tmp_path / "named").symlink_to("real")
    found = list(find_files(source(tmp_path / "named"), keep_out=frozenset({f"{tmp_path}/real/copies/disk1"})))
    assert [each.relpath for each in found if isinstance(each, SourceFile)] == ["a"]
    assert only(iter(found), Skipped).path == f"{tmp_path}/named/copies/disk1"
