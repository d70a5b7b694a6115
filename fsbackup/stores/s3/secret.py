"""A value that no repr, str, vars or pickle shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


class Secret:
    """Holds a text that only `reveal` gives back."""

    __slots__ = ("reveal",)

    def __init__(self, text: str) -> None:
        self.reveal: Callable[[], str] = lambda: text  # a closure, so that no attribute holds the text itself

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled; create the backend where it is used, from the environment")
