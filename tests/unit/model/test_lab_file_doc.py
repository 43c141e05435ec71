"""What docs/lab-file.md shows is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vswitch.errors import LabFileError
from vswitch.model import load
from vswitch.model.catalogue import installed
from vswitch.model.schema import build_schema
from vswitch.model.spec import CommonSpec, GroupSpec, ImpairSpec, LabSpec, NetworkSpec, NodeSpec, PortSettingsSpec

DOC = (Path(__file__).parents[3] / "docs" / "lab-file.md").read_text()
BLOCKS = re.findall(r"```(yaml|)\n(.*?)```", DOC, re.DOTALL)
EXAMPLE, NETWORKS, BUS, PORTS, LINKS = (text for language, text in BLOCKS if language == "yaml")


def test_example_of_the_documentation_loads_without_a_warning() -> None:
    lab = load("lab.yaml", text=EXAMPLE, env={})
    assert (len(lab.nodes), len(lab.links), lab.warnings) == (3, 4, ())


def test_further_examples_load_into_it() -> None:
    nodes = "nodes: {vm1: {kind: qemu}, vm2: {kind: qemu}, h1: {kind: netns}}\n"
    lab = load("lab.yaml", text=nodes + NETWORKS, env={})
    assert lab.networks["lan0"].ports["tcp"].spec["type"] == "stream"
    assert load("lab.yaml", text=nodes + BUS, env={}).networks["bus0"].group == "239.192.1.1:1102"
    lab = load("lab.yaml", text=nodes + "networks: {lan0: {subnet: 10.0.0.0/24}}\n" + LINKS, env={})
    assert lab.nodes["h1"].interfaces[0].addresses == ("10.0.0.99/24",)
    hosts = "nodes: {h1: {kind: netns}, h2: {kind: netns}, r1: {kind: netns}, bad: {kind: netns}}\n"
    lab = load("lab.yaml", text=hosts + PORTS, env={})
    assert lab.networks["lan0"].settings.vlan_filtering
    assert lab.ports("lan0")["r1:eth0"].trunk == ("10", "20-29")


def test_messages_shown_are_those_of_the_example_with_two_slips() -> None:
    (shown,) = (text for language, text in BLOCKS if not language)
    text = EXAMPLE.replace("kind: netns}", "kind: nets}").replace("vm2:eth0, lan0", "vm2:eth0, lan")
    with pytest.raises(LabFileError) as caught:
        load("lab.yaml", text=text, env={})
    assert caught.value.problems == shown.splitlines()


@pytest.mark.parametrize("spec", [LabSpec, NodeSpec, NetworkSpec, PortSettingsSpec, CommonSpec, GroupSpec, ImpairSpec])
def test_every_key_is_in_the_documentation(spec: type[LabSpec]) -> None:
    missing = [key for key in spec.__struct_fields__ if f"`{key}`" not in DOC and f"{key}:" not in DOC]
    assert missing == []


def test_every_port_type_and_driver_is_in_the_schema() -> None:
    schema = build_schema(installed())
    assert {"Stream", "Mcast"} <= schema["$defs"].keys()
    assert {"memory", "cpus", "kernel"} <= schema["$defs"]["Node"]["properties"].keys()
