"""YAML text to plain values, with the line of every one of them and every mistake YAML itself would swallow.

Plain values are read as in YAML 1.2: only ``true`` and ``false`` are booleans and a number with a leading zero
is text, so that a bucket called ``on`` and an id like ``0051e2`` stay what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fsbackup.config.problems import Loc, RuleViolation

#: A configuration is a page or two. The bounds keep a wrong file, or a bomb of aliases, from eating the machine.
MAX_CHARACTERS = 1 << 18
MAX_VALUES = 20_000
MAX_DEPTH = 40

_TAG = "tag:yaml.org,2002:"
_PLAIN: dict[str, Callable[[str], Any]] = {
    f"{_TAG}str": str,
    f"{_TAG}int": int,
    f"{_TAG}float": float,
    f"{_TAG}bool": lambda text: {"true": True, "false": False}[text.lower()],
    f"{_TAG}null": lambda _: None,
}


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars by the rules in the module's docstring."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same in C, a tenth of the time, where PyYAML was built with it."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"-?(?:0|[1-9][0-9]{0,17})", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}", "-0123456789"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


class TooLargeError(ValueError):
    """The file has more values, or deeper ones, than any configuration needs."""


@dataclass
class Document:
    """The values of a file, the line of each (from 1, a mapping's value at its key), and what was wrong.

    Values that come from no file have no lines.
    """

    data: Any = None
    lines: dict[Loc, int] = field(default_factory=dict)
    violations: list[RuleViolation] = field(default_factory=list)
    #: Where a value could not be read; it is None in `data`.
    unreadable: set[Loc] = field(default_factory=set)
    #: False when there is nothing to look at: a syntax error, no mapping at the top.
    usable: bool = True

    def line(self, loc: Loc) -> int | None:
        """Return the line of the value at `loc`, or of the nearest one around it; None without any lines."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 1) if self.lines or not self.usable else None


def read_document(text: str) -> Document:
    """Return what `text` holds. Never raises: mistakes are in `violations`."""
    builder = _Builder()
    try:
        return builder.document(_compose(text))
    except yaml.reader.ReaderError as error:
        return _failed("has a character that YAML does not allow", 1 + text.count("\n", 0, error.position))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return _failed(f"is not valid YAML: {error.problem or error.context}", mark.line + 1 if mark else 1)
    except (TooLargeError, RecursionError):
        return _failed("is too large or too deeply nested for a configuration, or an alias contains itself", 1)


def _compose(text: str) -> Node | None:
    if len(text) > MAX_CHARACTERS:
        raise TooLargeError
    try:
        return _node(_FastLoader(text))
    except yaml.YAMLError:  # which the other loader says better
        return _node(_Loader(text))


def _node(loader: Any) -> Node | None:
    try:
        node: Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


def _failed(problem: str, line: int) -> Document:
    return Document(violations=[RuleViolation((), problem, line=line)], usable=False)


class _Builder:
    def __init__(self) -> None:
        self.result = Document()
        self.values = 0

    def document(self, root: Node | None) -> Document:
        if root is None or root.tag == f"{_TAG}null":
            return _failed("is empty", 1)
        if not isinstance(root, MappingNode):
            return _failed("must be a mapping of settings", _line(root))
        self.result.lines[()] = 1
        self.result.data = self._build(root, ())
        return self.result

    def _build(self, node: Node, loc: Loc) -> Any:
        self._count(loc)
        if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, loc)
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._item(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, loc)

    def _count(self, loc: Loc) -> None:
        self.values += 1
        if self.values > MAX_VALUES or len(loc) > MAX_DEPTH:
            raise TooLargeError

    def _item(self, node: Node, loc: Loc) -> Any:
        self.result.lines[loc] = _line(node)
        return self._build(node, loc)

    def _scalar(self, node: Node, loc: Loc) -> Any:
        try:
            if isinstance(node, ScalarNode):
                return _PLAIN[node.tag](node.value)
        except (KeyError, ValueError):
            pass
        kind = node.tag.removeprefix(_TAG)
        self.result.unreadable.add(loc)
        self.result.violations.append(
            RuleViolation(loc, f"cannot be read as {kind!r}", "remove the tag, or use quotes")
        )
        return None

    def _mapping(self, node: MappingNode, loc: Loc) -> dict[str, Any]:
        built: dict[str, Any] = {}
        own: dict[str, int] = {}
        for key, value, merged in self._entries(node, loc, 0):
            name = self._key(key, loc)
            if name is None or (merged and name in built):
                continue
            if not merged and name in own:
                self._duplicate((*loc, name), own[name], _line(key))
                continue
            if not merged:
                own[name] = _line(key)
            self.result.lines[(*loc, name)] = _line(key)
            built[name] = self._build(value, (*loc, name))
        return built

    def _entries(self, node: MappingNode, loc: Loc, depth: int) -> Iterator[tuple[Node, Node, bool]]:
        """Yield key, value and whether it came through ``<<``: a mapping's own entries first, they win."""
        own = [pair for pair in node.value if pair[0].tag != f"{_TAG}merge"]
        yield from ((key, value, depth > 0) for key, value in own)
        for key, value in node.value:
            self._count(loc + ("<<",) * depth)
            if key.tag == f"{_TAG}merge":
                yield from self._merged(value, loc, depth + 1, _line(key))

    def _merged(self, value: Node, loc: Loc, depth: int, line: int) -> Iterator[tuple[Node, Node, bool]]:
        for source in value.value if isinstance(value, SequenceNode) else [value]:
            if isinstance(source, MappingNode):
                yield from self._entries(source, loc, depth)
            else:
                self.result.violations.append(
                    RuleViolation((*loc, "<<"), "must be an alias of a mapping", line=line)
                )

    def _key(self, node: Node, loc: Loc) -> str | None:
        if isinstance(node, ScalarNode) and node.tag == f"{_TAG}str":
            return str(node.value)
        what = f" {node.value!r}" if isinstance(node, ScalarNode) else ""
        self.result.violations.append(
            RuleViolation(loc, f"has a key{what} that is not text", "put it in quotes", line=_line(node))
        )
        return None

    def _duplicate(self, loc: Loc, first: int, line: int) -> None:
        self.result.violations.append(
            RuleViolation(loc, f"is set twice, first in line {first}", "keep one", line=line)
        )


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
