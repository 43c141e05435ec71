"""The argument FILE of every verb that reads a lab file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])
_DEFAULT = "lab.yaml"


def _default_file(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str:
    if value is not None:
        return value
    if not ctx.resilient_parsing and not Path(_DEFAULT).exists():
        raise click.UsageError(
            f"there is no {_DEFAULT} in this directory; name a lab FILE ('-' is standard input)", ctx
        )
    return _DEFAULT


def lab_file_argument(function: _F) -> _F:
    """Add the argument FILE: a path or "-", by default ./lab.yaml; without either the command exits 2."""
    return click.argument(
        "file", required=False, metavar="[FILE]", type=click.Path(allow_dash=True), callback=_default_file
    )(function)
