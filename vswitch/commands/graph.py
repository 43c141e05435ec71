"""`lab graph`."""

from __future__ import annotations

import click

from .lab_file import lab_file_argument


@click.command("graph")
@lab_file_argument
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["mermaid", "dot", "svg"]),
    default="mermaid",
    help="mermaid (for Markdown), dot (Graphviz), or svg (drawn by Graphviz, which must be installed).",
)
def command(file: str, form: str) -> None:
    """Draw the topology of the lab FILE: its nodes, networks and links."""
    from ..model import load
    from ..model.graph import to_dot, to_mermaid

    lab = load(file)
    if form == "mermaid":
        click.echo(to_mermaid(lab), nl=False)
    elif form == "dot":
        click.echo(to_dot(lab), nl=False)
    else:
        click.echo(_draw(to_dot(lab)), nl=False)


def _draw(dot: str) -> str:
    """Have Graphviz make an SVG."""
    import subprocess

    from ..errors import MachineError

    try:
        drawn = subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise MachineError(
            "drawing an SVG needs the program 'dot' (Debian and Ubuntu: apt install graphviz); "
            "-f mermaid and -f dot need nothing"
        ) from None
    except subprocess.CalledProcessError as error:
        raise MachineError(f"dot failed: {error.stderr.strip()}") from None
    return drawn.stdout
