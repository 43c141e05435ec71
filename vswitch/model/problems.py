"""Mistakes found in a lab file: each is one line, `file:line:column: where: what`, and all are collected."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import NamedTuple

from ..errors import LabFileError
from .tree import Mark, Node, Path, locate

_MAX_PROBLEMS = 100
_MAX_SHOWN = 60  # characters of a value quoted in a message
_MAX_KNOWN = 24  # names listed in a message


class Problem(NamedTuple):
    """One mistake, or one warning. `where` is the place in the file's structure (`nodes.vm1.kind`)."""

    file: str
    mark: Mark
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.mark.line}:{self.mark.column}: {self.where}: {self.what}"


def where(path: Path) -> str:
    """Write a path as people do: `links[2].endpoints[0]`; the whole file is "lab file"."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{shorten(step)}" if text else shorten(step)
    return text or "lab file"


def quote(value: object) -> str:
    """A value as shown in a message: quoted, on one line, never long."""
    return repr(_cut(value) if isinstance(value, str) else value)


def shorten(text: str) -> str:
    """Cut `text` to a length fit for a message, with what could upset a terminal or break the line made visible."""
    cut = _cut(text)
    return cut if cut.isprintable() else repr(cut)[1:-1]


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def suggestion(given: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known ones and, if one is near, a "did you mean"."""
    names = sorted(known)
    if not names:
        return "; none is defined"
    more = f", and {len(names) - _MAX_KNOWN} more" if len(names) > _MAX_KNOWN else ""
    near = difflib.get_close_matches(given[:_MAX_SHOWN], names[:1000], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"; known: {', '.join(shorten(name) for name in names[:_MAX_KNOWN])}{more}{hint}"


class Problems:
    """Collects what is wrong with one lab file. `root` is its tree, once there is one, to find positions in."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self._errors: dict[Problem, None] = {}  # in order, none twice
        self._warnings: dict[Problem, None] = {}

    def at(self, mark: Mark, place: str, what: str) -> None:
        """Note a mistake at a known position."""
        if len(self._errors) < _MAX_PROBLEMS:
            self._errors[Problem(self.file, mark, place, what)] = None

    def error(self, path: Path, what: str, *, key: bool = False) -> None:
        """Note a mistake in the value at `path`, or with `key` in its key."""
        self.at(self.position(path, key=key), where(path), what)

    def unknown(self, path: Path, noun: str, given: str, known: Collection[str], *, key: bool = False) -> None:
        """Note that `given`, at `path`, names nothing known: `unknown NOUN 'GIVEN'; known: ...; did you mean ...?`

        With `key` it is the path's own last key that is unknown.
        """
        if self.full:
            return  # comparing names costs most
        place = where(path[:-1] if key else path)
        self.at(self.position(path, key=key), place, f"unknown {noun} {quote(given)}{suggestion(given, known)}")

    def warning(self, path: Path, what: str, *, key: bool = False) -> None:
        """Note something odd that is not wrong."""
        self.warning_at(self.position(path, key=key), where(path), what)

    def warning_at(self, mark: Mark, place: str, what: str) -> None:
        """Note something odd at a known position."""
        if len(self._warnings) < _MAX_PROBLEMS:
            self._warnings[Problem(self.file, mark, place, what)] = None

    def position(self, path: Path, *, key: bool = False) -> Mark:
        """Where in the file `path` is: its value, or with `key` its key; the nearest thing there is above it if not."""
        return locate(self.root, path, key=key) if self.root is not None else Mark(1, 1)

    def line(self, path: Path) -> str:
        """A short "line N" for messages that point at a second place."""
        return f"line {self.position(path).line}"

    @property
    def full(self) -> bool:
        """Whether further mistakes would not be kept."""
        return len(self._errors) >= _MAX_PROBLEMS

    @property
    def errors(self) -> list[Problem]:
        """The mistakes, in file order."""
        return sorted(self._errors, key=lambda problem: problem.mark)

    @property
    def warnings(self) -> list[Problem]:
        """The warnings, in file order."""
        return sorted(self._warnings, key=lambda problem: problem.mark)

    def raise_if_any(self) -> None:
        """Raise LabFileError with every mistake, if there is one."""
        if self._errors:
            lines = [str(problem) for problem in self.errors]
            if self.full:
                lines.append(f"{self.file}: only the first {_MAX_PROBLEMS} mistakes found are shown")
            raise LabFileError(lines)
