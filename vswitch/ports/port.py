"""What a port type is on the Python side: the settings a lab file may give it, and how it is found.

Adding a port type is one file here (a `PortSpec` subclass plus what opens its descriptors) and, if it moves frames in a
new way, one C file with a `struct port_ops` and one line in port_types.def.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from msgspec import Struct


class PortSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Settings of a port that faces outside the lab, as written under `networks.NAME.ports`. Subclasses set `tag=`.

    Override `problems()` for rules that types cannot say.
    """

    def problems(self) -> list[str]:
        """Return what is wrong with the values taken together, [] when nothing is."""
        return []


def load_port_types() -> dict[str, type[PortSpec]]:
    """Import every module of this package and return the port specs by type name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return {str(spec.__struct_config__.tag): spec for spec in PortSpec.__subclasses__()}
