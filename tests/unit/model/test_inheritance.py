"""Most specific wins: node, then group, then kind, then defaults."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from vswitch.errors import LabFileError
from vswitch.model import load
from vswitch.model.catalogue import Catalogue
from vswitch.model.lab import Node

LEVELS = ("defaults", "kind", "group", "node")  # weakest first


def node_of(catalogue: Catalogue, said: dict[str, dict[str, Any]], driver: str = "machine") -> Node:
    """The node of a lab in which each level of LEVELS says what `said` has for it."""
    contents = {
        "defaults": said.get("defaults", {}),
        "kinds": {"k": {"driver": driver, **said.get("kind", {})}},
        "groups": {"g": said.get("group", {})},
        "nodes": {"n": {"kind": "k", "group": "g", **said.get("node", {})}, "other": {"kind": "host"}},
    }
    text = msgspec.json.encode(contents).decode()
    return load("lab.yaml", text=text, env={}, catalogue=catalogue).nodes["n"]


SUBSETS = [subset for size in range(1, 5) for subset in itertools.combinations(LEVELS, size)]


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_strongest_level_that_says_something_wins(catalogue: Catalogue, subset: tuple[str, ...]) -> None:
    said = {level: LEVELS.index(level) + 1 for level in subset}
    strongest = max(said.values())
    node = node_of(
        catalogue,
        {
            level: {
                "cpus": number,
                "memory": f"{number}M",
                "ready_timeout": f"{number}s",
                "exec": [f"echo {number}"],
                "healthcheck": {"run": f"test {number}"},
                "depends_on": {"other": ["started", "ready", "healthy", "started"][number - 1]},
                "labels": {"who": level, level: "yes"},
                "env": {"WHO": level, level.upper(): "1"},
            }
            for level, number in said.items()
        },
    )
    assert node.settings == {"cpus": strongest, "memory": f"{strongest}M"}
    assert node.ready_timeout == strongest
    assert node.exec == (f"echo {strongest}",)
    assert node.healthcheck is not None
    assert node.healthcheck.run == f"test {strongest}"
    assert node.depends_on == {"other": ["started", "ready", "healthy", "started"][strongest - 1]}
    # Labels and environment are merged key by key.
    assert node.labels == {"who": LEVELS[strongest - 1], **dict.fromkeys(subset, "yes")}
    assert node.env == {"WHO": LEVELS[strongest - 1], **{level.upper(): "1" for level in subset}}


def test_null_takes_back_what_a_weaker_level_said(catalogue: Catalogue) -> None:
    said = {"kind": {"exec": "true", "mtu": 1400, "healthcheck": {"run": "true"}}}
    node = node_of(catalogue, {**said, "node": {"exec": None, "healthcheck": None}})
    assert (node.exec, node.healthcheck) == ((), None)


def test_mtu_of_an_interface_wins_over_that_of_its_node(catalogue: Catalogue) -> None:
    interfaces = {"eth0": {"mtu": 9000, "model": "e1000"}, "eth1": {}}
    node = node_of(catalogue, {"group": {"mtu": 1400}, "node": {"interfaces": interfaces}})
    assert [(i.name, i.mtu, i.model) for i in node.interfaces] == [("eth0", 9000, "e1000"), ("eth1", 1400, None)]


def test_kind_comes_from_the_node_else_its_group_else_the_defaults(catalogue: Catalogue) -> None:
    text = (
        "defaults: {kind: host}\nkinds: {k: {driver: machine}, host: {env: {A: x}}}\ngroups: {g: {kind: k}}\n"
        "nodes: {a: {}, b: {group: g}, c: {group: g, kind: machine}}\n"
    )
    lab = load("lab.yaml", text=text, env={}, catalogue=catalogue)
    kinds = {name: (node.kind, node.driver) for name, node in lab.nodes.items()}
    assert kinds == {"a": ("host", "host"), "b": ("k", "machine"), "c": ("machine", "machine")}
    # A driver's own kind may be given settings, too.
    assert lab.nodes["a"].env == {"A": "x"}


def test_settings_of_defaults_and_groups_reach_only_the_drivers_that_have_them(catalogue: Catalogue) -> None:
    text = (
        "defaults: {memory: 128M, isolate: true}\ngroups: {g: {accel: tcg}}\n"
        "nodes: {a: {kind: machine, group: g}, b: {kind: host, group: g}}\n"
    )
    lab = load("lab.yaml", text=text, env={}, catalogue=catalogue)
    assert lab.nodes["a"].settings == {"memory": "128M", "accel": "tcg"}
    assert lab.nodes["b"].settings == {"isolate": True}


def test_setting_whose_meaning_differs_between_drivers_is_checked_against_the_one_it_reaches(
    catalogue: Catalogue,
) -> None:
    """`cpus` is a number for a machine and a text for a host."""
    lab = load("lab.yaml", text="defaults: {cpus: 0-3}\nnodes: {a: {kind: host}}", env={}, catalogue=catalogue)
    assert lab.nodes["a"].settings == {"cpus": "0-3"}
    with pytest.raises(LabFileError, match=r"defaults\.cpus: expected a whole number"):
        load("lab.yaml", text="defaults: {cpus: 0-3}\nnodes: {a: {kind: machine}}", env={}, catalogue=catalogue)


def test_driver_without_a_name_clash_is_insisted_on() -> None:
    class Clashing(msgspec.Struct, forbid_unknown_fields=True):
        env: str = ""

    with pytest.raises(TypeError, match="env"):
        Catalogue({"bad": Clashing}, {}).fields("bad")
