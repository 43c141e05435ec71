"""The way from a lab file to a resolved lab, step by step."""

from __future__ import annotations

import os
from collections.abc import Mapping as Environment

import msgspec

from .catalogue import Catalogue, installed
from .convert import Converter
from .lab import Lab
from .parse import parse
from .problems import Problems
from .resolve import resolve
from .source import Source, name_from_directory, read_source
from .spec import TOPOLOGY_KEYS, LabSpec
from .tree import Mapping, Node, Scalar


def load_lab(
    file: str | os.PathLike[str],
    *,
    text: str | None,
    env: Environment[str, str],
    catalogue: Catalogue | None,
    inherited: bool,
) -> Lab:
    """Do what `model.load` says."""
    source = read_source(file, text)
    problems = Problems(source.shown)
    lab = _load(source, problems, env, catalogue, inherited=inherited)
    problems.raise_if_any()
    assert lab is not None
    return msgspec.structs.replace(lab, warnings=tuple(str(warning) for warning in problems.warnings))


def find_problems(
    file: str | os.PathLike[str], *, env: Environment[str, str], catalogue: Catalogue | None = None
) -> tuple[Lab | None, Problems]:
    """Load a lab file, but return the mistakes and warnings instead of raising them; the lab only if it is right.

    Raises LabFileError when the file cannot be read at all.
    """
    source = read_source(file)
    problems = Problems(source.shown)
    lab = _load(source, problems, env, catalogue, inherited=False)
    return (None if problems.errors else lab), problems


def _load(
    source: Source, problems: Problems, env: Environment[str, str], catalogue: Catalogue | None, *, inherited: bool
) -> Lab | None:
    root = parse(source.text, problems, env)
    if root is None:
        return None
    if not isinstance(root, Mapping):
        problems.at(root.mark, "lab file", "is not a mapping; it begins with keys such as 'name:' and 'nodes:'")
        return None
    root = _top_level(root, problems)
    problems.root = root
    catalogue = catalogue or installed()
    converter = Converter(problems, source.directory, inherited=inherited)
    file = converter.struct(root, LabSpec, ())
    if file is None:
        return None
    lab_name = file.name or name_from_directory(source.directory)
    return resolve(file, root, lab_name, source.path, problems, catalogue, converter)


def _top_level(root: Mapping, problems: Problems) -> Mapping:
    """The file's keys without `x-...`, and with what stands under `topology:` beside the others."""
    flat = Mapping(root.mark)
    wrapper: Node | None = None
    for key, value in root.items.items():
        if key == "topology":
            wrapper = value
        elif not key.startswith("x-"):
            flat.items[key] = value
            flat.keys[key] = root.keys[key]
    if isinstance(wrapper, Mapping):
        for key, value in wrapper.items.items():
            mark = wrapper.keys[key]
            if key in flat.items:
                problems.at(
                    mark, "topology", f"key {key!r} is here and beside 'topology:', in line {flat.keys[key].line}"
                )
            elif key not in TOPOLOGY_KEYS:
                problems.at(mark, "topology", f"unknown key {key!r}; known: {', '.join(TOPOLOGY_KEYS)}")
            else:
                flat.items[key] = value
                flat.keys[key] = mark
    elif wrapper is not None and not (isinstance(wrapper, Scalar) and wrapper.value is None):
        problems.at(wrapper.mark, "topology", "expected a mapping")
    return flat
