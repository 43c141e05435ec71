"""The command line itself: help, suggestions, completion, and what it does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from vswitch import __version__
from vswitch.cli import VERBS, lab


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(lab, list(arguments))
    return result.exit_code, result.output


def test_help_lists_every_verb_with_its_line() -> None:
    code, text = run("--help")
    assert code == 0
    for verb in VERBS:
        assert f"  {verb} " in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_that_says_more_than_its_name(verb: str) -> None:
    code, text = run(verb, "--help")
    assert code == 0, text
    assert f"Usage: lab {verb}" in text
    assert len(text.splitlines()) > 4


def test_mistyped_verb_is_answered_with_the_nearest() -> None:
    code, text = run("dwon")
    assert code == 2
    assert "did you mean 'down'" in text


def test_version_is_printed() -> None:
    assert run("version")[1].startswith(f"lab {__version__} ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_calls_lab_back(shell: str) -> None:
    code, text = run("completion", shell)
    assert code == 0
    assert "_LAB_COMPLETE" in text


def test_help_imports_nothing_heavy() -> None:
    heavy = ["asyncio", "msgspec", "zmq", "ruamel", "rich", "pyroute2", "qemu"]
    program = (
        "import sys; from vswitch.cli import lab; "
        "lab(['--help'], standalone_mode=False); "
        f"sys.exit(' '.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
