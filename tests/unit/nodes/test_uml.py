"""User-Mode Linux without booting one: its settings, its command line, and the pace of its serial line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.errors import AgentError, LabFileError, NodeError
from vswitch.model import load
from vswitch.model.lab import Node
from vswitch.nodes.agent import WINDOW_LINE, _LineWindow
from vswitch.nodes.uml import UmlDriver
from vswitch.nodes.uml_command import Descriptors, UmlSpec, command_line


def words(spec: UmlSpec, *interfaces: str) -> list[str]:
    return command_line(spec, Path("/i"), Path("/own"), Path("/modules"), interfaces, Descriptors(5, 6))


def test_what_the_file_appends_comes_last_so_that_it_wins() -> None:
    line = words(UmlSpec(memory="80", append="mem=96M quiet"), "vec0:transport=fd,fd=7")
    assert line[0] == "mem=80M"
    assert line[-3:] == ["vec0:transport=fd,fd=7", "mem=96M", "quiet"]
    assert "hostfs=/modules" in line


def test_command_line_longer_than_the_kernel_takes_is_refused() -> None:
    with pytest.raises(NodeError, match="4000"):
        words(UmlSpec(), *("x" * 100 for _ in range(40)))


@pytest.mark.parametrize(
    ("node", "network", "said"),
    [
        ("transport: vde, mtu: 9000", "{}", "9000 is more than User-Mode Linux takes on transport vde: 1500"),
        ("mtu: 9000", "{type: mcast}", "9000 is more than User-Mode Linux takes on transport mcast: 1500"),
        ("transport: tap", "{}", "driver uml has no transport 'tap'; it has: auto, dgram, mcast, vde, l2tpv3"),
        ("memory: lots", "{}", "a size such as 64M or 1G"),
        ("cpus: 2", "{}", "cpus"),
    ],
)
def test_mistakes_in_the_lab_file_are_named(node: str, network: str, said: str) -> None:
    text = f"networks: {{lan: {network}}}\nnodes: {{u: {{kind: uml, {node}}}}}\nlinks: [[u:eth0, lan]]\n"
    with pytest.raises(LabFileError) as caught:
        load("-", text=text)
    assert said in str(caught.value)


def test_missing_program_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    missing = UmlDriver.check(Node(name="u", kind="uml", driver="uml"))
    assert "there is no linux.uml on the PATH; run: apt-get install user-mode-linux (as root)" in missing
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "x86-64 only" in UmlDriver.check(Node(name="u", kind="uml", driver="uml"))[0]


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 1))))
def test_line_window_passes_everything_in_order_and_never_too_much(steps: list[tuple[int, float]]) -> None:
    """Whatever the node takes at a time, all arrives, and at most WINDOW_LINE bytes are under way."""
    line, sent, arrived, under_way = _LineWindow(), bytearray(), bytearray(), 0

    def write(data: bytes) -> None:
        nonlocal under_way
        arrived.extend(data)
        under_way += len(data)
        assert under_way <= WINDOW_LINE

    for size, share in steps:
        piece = bytes(n % 251 for n in range(len(sent), len(sent) + size))
        sent += piece
        write(line.send(piece))
        taken = int(under_way * share)
        under_way -= taken
        write(line.taken(taken))
    while under_way:
        taken, under_way = under_way, 0
        write(line.taken(taken))
    assert arrived == sent


def test_node_that_takes_more_than_it_was_sent_breaks_the_protocol() -> None:
    line = _LineWindow()
    line.send(b"abc")
    with pytest.raises(AgentError, match="took 4 bytes of 3"):
        line.taken(4)
