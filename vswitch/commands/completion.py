"""`lab completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  lab completion bash > ~/.local/share/bash-completion/completions/lab
    zsh:   lab completion zsh > "${fpath[1]}/_lab"
    fish:  lab completion fish > ~/.config/fish/completions/lab.fish
    """
    from ..cli import lab

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(lab, {}, "lab", "_LAB_COMPLETE").source())
