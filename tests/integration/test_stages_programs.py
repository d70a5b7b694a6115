"""The real programs: `age` and `zstd` undo what is stored, and what they wrote is undone here."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackup import Stages
from fsbackup.stages import age, zstd
from fsbackup.stages.pipeline import Pipeline, Stage
from tests.replication.staged import KINDS, Staged, ssh_key
from tests.replication.test_stages import DATA

pytestmark = pytest.mark.matrix


@pytest.fixture
def place(tmp_path: Path) -> Staged:
    for program in ("age", "zstd"):
        assert shutil.which(program), f"install {program}: apt-get install age zstd"
    return Staged.make(tmp_path)


def shell(place: Staged, script: str) -> bytes:
    """Run a pipeline as somebody who restores by hand."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=place.root, check=True, capture_output=True, timeout=60
    ).stdout


UNDO = {
    "zstd": "zstd -dc a/x.zst",
    "age": "age -d -i id.txt a/x.age",
    "zstd+age": "age -d -i id.txt a/x.zst.age | zstd -dc",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [DATA, b"", b"x"], ids=["large", "empty", "byte"])
def test_the_programs_restore_what_is_stored(place: Staged, kind: str, data: bytes) -> None:
    """As FORMAT.md says; and `zstd -t` finds the checksum right."""
    assert place.store().replicate(place.file(data), "x", stages=place.stages(kind))
    assert shell(place, UNDO[kind]) == data
    if kind == "zstd":
        shell(place, "zstd -t a/x.zst")
        assert b"XXH64" in shell(place, "zstd -lv a/x.zst 2>&1")


def test_age_takes_ssh_keys_too(place: Staged) -> None:
    """To several recipients: each of them decrypts."""
    key = ssh_key(place.root / "ssh")
    key.chmod(0o600)
    stages = Stages(
        encrypt={"age": [place.recipient, (place.root / "ssh.pub").read_text()]},
        identity_key_file=place.key_file,
    )
    assert place.store().replicate(place.file(DATA), "x", stages=stages)
    assert shell(place, "age -d -i ssh a/x.age") == shell(place, "age -d -i id.txt a/x.age") == DATA


#: What the programs make, and the stages that undo it.
MADE: dict[str, tuple[str, Callable[[Staged], list[Stage]]]] = {
    "zstd": ("zstd -c file", lambda _: [zstd.decompressing()]),
    "zstd of many threads, long": ("zstd -19 -T2 --long=27 -c file", lambda _: [zstd.decompressing()]),
    "zstd frames": ("zstd -c file && zstd -c file", lambda _: [zstd.decompressing()]),
    "age": (
        'age -r "$RECIPIENT" < file',
        lambda place: [age.decrypting(age.read_identities([place.root / "id.txt"]))],
    ),
    "both": (
        'zstd -c file | age -r "$RECIPIENT"',
        lambda place: [age.decrypting(age.read_identities([place.root / "id.txt"])), zstd.decompressing()],
    ),
}


@pytest.mark.parametrize("made", MADE)
def test_what_the_programs_made_is_undone(place: Staged, made: str) -> None:
    """Other writers of the same formats use what we do not: frames of known size, long windows, several frames."""
    place.file(DATA)
    script, stages = MADE[made]
    pipeline = Pipeline(io.BytesIO(shell(place, f"RECIPIENT={place.recipient}; {script}")), stages(place))
    plain = b"".join(iter(lambda: pipeline.read(1 << 20), b""))
    assert plain == DATA * (2 if made == "zstd frames" else 1)
