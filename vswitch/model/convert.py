"""From the tree to the structs of spec.py: checks every value against its type, and goes on after a mistake.

`msgspec.convert` stops at the first mistake and knows no positions; this walks the same types (`msgspec.inspect`) and
reports all of them. What is wrong is left out of the result, so that what depends on the rest can be checked as well.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any, Final, TypeVar

import msgspec.inspect as mi
from msgspec import Struct

from .problems import Problems, quote
from .tree import Mapping, Node, Path, Scalar, Sequence, plain
from .units import UNITS

_S = TypeVar("_S", bound=Struct)
_INT64 = range(-(2**63), 2**63)


class _Bad:
    """Stands for a value that was refused."""


BAD: Final = _Bad()


@functools.cache
def type_info(kind: Any) -> mi.Type:
    """`msgspec.inspect.type_info`, kept."""
    return mi.type_info(kind)


class Converter:
    """Converts parts of one lab file; paths in it are relative to `directory`.

    With `inherited`, descriptors in it must have been open when this process began.
    """

    def __init__(self, problems: Problems, directory: FilePath, *, inherited: bool = False) -> None:
        self.problems = problems
        self._directory = directory
        self._inherited = inherited

    def into(self, problems: Problems) -> Converter:
        """The same, but reporting to `problems`."""
        return Converter(problems, self._directory, inherited=self._inherited)

    def struct(self, node: Node, kind: type[_S], path: Path) -> _S | None:
        """Convert a mapping to `kind`; None when it cannot be."""
        value = self.value(node, type_info(kind), path)
        return value if isinstance(value, kind) else None

    def value(self, node: Node, info: mi.Type, path: Path, extra: dict[str, Any] | None = None) -> Any:
        """Convert `node` to a value of the type `info`, or report what is wrong with it and return BAD.

        `extra` is what annotations around `info` said.
        """
        if isinstance(info, mi.Metadata):
            return self.value(node, info.type, path, {**(extra or {}), **(info.extra or {})})
        if isinstance(node, Scalar) and node.refused:
            return BAD
        if isinstance(info, mi.UnionType):
            return self._union(node, info, path, extra)
        empty = isinstance(node, Scalar) and node.value is None
        if isinstance(info, mi.StructType | mi.DictType) and (isinstance(node, Mapping) or empty):
            mapping = node if isinstance(node, Mapping) else Mapping(node.mark)
            return (
                self._struct(mapping, info, path)
                if isinstance(info, mi.StructType)
                else self._dict(mapping, info, path)
            )
        if isinstance(info, mi.ListType | mi.VarTupleType) and (isinstance(node, Sequence) or empty):
            return self._list(node if isinstance(node, Sequence) else Sequence(node.mark), info, path, extra or {})
        if isinstance(info, mi.AnyType):
            return plain(node)
        if isinstance(node, Scalar):
            try:
                return self._scalar(node, info, extra or {})
            except ValueError as error:
                what = str(error)
                return self._refuse(path, f"{what}, not {_shown(node)}" if what.startswith("expected") else what)
        return self._refuse(path, f"expected {describe(info, extra)}, not {_shown(node)}")

    # --- scalars ----------------------------------------------------------------------------------------------------

    def _scalar(self, node: Scalar, info: mi.Type, extra: dict[str, Any]) -> Any:
        """Convert a scalar. Raises ValueError("expected ...")."""
        value = node.value
        if "unit" in extra and isinstance(info, mi.StrType | mi.IntType | mi.FloatType):
            quantity = UNITS[extra["unit"]].read(node.text)
            return node.text if isinstance(info, mi.StrType) else quantity
        if isinstance(info, mi.StrType):
            if value is not None:  # `run: true` and `env: {N: 1}` mean what is written
                return self._string(node.text, info, extra)
        elif isinstance(info, mi.BoolType):
            if isinstance(value, bool):
                return value
        elif isinstance(info, mi.IntType | mi.FloatType):
            kinds = int if isinstance(info, mi.IntType) else int | float
            if isinstance(value, kinds) and not isinstance(value, bool) and _within(value, info):
                if self._inherited and extra.get("descriptor"):
                    _check_inherited(int(value))
                return value
        elif isinstance(info, mi.LiteralType):
            if value in info.values and not isinstance(value, bool):
                return value
        elif isinstance(info, mi.NoneType) and value is None:
            return None
        raise ValueError(f"expected {describe(info, extra)}")

    def _string(self, text: str, info: mi.StrType, extra: dict[str, Any]) -> str:
        # Python's "$" also matches before a line's end, JSON Schema's does not.
        if info.pattern is not None and (text.endswith("\n") or re.search(info.pattern, text) is None):
            raise ValueError(f"expected {describe(info, extra)}")
        if len(text) < (info.min_length or 0):
            raise ValueError("expected a text")
        if info.max_length is not None and len(text) > info.max_length:
            raise ValueError(f"expected at most {info.max_length} characters")
        if extra.get("path"):
            return self._new_file(text) if extra["path"] == "new" else self._file(text)
        return text

    def _file(self, text: str) -> str:
        """The absolute path of a file that exists, a block device included."""
        if not text:
            raise ValueError("expected the path of a file")
        try:
            file = self._directory / FilePath(text).expanduser()
            kind = file.stat().st_mode
        except FileNotFoundError:
            raise ValueError(f"no such file: {file}") from None
        except (OSError, RuntimeError) as error:  # a name too long, a directory not ours, a user there is not
            raise ValueError(f"{text[:80]}: {getattr(error, 'strerror', None) or error}") from None
        if stat.S_ISDIR(kind):
            raise ValueError(f"{file} is a directory")
        return str(file)

    def _new_file(self, text: str) -> str:
        """The absolute path of a file that is there or can be made."""
        if not text:
            raise ValueError("expected the path of a file")
        try:
            file = self._directory / FilePath(text).expanduser()
            if file.is_dir():
                raise ValueError(f"{file} is a directory")
            if not file.parent.is_dir():
                raise ValueError(f"no such directory: {file.parent}")
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{text[:80]}: {getattr(error, 'strerror', None) or error}") from None
        return str(file)

    # --- collections ------------------------------------------------------------------------------------------------

    def _struct(self, node: Mapping, info: mi.StructType, path: Path) -> Any:
        fields = {field.encode_name: field for field in info.fields}
        if info.forbid_unknown_fields:
            for key in node.items:
                if key not in fields and key != info.tag_field:
                    self.unknown_key(path, key, fields)
        values = {}
        missing = False
        for key, field in fields.items():
            if key in node.items:
                value = self.value(node.items[key], field.type, (*path, key))
                if value is not BAD:
                    values[field.name] = value
                elif field.required:
                    missing = True
            elif field.required:
                self.problems.error(path, f"needs {key!r}")
                missing = True
        if missing:
            return BAD
        try:
            return info.cls(**values)
        except ValueError as error:  # a rule of the struct's own, in its __post_init__
            return self._refuse(path, str(error))

    def unknown_key(self, path: Path, key: str, known: Any) -> None:
        """Report a key that is not among `known`."""
        self.problems.unknown((*path, key), "key", key, list(known), key=True)

    def _dict(self, node: Mapping, info: mi.DictType, path: Path) -> Any:
        result = {}
        for key, item in node.items.items():
            step = (*path, key)
            name = self._key(key, info.key_type, step)
            value = self.value(item, info.value_type, step)
            if name is not BAD and value is not BAD:
                result[name] = value
        return result

    def _key(self, key: str, info: mi.Type, path: Path) -> Any:
        extra: dict[str, Any] = {}
        while isinstance(info, mi.Metadata):
            extra, info = {**extra, **(info.extra or {})}, info.type
        if isinstance(info, mi.StrType):
            try:
                return self._string(key, info, extra)
            except ValueError as error:
                self.problems.error(path, f"{error}, not {quote(key)}", key=True)
                return BAD
        if isinstance(info, mi.LiteralType) and key not in info.values:
            self.unknown_key(path[:-1], key, map(str, info.values))
            return BAD
        return key

    def _list(self, node: Sequence, info: mi.ListType | mi.VarTupleType, path: Path, extra: dict[str, Any]) -> Any:
        count = len(node.items)
        low, high = info.min_length or 0, info.max_length
        if count < low or (high is not None and count > high):
            wanted = f"at least {low} items" if count < low else f"at most {high} items"
            return self._refuse(path, f"expected {extra.get('what', wanted)}, not {count}")
        items = [self.value(item, info.item_type, (*path, index)) for index, item in enumerate(node.items)]
        if extra.get("sparse"):
            items = [None if item is BAD else item for item in items]
        elif any(item is BAD for item in items):
            return BAD
        return tuple(items) if isinstance(info, mi.VarTupleType) else items

    def _union(self, node: Node, info: mi.UnionType, path: Path, extra: dict[str, Any] | None) -> Any:
        fitting = list(_fitting(node, info))
        if len(fitting) > 1 and isinstance(node, Mapping):
            return self._tagged(node, fitting, path)
        if len(fitting) == 1:
            return self.value(node, fitting[0], path, extra)
        for kind in fitting:
            attempt = self.into(Problems(self.problems.file))
            value = attempt.value(node, kind, path, extra)
            if not attempt.problems.errors:
                return value
        return self._refuse(path, f"expected {describe(info, extra)}, not {_shown(node)}")

    def _tagged(self, node: Mapping, kinds: list[mi.Type], path: Path) -> Any:
        """Convert to whichever of several structs the tag field names."""
        structs = [kind for kind in kinds if isinstance(kind, mi.StructType) and kind.tag_field is not None]
        tag = structs[0].tag_field if structs else None
        if tag is None:
            raise TypeError("a union of mappings needs a tag field to choose by")
        by_name = {str(kind.tag): kind for kind in structs}
        chosen = node.items.get(tag)
        if chosen is None:
            return self._refuse(path, f"needs {tag!r}: {', '.join(by_name)}")
        name = chosen.text if isinstance(chosen, Scalar) else ""
        if name not in by_name:
            self.problems.unknown((*path, tag), tag, name, by_name)
            return BAD
        return self._struct(node, by_name[name], path)

    def _refuse(self, path: Path, what: str) -> _Bad:
        self.problems.error(path, what)
        return BAD


def _fitting(node: Node, info: mi.UnionType) -> Iterator[mi.Type]:
    """The members of a union that have the shape of `node`."""
    empty = isinstance(node, Scalar) and node.value is None
    nullable = any(isinstance(kind, mi.NoneType) for kind in info.types)
    for kind in info.types:
        inner = kind
        while isinstance(inner, mi.Metadata):
            inner = inner.type
        if isinstance(inner, mi.StructType | mi.DictType):
            fits = isinstance(node, Mapping) or (empty and not nullable)
        elif isinstance(inner, mi.ListType | mi.VarTupleType):
            fits = isinstance(node, Sequence)
        elif isinstance(inner, mi.NoneType):
            fits = empty
        else:
            fits = isinstance(node, Scalar) and not empty
        if fits:
            yield kind


def _check_inherited(descriptor: int) -> None:
    """Raise ValueError unless `descriptor` is from whoever started us: Python opens its own to be closed on exec."""
    with contextlib.suppress(OSError):
        if os.get_inheritable(descriptor):
            return
    raise ValueError(f"descriptor {descriptor} is not open: it is to be handed to the lab up that is run")


def describe(info: mi.Type, extra: dict[str, Any] | None = None) -> str:
    """What a value of this type looks like, in words."""
    extra = extra or {}
    if isinstance(info, mi.Metadata):
        return describe(info.type, {**extra, **(info.extra or {})})
    if "what" in extra:
        return str(extra["what"])
    if "unit" in extra:
        unit = UNITS[extra["unit"]]
        return f"{unit.noun} such as {unit.examples}"
    match info:
        case mi.UnionType(types=types):
            shown = [describe(kind) for kind in types if not isinstance(kind, mi.NoneType)]
            return " or ".join(dict.fromkeys(shown))
        case mi.StructType() | mi.DictType():
            return "a mapping"
        case mi.ListType() | mi.VarTupleType():
            return "a list"
        case mi.StrType(pattern=None):
            return "a text"
        case mi.StrType(pattern=pattern):
            return f"a text that matches {pattern}"
        case mi.BoolType():
            return "true or false"
        case mi.IntType():
            return "a whole number" + _bounds(info)
        case mi.FloatType():
            return "a number" + _bounds(info)
        case mi.LiteralType(values=values):
            return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
        case _:
            return "nothing"


def _bounds(info: mi.IntType | mi.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge} to {info.le}"
    parts = [(" > ", info.gt), (" >= ", info.ge), (" < ", info.lt), (" <= ", info.le)]
    return " and".join(f"{sign}{bound}" for sign, bound in parts if bound is not None)


def _within(value: Any, info: mi.IntType | mi.FloatType) -> bool:
    return (
        (not isinstance(value, int) or value in _INT64)
        and (info.gt is None or value > info.gt)
        and (info.ge is None or value >= info.ge)
        and (info.lt is None or value < info.lt)
        and (info.le is None or value <= info.le)
        and (info.multiple_of is None or value % info.multiple_of == 0)
    )


def _shown(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    return "nothing" if node.value is None else quote(node.text) if isinstance(node.value, str) else node.text[:60]
