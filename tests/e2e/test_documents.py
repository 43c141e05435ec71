"""What the documents say to type works as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LabCommand

ROOT = Path(__file__).parents[2]
DUO = """\
name: duo
networks: {vale0: {type: switch}}
nodes: {quiet: {kind: emulated, role: sink}}
links: [[quiet:e, vale0]]
"""


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def duo(lab_command: LabCommand, tmp_path: Path) -> LabCommand:
    (tmp_path / "lab.yaml").write_text(DUO)
    lab_command.ok("up", "-q")
    return lab_command


def test_first_python_example_of_rings_prints_the_frame(duo: LabCommand) -> None:
    example = blocks("docs/rings.md", "python")[0]
    result = subprocess.run(
        [sys.executable, "-c", example], env=duo.environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert re.match(r"\[b'(\\xff){6}\\x02", result.stdout)


def test_c_example_of_rings_reflects_what_it_gets(
    duo: LabCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vswitch.ring import Ring

    (tmp_path / "reflect.c").write_text(blocks("docs/rings.md", "c")[0])
    flags = subprocess.run(
        [sys.executable, "-m", "vswitch.ring", "--cflags", "--libs"], capture_output=True, text=True, check=True
    ).stdout.split()
    build = ["cc", "-Wall", "-Wextra", "-Werror", "-Wno-sign-compare", "reflect.c", *flags, "-o", "reflect"]
    subprocess.run(build, cwd=tmp_path, check=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", duo.environment["XDG_RUNTIME_DIR"])
    frame = bytes.fromhex("ffffffffffff 020000000001 88b5") + bytes(46)
    with subprocess.Popen([tmp_path / "reflect"], env=duo.environment) as reflect:
        try:
            with Ring.open("duo/vale0:p2") as ring:
                while not ring.wait(timeout=0.01):  # until it is there, nobody answers
                    assert reflect.poll() is None
                    ring.send([frame])
                assert ring.receive()[0] == frame
        finally:
            reflect.kill()


def test_examples_of_emulated_nodes_load(
    lab_command: LabCommand, tmp_path: Path, lab_file: Callable[..., Path]
) -> None:
    whole = [text for text in blocks("docs/emulated.md", "yaml") if text.startswith("name:")]
    assert whole
    for number, text in enumerate(whole):
        lab_command.ok("validate", str(lab_file(text, f"example{number}.yaml")))
