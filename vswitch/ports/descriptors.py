"""Descriptors that a lab file names (`fd: 5`): where they stand among a port spec's fields, found by their type.

Their numbers are those of the `lab up` that is run. It hands duplicates to the coordinator, that to the fabric, and
there the numbers are replaced by those the duplicates have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec.inspect as mi

from .port import PortSpec, load_port_types

MAX_OF_PORT = 17
"""Descriptors one port may take, as in fabric/port.h."""
MAX_OF_LAB = 253
"""As many as one message over a unix socket carries (SCM_MAX_FD)."""

Path = tuple[str | int, ...]
Replace = Callable[[int, Path], int]


def replace_descriptors(spec: type[PortSpec], fields: dict[str, Any], replace: Replace) -> dict[str, Any]:
    """Return `fields` of a `spec` with each descriptor `replace(number, path)`d, in the order of the spec's fields."""
    info = mi.type_info(spec)
    assert isinstance(info, mi.StructType)
    changed = {
        field.encode_name: _replaced(fields[field.encode_name], field.type, (field.encode_name,), replace)
        for field in info.fields
        if field.encode_name in fields
    }
    return fields | changed


def descriptors_of(fields: dict[str, Any]) -> list[int]:
    """Return the numbers of the descriptors among the fields of a port, `type` among them, in their order."""
    spec = load_port_types().get(str(fields.get("type")))
    found: list[int] = []

    def note(number: int, _: Path) -> int:
        found.append(number)
        return number

    if spec is not None:
        replace_descriptors(spec, fields, note)
    return found


def _replaced(value: Any, info: mi.Type, path: Path, replace: Replace) -> Any:
    if isinstance(info, mi.Metadata):
        if (info.extra or {}).get("descriptor") and isinstance(value, int):
            return replace(value, path)
        return _replaced(value, info.type, path, replace)
    if isinstance(info, mi.UnionType):
        for kind in info.types:
            value = _replaced(value, kind, path, replace)
    elif isinstance(info, mi.ListType | mi.VarTupleType) and isinstance(value, list | tuple):
        return [_replaced(item, info.item_type, (*path, index), replace) for index, item in enumerate(value)]
    return value
