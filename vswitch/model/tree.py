"""A lab file as a tree of values that know their line and column."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The keys and indices that lead from the file's root to a value."""


class Mark(NamedTuple):
    """A position in the file, both counted from 1."""

    line: int
    column: int


class Scalar:
    """A single value: its text as written (variables substituted), and what YAML makes of that text.

    `refused` says that something in it is wrong and has been reported: whatever it should be, it is not.
    """

    __slots__ = ("mark", "refused", "text", "value")

    def __init__(self, mark: Mark, text: str, value: str | int | float | bool | None, refused: bool = False) -> None:
        self.mark = mark
        self.text = text
        self.value = value
        self.refused = refused


class Sequence:
    """A list."""

    __slots__ = ("items", "mark")

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.items: list[Node] = []


class Mapping:
    """A mapping with string keys; `keys` has the position of each key."""

    __slots__ = ("items", "keys", "mark")

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.items: dict[str, Node] = {}
        self.keys: dict[str, Mark] = {}


Node: TypeAlias = Scalar | Sequence | Mapping


def locate(root: Node, path: Path, *, key: bool = False) -> Mark:
    """Find the position of the value at `path` (with `key`, of its key), or of the nearest thing above it there is."""
    node, mark = root, root.mark
    for number, step in enumerate(path):
        if isinstance(node, Mapping) and step in node.items:
            name = str(step)
            last = number == len(path) - 1
            mark = node.keys[name] if key and last else node.items[name].mark
            node = node.items[name]
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            mark = node.mark
        else:
            break
    return mark


def find(root: Node | None, path: Path) -> Node | None:
    """The value at `path`, None if there is none."""
    node = root
    for step in path:
        if isinstance(node, Mapping) and isinstance(step, str):
            node = node.items.get(step)
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            return None
    return node


def plain(node: Node) -> Any:
    """The tree as dicts, lists and plain values, without positions."""
    if isinstance(node, Mapping):
        return {name: plain(value) for name, value in node.items.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return node.value


# YAML 1.2.2, section 10.3.2, the core schema; without .inf and .nan, which no lab needs.
_CORE_SCHEMA: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(r"(?:null|Null|NULL|~|)\Z"), lambda text: None),
    (re.compile(r"(?:true|True|TRUE)\Z"), lambda text: True),
    (re.compile(r"(?:false|False|FALSE)\Z"), lambda text: False),
    (re.compile(r"[-+]?[0-9]{1,30}\Z"), int),
    (re.compile(r"0o[0-7]{1,30}\Z"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]{1,30}\Z"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(?:\.[0-9]{1,30}|[0-9]{1,30}(?:\.[0-9]{0,30})?)(?:[eE][-+]?[0-9]{1,2})?\Z"), float),
)
_MAY_BE_SPECIAL = frozenset("~nNtTfF+-.0123456789")


def resolve_plain(text: str) -> str | int | float | bool | None:
    """What an unquoted scalar means: null, a boolean, a number, else the text itself (`yes` and `1_000` are text)."""
    if text and text[0] not in _MAY_BE_SPECIAL:
        return text
    for pattern, make in _CORE_SCHEMA:
        if pattern.match(text):
            value: int | float | bool | None = make(text)
            return value
    return text
