"""`lab validate`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .lab_file import lab_file_argument

if TYPE_CHECKING:
    from ..model.lab import Lab
    from ..model.problems import Problem


@click.command("validate")
@lab_file_argument
@click.option(
    "-f", "--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print what is found."
)
def command(file: str, form: str) -> None:
    """Check the lab FILE and report every mistake and warning in it, each with line and column.

    Exits 1 if there is a mistake, 0 if there are at most warnings.
    """
    from ..errors import LabFileError
    from ..model.loader import find_problems

    try:
        lab, problems = find_problems(file, env=os.environ)
    except LabFileError as error:
        if form == "text":
            raise
        _print_json([{"severity": "error", "file": file, "what": line} for line in error.problems])
        sys.exit(1)
    if form == "json":
        _print_json(
            [
                *(_row("error", problem) for problem in problems.errors),
                *(_row("warning", problem) for problem in problems.warnings),
            ]
        )
    else:
        for problem in problems.warnings:
            click.echo(f"warning: {problem}", err=True)
        problems.raise_if_any()
        assert lab is not None
        click.echo(f"ok: {_summary(lab)}")
    sys.exit(1 if problems.errors else 0)


def _row(severity: str, problem: Problem) -> dict[str, Any]:
    return {
        "severity": severity,
        "file": problem.file,
        "line": problem.mark.line,
        "column": problem.mark.column,
        "where": problem.where,
        "what": problem.what,
    }


def _print_json(rows: list[dict[str, Any]]) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())


def _summary(lab: Lab) -> str:
    numbers = {
        "node": len(lab.nodes),
        "network": len(lab.networks),
        "link": len(lab.links),
        "check": len(lab.checks),
    }
    outside = sum(len(network.ports) for network in lab.networks.values())
    if outside:
        numbers["outside port"] = outside
    return ", ".join(f"{number} {noun}{'' if number == 1 else 's'}" for noun, number in numbers.items())
