"""Getting at a lab file's text: bounded, and certainly text."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from ..errors import LabFileError

MAX_BYTES = 1 << 20


class Source(NamedTuple):
    """A lab file's text. `shown` names it in messages; `path` is its absolute path, "-" for standard input."""

    shown: str
    path: str
    directory: Path
    text: str


def read_source(file: str | os.PathLike[str], text: str | None = None) -> Source:
    """Read the lab file `file` ("-" is standard input); with `text`, take that as its contents instead.

    Raises LabFileError when there is no such file, it is over 1 MiB (no more than that is read), or not UTF-8.
    """
    shown = os.fspath(file)
    if shown == "-":
        shown, path, directory = "<stdin>", "-", Path.cwd()
    else:
        given = Path(file)
        directory = given.parent.resolve()
        path = str(directory / given.name)
    if text is not None:
        return Source(shown, path, directory, text)
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise LabFileError([f"{shown}: {(error.strerror or str(error)).lower()}"]) from None
    if len(data) > MAX_BYTES:
        raise LabFileError([f"{shown}:1:1: lab file: is larger than {MAX_BYTES >> 20} MiB"])
    return Source(shown, path, directory, _decode(shown, data))


def _decode(shown: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[start : error.start].decode(errors="replace")) + 1
        what = f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise LabFileError([f"{shown}:{line}:{column}: lab file: {what}"]) from None


def name_from_directory(directory: Path) -> str:
    """A lab's name when the file gives none: its directory's, made to fit what names may be."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", directory.name).lstrip("_.-")[:63] or "lab"
