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
    source = completion(lab, {}, "lab", "_LAB_COMPLETE").source()
    click.echo(_for_bash(source) if shell == "bash" else source)


def _for_bash(source: str) -> str:
    """Mend what click's script leaves to be desired for words such as vm1:eth0 and overflow=drop.

    bash takes ':' and '=' for the ends of words, and puts a space after the one word that fits.
    """
    function = "_lab_completion() {\n"
    end = "\n    return 0\n"
    if source.count(function) != 1 or source.count(end) != 1:
        return source  # another click's; completion works, but for those words
    before = "# ':' and '=' are parts of our words\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//[:=]/}\n\n"
    no_space = "\n    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n"
    return before + source.replace(end, no_space + end)
