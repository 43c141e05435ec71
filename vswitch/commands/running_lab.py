"""Options and completion shared by the verbs that act on a running lab."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..errors import LabError

_F = TypeVar("_F", bound=Callable[..., Any])


def _complete_labs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from ..rundir import list_runs

    with contextlib.suppress(LabError):
        return [CompletionItem(run.name, help=run.source) for _, run in list_runs() if run.name.startswith(incomplete)]
    return []


def _complete_nodes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    import msgspec

    from ..model.lab import Lab
    from ..rundir import find

    with contextlib.suppress(LabError, OSError, msgspec.MsgspecError):
        run_dir, _ = find(ctx.params.get("lab"))
        lab = msgspec.json.decode(run_dir.lab_file.read_bytes(), type=Lab)
        return [
            CompletionItem(node.name, help=node.kind) for node in lab.nodes.values() if node.name.startswith(incomplete)
        ]
    return []


def lab_option(function: _F) -> _F:
    """Add `-l/--lab NAME`: which running lab, when it is not clear from the directory."""
    return click.option(
        "-l",
        "--lab",
        metavar="NAME",
        envvar="VSWITCH_LAB",
        shell_complete=_complete_labs,
        help="Which lab: by default the one started from a file in this directory, or the only one up.",
    )(function)


def node_argument(*, required: bool = True) -> Callable[[_F], _F]:
    """Add the argument NODE, completed from the running lab."""
    return click.argument("node", required=required, shell_complete=_complete_nodes)
