"""`lab config`."""

from __future__ import annotations

import click

from .lab_file import lab_file_argument


@click.command("config")
@lab_file_argument
@click.option("-f", "--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", help="How to print it.")
def command(file: str, form: str) -> None:
    """Print the lab FILE as it is understood: kinds, groups and defaults merged, addresses and MACs filled in.

    What is printed is itself a lab file, and loads to the same lab.
    """
    from ..model import load
    from ..model.render import to_plain, to_yaml

    lab = load(file)
    for warning in lab.warnings:
        click.echo(f"warning: {warning}", err=True)
    if form == "yaml":
        click.echo(to_yaml(lab), nl=False)
    else:
        import json

        # In ASCII: to YAML, which JSON is to be read as, some characters beyond it are line ends.
        click.echo(json.dumps(to_plain(lab), indent=2))
