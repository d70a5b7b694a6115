"""Two disks and keys for tests of stages, and an eye on what is stored that shares no code with ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fsbackup import LocalStorage, ReplicatedStorage, Stages
from tests.replication.rig import MIB

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["KINDS", "SUFFIX", "Staged", "ssh_key", "zstd"]

KINDS = ("zstd", "age", "zstd+age")
SUFFIX = {"zstd": ".zst", "age": ".age", "zstd+age": ".zst.age"}


def ssh_key(path: Path, passphrase: bytes = b"") -> Path:
    """Write a key of SSH to `path`, and its public key beside it; return `path`."""
    key, encoding = Ed25519PrivateKey.generate(), serialization.Encoding
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(encoding.PEM, serialization.PrivateFormat.OpenSSH, lock))
    public = key.public_key().public_bytes(encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_name(f"{path.name}.pub").write_bytes(public + b" somebody@host\n")
    return path


@dataclass
class Staged:
    """A directory with two disks, ``a`` and ``b``, and an age identity in ``id.txt``."""

    root: Path
    identity: pyrage.x25519.Identity

    @classmethod
    def make(cls, root: Path) -> Staged:
        identity = pyrage.x25519.Identity.generate()
        (root / "id.txt").write_text(f"# made for a test\n{identity}\n")
        return cls(root, identity)

    @property
    def recipient(self) -> str:
        return str(self.identity.to_public())

    @property
    def key_file(self) -> Path:
        """Where this host's identity key is."""
        return self.root / "host" / "identity.key"

    def store(self, **options: Any) -> ReplicatedStorage:
        disks = [LocalStorage(self.root / name, name=name) for name in ("a", "b")]
        return ReplicatedStorage(disks, **{"min_copies": 1, "part_size": MIB, **options})

    def stages(self, kind: str = "zstd+age", **options: Any) -> Stages:
        encrypt = {"age": [self.recipient]} if "age" in kind else None
        compress = "zstd" if "zstd" in kind else None
        return Stages(compress=compress, encrypt=encrypt, **{"identity_key_file": self.key_file, **options})

    def file(self, data: bytes, name: str = "file") -> Path:
        path = self.root / name
        path.write_bytes(data)
        return path

    def raw(self, key: str, disk: str = "a") -> bytes:
        return (self.root / disk / key).read_bytes()

    def record(self, key: str, disk: str = "a") -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.root / disk / ".fsbackup/manifests" / key).read_text())
        return record

    def plain(self, key: str, disk: str = "a") -> bytes:
        """Undo by hand what the suffixes of a key say."""
        data = self.raw(key, disk)
        undo: dict[str, Callable[[bytes], bytes]] = {
            "age": lambda each: pyrage.decrypt(each, [self.identity]),
            "zst": zstd.decompress,
        }
        while (kind := key.rpartition(".")[2]) in undo:
            data, key = undo[kind](data), key.rpartition(".")[0]
        return data
