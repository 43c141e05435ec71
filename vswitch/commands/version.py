"""`lab version`."""

from __future__ import annotations

import click

from .. import __version__


@click.command("version")
def command() -> None:
    """Print the version."""
    from ..coordinator.protocol import VERSION

    click.echo(f"lab {__version__} (protocol {VERSION})")
