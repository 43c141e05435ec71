"""`lab config`: what is printed is a lab file that loads to the same lab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vswitch.model import load
from vswitch.model.catalogue import Catalogue
from vswitch.model.lab import Lab
from vswitch.model.render import to_plain, to_yaml

from .conftest import lab_text, make_catalogue

CATALOGUE = make_catalogue()


def reload(text: str, catalogue: Catalogue) -> Lab:
    """Load a rendered lab, in an environment where every slip of escaping would show."""
    return load("lab.yaml", text=text, env={"A": "wrong", "HOME": "wrong"}, catalogue=catalogue)


def assert_round_trip(lab: Lab, catalogue: Catalogue) -> None:
    for text in (to_yaml(lab), json.dumps(to_plain(lab))):
        again = reload(text, catalogue)
        assert msgspec.structs.replace(again, warnings=()) == msgspec.structs.replace(lab, warnings=())


def test_rendered_lab_has_everything_filled_in(catalogue: Catalogue) -> None:
    lab = load("lab.yaml", text=lab_text(), env={}, catalogue=catalogue)
    assert to_yaml(lab) == (
        "name: pair\n"
        "seed: 0\n"
        "networks:\n"
        "  lan0:\n"
        "    type: switch\n"
        "    subnet: [10.0.0.0/24]\n"
        "    ageing: 300s\n"
        "    fdb_limit: 8192\n"
        "    vlan_filtering: false\n"
        "    vlan_protocol: 802.1Q\n"
        "    reserved_multicast: forward\n"
        "nodes:\n"
        "  a:\n"
        "    kind: host\n"
        "    interfaces:\n"
        "      eth0:\n"
        "        mac: 52:54:00:53:53:af\n"
        "        ip: [10.0.0.1/24]\n"
        "        mtu: 1500\n"
        "    ready_timeout: 60s\n"
        "  b:\n"
        "    kind: host\n"
        "    interfaces:\n"
        "      eth0:\n"
        f"        mac: {lab.nodes['b'].interfaces[0].mac}\n"
        "        ip: [10.0.0.2/24]\n"
        "        mtu: 1500\n"
        "    ready_timeout: 60s\n"
        "links:\n"
        "- [a:eth0, lan0]\n"
        "- [b:eth0, lan0]\n"
    )


def test_rendering_a_rendered_lab_changes_nothing(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "k").touch()
    text = lab_text(
        defaults={"env": {"A": "$HOME ${A:-x} $$"}},
        kinds={"m": {"driver": "machine", "kernel": "k", "memory": "1.5G"}},
        nodes={"a": {"kind": "m", "exec": ["echo $1"]}, "b": {"kind": "host", "isolate": True}},
    )
    lab = load(tmp_path / "lab.yaml", text=text, env={}, catalogue=catalogue)
    once = to_yaml(lab)
    again = load(tmp_path / "lab.yaml", text=once, env={}, catalogue=catalogue)
    assert again == lab
    assert to_yaml(again) == once


# --- any lab at all --------------------------------------------------------------------------------------------------

_TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30
)
_NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,8}\Z")
_AWKWARD = st.sampled_from(
    ["null", "~", "true", "1e3", "1_000", "0x1f", "012", "1:30", "- a", "a: b", "${A}", "$$", "#", "<<", "=", "é"]
)
_STRINGS = _TEXT | _AWKWARD
_POLICIES = st.sampled_from(["forward", "drop", "deliver"])
_DURATIONS = st.integers(0, 10**7).map(lambda us: f"{us}us")


@st.composite
def _port_settings(draw: st.DrawFn, *, filtering: bool) -> dict[str, Any]:
    """Settings of a port of a switch, as a lab file has them."""
    flags = [
        "isolated", "learning", "unknown_flood", "broadcast_flood", "multicast_flood", "sticky", "hairpin", "control"
    ]  # fmt: skip
    settings: dict[str, Any] = draw(st.dictionaries(st.sampled_from(flags), st.booleans(), max_size=4))
    settings |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "storm_limit": st.integers(0, 2**31 - 1),
                "mac_limit": st.integers(0, 1 << 20),
                "mtu": st.integers(68, 65535),
                "overflow": st.sampled_from(["pause", "drop"]),
            },
        )
    )
    ids = st.integers(1, 4094)
    ranges = st.lists(ids | st.tuples(ids, ids).map(lambda two: f"{min(two)}-{max(two)}"), min_size=1, max_size=4)
    vlans: dict[str, st.SearchStrategy[dict[str, Any]]] = {
        "nothing": st.just({}),
        "access": st.fixed_dictionaries({"vlan": ids}),
        "trunk": st.fixed_dictionaries({"trunk": ranges | st.just("all")}, optional={"native": ids}),
    }
    if filtering:
        settings |= draw(vlans[draw(st.sampled_from(sorted(vlans)))])
    return settings


@st.composite
def lab_files(draw: st.DrawFn) -> dict[str, Any]:
    """Contents of a good lab file."""
    names = draw(st.lists(_NAMES, min_size=3, max_size=6, unique=True))
    networks, nodes = names[:2], names[2:]
    contents: dict[str, Any] = {
        "name": draw(_NAMES),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "networks": {},
        "nodes": {},
        "links": [],
        "checks": {},
    }
    for number, name in enumerate(networks):
        contents["networks"][name] = {
            "type": draw(st.sampled_from(["switch", "hub", "mcast"])),
            "subnet": draw(
                st.sampled_from([[], [f"10.{number}.0.0/24"], [f"10.{number}.0.0/24", f"fd00:{number}::/64"]])
            ),
            "ageing": draw(_DURATIONS),
            "fdb_limit": draw(st.integers(1, 1 << 20)),
        }
        if contents["networks"][name]["type"] == "switch":
            switch: dict[str, Any] = draw(
                st.fixed_dictionaries(
                    {"vlan_filtering": st.booleans()},
                    optional={
                        "vlan_protocol": st.sampled_from(["802.1Q", "802.1ad"]),
                        "reserved_multicast": _POLICIES
                        | st.dictionaries(
                            st.sampled_from(["stp", "pause", "lacp", "dot1x", "lldp", "other"]), _POLICIES
                        ),
                    },
                )
            )
            contents["networks"][name] |= switch
        elif contents["networks"][name]["type"] == "mcast" and draw(st.booleans()):
            contents["networks"][name]["group"] = f"239.1.1.{number}:7000"
    for name in nodes:
        node: dict[str, Any] = {
            "kind": draw(st.sampled_from(["host", "machine"])),
            "env": draw(st.dictionaries(st.from_regex(r"\A[A-Z_][A-Z0-9_]{0,4}\Z"), _STRINGS, max_size=3)),
            "labels": draw(st.dictionaries(_STRINGS, _STRINGS, max_size=3)),
            "exec": draw(st.lists(_STRINGS, max_size=3)),
            "ready_timeout": draw(_DURATIONS),
            "mtu": draw(st.integers(68, 65535)),
        }
        if node["kind"] == "machine":
            node |= {"args": draw(st.lists(_STRINGS, max_size=2)), "ready": {"console": draw(_STRINGS)}}
        if draw(st.booleans()):
            node["healthcheck"] = {"run": draw(_STRINGS), "interval": draw(_DURATIONS), "timeout": draw(_DURATIONS)}
        before = list(contents["nodes"])
        conditions = st.sampled_from(["started", "ready", "healthy"])
        node["depends_on"] = draw(st.dictionaries(st.sampled_from(before), conditions)) if before else {}
        contents["nodes"][name] = node
        for number in range(draw(st.integers(0, 2))):
            ends = [f"{name}:eth{number}", draw(st.sampled_from(networks))]
            network = contents["networks"][ends[1]]
            if network["type"] == "switch" and draw(st.booleans()):
                settings = draw(_port_settings(filtering=network["vlan_filtering"]))
                contents["links"].append({"endpoints": ends, "port": settings})
            else:
                contents["links"].append(ends)
        contents["checks"][f"check-{name}"] = {"node": name, "run": draw(_STRINGS), "within": draw(_DURATIONS)}
    contents["links"].append([f"{nodes[0]}:p", f"{nodes[0]}:q"])
    if contents["nodes"][nodes[0]]["kind"] == "machine":
        contents["links"].append({"endpoints": [f"{nodes[0]}:r", f"{nodes[0]}:s"], "pipe": True})
    return contents


def escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def test_texts_that_look_like_something_else_to_yaml_come_back_as_they_are(catalogue: Catalogue) -> None:
    awkward = [
        "null",
        "~",
        "true",
        "1e3",
        "1_000",
        "0x1f",
        "012",
        "1:30",
        "- a",
        "a: b",
        "a:",
        "${A}",
        "$$",
        "#",
        " # x",
    ]
    awkward += [
        "<<",
        "=",
        "?YT",
        "? x",
        "!t",
        "&a",
        "*a",
        "%d",
        "@",
        "`",
        "[",
        "{",
        "a, b",
        "\x85x",
        "\u2028",
        "\ufeff",
        "'",
    ]
    awkward += [
        '"',
        "é",
        "😀",
        " lead",
        "trail ",
        "a\nb",
        "a\n",
        "\n",
        "\t",
        "\x1b",
        "---",
        "...",
        "yes",
        "2001-01-01",
        ".5",
        "-",
    ]
    nodes = {"a": {"kind": "host", "exec": awkward, "labels": {text: text for text in awkward}}}
    checks = {f"c{number}": {"node": "a", "run": text} for number, text in enumerate(awkward)}
    lab = load(
        "lab.yaml", text=lab_text(nodes=escaped(nodes), checks=escaped(checks), links=[]), env={}, catalogue=catalogue
    )
    assert lab.nodes["a"].exec == tuple(awkward)
    assert_round_trip(lab, catalogue)


# Not shrunk when it fails: that takes minutes, and the messages say enough.
@given(lab_files())
@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_any_lab_loads_from_its_rendering(contents: dict[str, Any]) -> None:
    text = json.dumps(escaped(contents))
    lab = load("lab.yaml", text=text, env={}, catalogue=CATALOGUE)
    for name, node in contents["nodes"].items():
        assert lab.nodes[name].env == node["env"]
        assert lab.nodes[name].exec == tuple(node["exec"])
        assert lab.nodes[name].labels == node["labels"]
    assert_round_trip(lab, CATALOGUE)
