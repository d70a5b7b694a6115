"""Stages: what is done to the bytes of a source before they are stored (compression, encryption), and undone.

The object is exactly what ``zstd | age`` makes, under a key with the suffixes ``.zst`` and ``.age``: `verify`,
`repair`, `prune` and ``sha256sum`` see an object like any other and need no key.

==================  ==============================================================================================
`definition`        `Stages`, what a job or an upload asks for
`zstd`, `age`       one stage each: a function that reads here and writes there, and its undoing
`pipeline`          runs stages in threads of their own, with little memory between them
`plaintext`         how the same plaintext is recognised, though encryption never makes the same bytes twice
`undo`              `Undo`, what a reader wants undone, and with whose identity
==================  ==============================================================================================
"""

from fsbackup.stages.definition import Stages
from fsbackup.stages.undo import Undo

__all__ = ["Stages", "Undo"]
