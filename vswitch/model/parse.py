"""YAML text to a tree with positions, everything about it bounded.

The parser is ruamel.yaml's pure one: libyaml's does not take `[vm1:eth0, lan0]`. It hands over events one by one, so
that a file that is too deep or too large (through aliases, above all) is given up before it costs anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Environment

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from .problems import Problems, quote, where
from .tree import Mapping, Mark, Node, Path, Scalar, Sequence, resolve_plain
from .variables import VariableError, Variables

MAX_DEPTH = 32
MAX_VALUES = 100_000

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class _TooMuch(Exception):
    """The file goes beyond a bound; nothing after that is looked at."""


class _Open:
    """A list or mapping whose end has not come yet."""

    def __init__(self, node: Sequence | Mapping, anchor: str | None, count: int) -> None:
        self.node = node
        self.anchor = anchor
        self.count = count  # values before it
        self.height = 1
        self.key: str | None = None  # of the value to come; None when a key is to come, or in a list
        self.key_mark = node.mark
        self.merging = False  # whether that key is an unquoted <<
        self.merged: list[Mapping] = []


class _Anchored:
    """What an anchor names, with its size, aliases expanded."""

    def __init__(self, node: Node, values: int, height: int) -> None:
        self.node = node
        self.values = values
        self.height = height


def parse(text: str, problems: Problems, environment: Environment[str, str]) -> Node | None:
    """Parse a lab file and return its tree, None when there is none to speak of; mistakes go to `problems`."""
    builder = _Builder(problems, Variables(environment))
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except _TooMuch:
        return None
    except ReaderError as error:
        at = int(error.position)
        line = text.count("\n", 0, at) + 1
        column = at - (text.rfind("\n", 0, at) + 1) + 1
        problems.at(Mark(line, column), "YAML", f"character {quote(text[at : at + 1])} is not allowed in YAML")
        return None
    except MarkedYAMLError as error:
        problems.at(_mark(error.problem_mark or error.context_mark), "YAML", _explain(error, text))
        return None
    except YAMLError as error:
        problems.at(Mark(1, 1), "YAML", str(error))
        return None
    root = builder.root
    if root is None or (isinstance(root, Scalar) and root.value is None):
        problems.at(Mark(1, 1), "lab file", "is empty; it needs at least 'nodes:'")
        return None
    return root


class _Builder:
    """Makes the tree from the parser's events."""

    def __init__(self, problems: Problems, variables: Variables) -> None:
        self.root: Node | None = None
        self._problems = problems
        self._variables = variables
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}
        self._values = 0
        self._documents = 0

    def take(self, event: object) -> None:
        """Take the next event. Raises _TooMuch."""
        if isinstance(event, ScalarEvent):
            self._scalar(event)
        elif isinstance(event, MappingStartEvent | SequenceStartEvent):
            self._begin(event)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._end()
        elif isinstance(event, AliasEvent):
            self._alias(event)
        elif isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._problems.at(
                    _mark(event.start_mark), "YAML", "a second document begins; a lab file is one document"
                )
                raise _TooMuch

    # --- events -----------------------------------------------------------------------------------------------------

    def _scalar(self, event: ScalarEvent) -> None:
        mark = _mark(event.start_mark)
        unquoted = event.style is None
        self._count(mark, 1)
        self._refuse_tag(event, mark)
        frame = self._open[-1] if self._open else None
        if frame is not None and isinstance(frame.node, Mapping) and frame.key is None:
            self._take_key(frame, mark, _join_surrogates(event.value), unquoted)
            return
        scalar = self._substituted(event.value, mark, unquoted)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(scalar, 1, 0)
        self._place(scalar, 0)

    def _begin(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        mark = _mark(event.start_mark)
        self._count(mark, 1)
        self._refuse_tag(event, mark)
        if len(self._open) >= MAX_DEPTH:
            self._too_deep(mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node = Mapping(mark) if isinstance(event, MappingStartEvent) else Sequence(mark)
        self._open.append(_Open(node, event.anchor, self._values))

    def _end(self) -> None:
        frame = self._open.pop()
        if isinstance(frame.node, Mapping):
            for merged in frame.merged:
                for name, value in merged.items.items():
                    if name not in frame.node.items:
                        frame.node.items[name] = value
                        frame.node.keys[name] = merged.keys[name]
        if frame.anchor is not None:
            self._anchors[frame.anchor] = _Anchored(frame.node, self._values - frame.count + 1, frame.height)
        self._place(frame.node, frame.height)

    def _alias(self, event: AliasEvent) -> None:
        mark = _mark(event.start_mark)
        if event.anchor not in self._anchors:
            self._problems.at(mark, "YAML", f"alias *{event.anchor} has no anchor &{event.anchor} before it")
            raise _TooMuch
        target = self._anchors[event.anchor]
        if target is None:
            self._problems.at(mark, "YAML", f"alias *{event.anchor} is inside its own anchor")
            raise _TooMuch
        self._count(mark, target.values)
        if len(self._open) + target.height > MAX_DEPTH:
            self._too_deep(mark)
        frame = self._open[-1]  # an alias cannot be the whole document: its anchor comes before it
        if isinstance(frame.node, Mapping) and frame.key is None:
            text = target.node.text if isinstance(target.node, Scalar) else None
            self._take_key(frame, mark, text, unquoted=False)
        else:
            self._place(target.node, target.height)

    # --- their parts ------------------------------------------------------------------------------------------------

    def _substituted(self, written: str, mark: Mark, unquoted: bool) -> Scalar:
        """A scalar with its variables replaced."""
        try:
            text, unset = self._variables.substitute(_join_surrogates(written))
        except VariableError as error:
            self._problems.at(mark, where(self._path()), str(error))
            return Scalar(mark, written, written, refused=True)
        for name in unset:
            self._problems.warning_at(mark, where(self._path()), f"variable {name} is not set, and counts as empty")
        if not _is_text(text):
            self._problems.at(mark, where(self._path()), f"{quote(text)} holds a character that is not text")
            return Scalar(mark, "", "", refused=True)
        # A variable must be quoted within { } and [ ]; alone, it still stands for a number if that is what it holds.
        alone = text != written and written.startswith("${") and written.endswith("}")
        emptied = text == "" != written  # empty, which is not the same as nothing
        return Scalar(mark, text, resolve_plain(text) if (unquoted or alone) and not emptied else text)

    def _place(self, node: Node, height: int) -> None:
        """Put a finished value where it belongs."""
        if not self._open:
            self.root = node
            return
        frame = self._open[-1]
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.node, Sequence):
            frame.node.items.append(node)
        elif frame.key is None:
            self._take_key(frame, node.mark, None, unquoted=False)
        else:
            key, frame.key = frame.key, None
            if not key:
                pass  # refused when it was read
            elif frame.merging:
                self._merge(frame, node)
            elif key in frame.node.items:
                first = frame.node.keys[key]
                self._problems.at(
                    frame.key_mark,
                    where(self._path()),
                    f"key {quote(key)} is here twice; the first is in line {first.line}, column {first.column}",
                )
            else:
                frame.node.items[key] = node
                frame.node.keys[key] = frame.key_mark

    def _take_key(self, frame: _Open, mark: Mark, text: str | None, unquoted: bool) -> None:
        """Take a mapping's next key; `text` is None when it is no scalar."""
        if not text or not _is_text(text):
            self._problems.at(mark, where(self._path()), "a key must be a simple string")
        elif unquoted and not isinstance(resolve_plain(text), str):
            self._problems.at(mark, where(self._path()), f"key {text} is not a string to YAML; quote it: '{text}'")
        frame.key = text if text is not None and _is_text(text) else ""
        frame.key_mark = mark
        frame.merging = unquoted and text == "<<"

    def _merge(self, frame: _Open, node: Node) -> None:
        """Remember what `<<` brings in: a mapping or a list of them, the first of them strongest."""
        parts = node.items if isinstance(node, Sequence) else [node]
        for part in parts:
            if isinstance(part, Mapping):
                frame.merged.append(part)
            else:
                self._problems.at(frame.key_mark, where(self._path()), "'<<' merges a mapping, or a list of mappings")

    def _refuse_tag(self, event: ScalarEvent | MappingStartEvent | SequenceStartEvent, mark: Mark) -> None:
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._problems.at(mark, where(self._path()), f"tag {quote(tag)}: a lab file has no YAML tags")

    def _count(self, mark: Mark, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            message = f"more than {MAX_VALUES} values, each alias counted as what it stands for"
            self._problems.at(mark, "lab file", message)
            raise _TooMuch

    def _too_deep(self, mark: Mark) -> None:
        self._problems.at(mark, "lab file", f"nested more than {MAX_DEPTH} deep")
        raise _TooMuch

    def _path(self) -> Path:
        """The way to the value being read."""
        steps: list[str | int] = []
        for frame in self._open:
            if isinstance(frame.node, Sequence):
                steps.append(len(frame.node.items))
            elif frame.key is not None:
                steps.append(frame.key)
        return tuple(steps)


def _mark(mark: object) -> Mark:
    """Our position from ruamel's, which counts from 0."""
    return Mark(getattr(mark, "line", 0) + 1, getattr(mark, "column", 0) + 1)


def _join_surrogates(text: str) -> str:
    """Join what JSON writes as two escapes, such as a smiley: so a JSON file is a lab file as well."""
    if _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _is_text(text: str) -> bool:
    """Whether `text` can go into an environment, a file and a JSON message: no NUL, no half of a surrogate pair."""
    return _NOT_TEXT.search(text) is None


def _explain(error: MarkedYAMLError, text: str) -> str:
    """Say what is wrong with the syntax and, for the usual slips, how to mend it."""
    what = str(error.problem or error.context)
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if error.context and error.context_mark is not None and error.problem:
        begun = _mark(error.context_mark)
        what += f", {error.context} that begins in line {begun.line}, column {begun.column}"
    if "'\\t'" in what:
        return f"{what}; indent with spaces, not tabs"
    if "${" in line and "flow" in what:
        return f'{what}; inside {{ }} and [ ], quote a variable: "${{NAME}}"'
    if "cannot start any token" in what:
        return f"{what}; quote the value"
    if "mapping values are not allowed" in what:
        return f"{what}; a value with ': ' in it must be quoted, and the keys of a mapping begin in one column"
    return what
