"""The lab file: typed specs as written, the resolved lab, and the way from one to the other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import LabError

if TYPE_CHECKING:
    from .catalogue import Catalogue
    from .lab import Lab

# What reads a file is imported where it is used: the coordinator needs `model.lab` and nothing else of this package.


def load(
    file: str | os.PathLike[str],
    *,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    catalogue: Catalogue | None = None,
    inherited: bool = False,
) -> Lab:
    """Read a lab file and settle everything it leaves open.

    `file` is a path or "-" for standard input; `text`, if given, is taken for its contents. Variables come from `env`
    (default: the process's environment); `catalogue` has the drivers and port types there are (default: all installed).
    With `inherited` the descriptors it names must be open in this process, and have been so when it began.
    Raises LabFileError with every mistake there is, in file order.
    """
    from .loader import load_lab

    return load_lab(file, text=text, env=os.environ if env is None else env, catalogue=catalogue, inherited=inherited)


def check_name(name: str) -> None:
    """Raise LabError unless `name` can be the name of a lab."""
    import re

    from .spec import NAME_PATTERN, NAME_RULE

    if name.endswith("\n") or re.search(NAME_PATTERN, name) is None:
        raise LabError(f"{name!r} cannot be a lab's name; expected {NAME_RULE}")
