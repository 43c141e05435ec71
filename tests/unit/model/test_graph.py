"""Drawings of a topology."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from vswitch.model import load
from vswitch.model.catalogue import Catalogue
from vswitch.model.graph import to_dot, to_mermaid
from vswitch.model.lab import Lab

from .conftest import lab_text


@pytest.fixture
def lab(catalogue: Catalogue) -> Lab:
    links = [["a:eth0", "lan0"], ["b:eth0", "lan0"], {"endpoints": ["a:p", "b:q"], "subnet": "10.1.0.0/30"}]
    return load("lab.yaml", text=lab_text(links=links), env={}, catalogue=catalogue)


def test_mermaid_has_a_box_for_each_node_and_network_and_a_line_for_each_link(lab: Lab) -> None:
    assert to_mermaid(lab).splitlines() == [
        "graph LR",
        '  network0(["lan0<br>switch<br>10.0.0.0/24"])',
        '  node0["a<br>host"]',
        '  node1["b<br>host"]',
        '  node0 ---|"eth0<br>10.0.0.1/24"| network0',
        '  node1 ---|"eth0<br>10.0.0.2/24"| network0',
        '  node0 ---|"p<br>10.1.0.1/30 / q<br>10.1.0.2/30"| node1',
    ]


def test_dot_names_the_same_things(lab: Lab) -> None:
    text = to_dot(lab)
    assert '  network0 [label="lan0\\nswitch\\n10.0.0.0/24", shape=ellipse];' in text
    assert '  node0 -- network0 [taillabel="eth0\\n10.0.0.1/24"];' in text
    assert '  node0 -- node1 [taillabel="p\\n10.1.0.1/30", headlabel="q\\n10.1.0.2/30"];' in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz (package graphviz)")
def test_graphviz_takes_what_is_written_for_it(lab: Lab) -> None:
    drawn = subprocess.run(["dot", "-Tplain"], input=to_dot(lab), capture_output=True, text=True, check=True)
    assert drawn.stderr == ""
    kinds = [line.split()[0] for line in drawn.stdout.splitlines()]
    assert (kinds.count("node"), kinds.count("edge")) == (3, 3)
