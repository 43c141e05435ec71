"""What the documents say to type works as it is printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LabCommand
from vswitch.model import load

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


@pytest.mark.parametrize("document", ["ports", "external", "uml", "qemu"])
def test_examples_of_ports_and_machines_load(document: str, lab_file: Callable[..., Path]) -> None:
    """Those of ports stand in a network, those of nodes have the networks of their links, and files they name exist."""
    for name in ("attack.pcapng", "lab0-up", "lab0-down"):
        lab_file("", name)
    examples = blocks(f"docs/{document}.md", "yaml")
    assert examples
    for text in examples:
        if text.startswith("ports:"):
            text = "networks:\n  lan0:\n" + textwrap.indent(text, "    ") + "nodes: {a: {kind: netns}}\n"
        load(str(lab_file(text)), env={})


@pytest.mark.namespaces
def test_example_of_descriptors_brings_a_lab_up(lab_command: LabCommand) -> None:
    (example,) = blocks("docs/ports.md", "python")
    path = f"{Path(sys.executable).parent}:{lab_command.environment['PATH']}"
    subprocess.run(
        [sys.executable, "-c", example],
        env={**lab_command.environment, "PATH": path},
        cwd=lab_command.cwd,
        timeout=60,
        check=True,
    )
    (row,) = [row for row in json.loads(lab_command.ok("stats", "-f", "json")) if row["port"] == "mine"]
    assert row["type"] == "stream"
