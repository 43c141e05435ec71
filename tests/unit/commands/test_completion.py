"""bash's completion takes our words whole: a real bash is asked."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from click.testing import CliRunner

from vswitch.cli import lab


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_colons_and_equals_signs_for_parts_of_words() -> None:
    script = CliRunner().invoke(lab, ["completion", "bash"]).output
    ask = """
        lab() { echo "plain,overflow="; }
        compopt() { echo compopt "$@"; }
        COMP_WORDS=(lab port vale0 over); COMP_CWORD=3
        _lab_completion lab
        echo "[${COMPREPLY[*]}] [$COMP_WORDBREAKS]"
    """
    script = script.replace("$1)", "echo 'plain,overflow=')")  # what `lab` would answer
    result = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, timeout=20, check=True)
    space, _, rest = result.stdout.partition("\n")
    words, _, breaks = rest.partition("] ")
    assert (space, words) == ("compopt -o nospace", "[overflow=")
    assert breaks
    assert not {":", "="} & set(breaks)
