"""`lab schema`."""

from __future__ import annotations

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of lab files, for editors and other programs.

    With the YAML language server, put this in a lab file's first line:
    "# yaml-language-server: $schema=lab.schema.json".
    """
    import msgspec

    from ..model.catalogue import installed
    from ..model.schema import build_schema

    click.echo(msgspec.json.format(msgspec.json.encode(build_schema(installed())), indent=2).decode())
