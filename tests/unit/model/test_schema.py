"""The JSON Schema and the loader are of one mind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from ruamel.yaml import YAML

from vswitch.errors import LabFileError
from vswitch.model import load
from vswitch.model.catalogue import Catalogue, installed
from vswitch.model.render import to_plain
from vswitch.model.schema import build_schema

from .conftest import lab_text, make_catalogue
from .test_render import lab_files

CATALOGUE = make_catalogue()
SCHEMA = build_schema(CATALOGUE)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
ROOT = Path(__file__).parents[3]

FULL = """
name: full
seed: ${SEED:-7}
x-anything: [{goes: here}]
defaults: {kind: k, mtu: 1400, isolate: true}
kinds: {k: {driver: machine, memory: 96M, cpus: "${CPUS:-2}", ready: {console: login}}, host: }
groups: {g: {labels: {role: client}, env: {N: 1}}}
networks:
  lan0:
    {type: hub, subnet: 10.0.0.0/24, ageing: 1m, fdb_limit: 10, ports: {p: {type: stream, listen: "127.0.0.1:7000"}}}
  lan1:
    vlan_filtering: true
    vlan_protocol: 802.1ad
    reserved_multicast: {stp: drop, lldp: deliver}
    ports: {q: {type: stream, connect: "127.0.0.1:7000", trunk: all, native: 4, static_macs: "52:54:00:00:00:08"}}
nodes:
  a:
  b: {group: g, depends_on: [a], exec: echo hi, healthcheck: {run: true, interval: 1s}}
  c:
    kind: host
    cpus: 0
    depends_on: {a: {condition: healthy}, b: started}
    interfaces: {eth0: {mac: "52:54:00:00:00:01", ip: 10.0.0.9}}
links:
  - [a:eth0, lan0]
  - {endpoints: [{node: b, interface: eth0, ip: 10.0.0.7}, {network: lan0}]}
  - [lan0, c:eth0]
  - {endpoints: [a:v0, lan1], port: {trunk: [10, 20-30], isolated: true, storm_limit: 100, mtu: 1500, overflow: drop}}
  - {endpoints: [b:v0, lan1], port: {vlan: "${VLAN:-10}", static_macs: ["52:54:00:00:00:09@10"], mac_limit: 1}}
  - {endpoints: [a:p, b:p], subnet: [10.1.0.0/30, "fd00::/64"]}
checks: {ping: {node: a, run: ping b, within: 500ms}}
"""


def parsed(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_schema_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("text", [FULL, lab_text(), "topology: {nodes: {a: {kind: host}}}"])
def test_good_files_satisfy_loader_and_schema(text: str) -> None:
    lab = load("lab.yaml", text=text, env={}, catalogue=CATALOGUE)
    VALIDATOR.validate(parsed(text))
    VALIDATOR.validate(to_plain(lab))


@given(lab_files())
@settings(max_examples=25, deadline=None)
def test_any_good_lab_satisfies_the_schema(contents: dict[str, Any]) -> None:
    VALIDATOR.validate(contents)


def mappings(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all mappings in a file whose keys are fixed: there an unknown key is a mistake."""
    free = {
        "kinds",
        "groups",
        "networks",
        "nodes",
        "checks",
        "ports",
        "env",
        "labels",
        "interfaces",
        "depends_on",
        "ready",
        "reserved_multicast",
    }
    found = []
    if isinstance(value, dict):
        if not (path and path[-1] in free) and not (path and str(path[0]).startswith("x-")):
            found.append(path)
        for key, item in value.items():
            found += mappings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += mappings(item, (*path, index))
    return found


@pytest.mark.parametrize("path", mappings(parsed(FULL)), ids=lambda path: ".".join(map(str, path)) or "top")
def test_unknown_key_anywhere_is_refused_by_loader_and_schema(path: tuple[str | int, ...]) -> None:
    contents = parsed(FULL)
    place = contents
    for step in path:
        place = place[step]
    place["unheard-of"] = 1
    with pytest.raises(LabFileError, match="unknown key 'unheard-of'"):
        load("lab.yaml", text=json.dumps(contents), env={}, catalogue=CATALOGUE)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(contents)


@pytest.mark.parametrize(
    "sections",
    [
        {"seed": -1},
        {"name": "a b"},
        {"networks": {"lan0": {"type": "bridge"}}},
        {"networks": {"lan0": {"ageing": "soon"}}},
        {"networks": {"lan0": {"ports": {"p": {"type": "none"}}}}},
        {"networks": {"lan0": {"ports": {"p": {"type": "stream", "connect": "127.0.0.1:7000", "vlan": 0}}}}},
        {"networks": {"lan0": {"vlan_protocol": "QinQ"}}},
        {"networks": {"lan0": {"reserved_multicast": "flood"}}},
        {"networks": {"lan0": {"reserved_multicast": {"vtp": "drop"}}}},
        {"links": [{"endpoints": ["a:eth0", "lan0"], "port": {"trunk": "some"}}]},
        {"links": [{"endpoints": ["a:eth0", "lan0"], "port": {"static_macs": ["52:54:00"]}}]},
        {"links": [{"endpoints": ["a:eth0", "lan0"], "port": {"overflow": "block"}}]},
        {"nodes": {"a b": {"kind": "host"}}},
        {"nodes": {"a": {"kind": "machine", "memory": "96"}}},
        {"nodes": {"a": {"kind": "machine", "accel": "hvf"}}},
        {"links": [["a:eth0"]]},
        {"links": [{"subnet": "10.0.0.0/24"}]},
        {"checks": {"c": {"node": "a"}}},
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_loader_and_schema(sections: dict[str, Any]) -> None:
    text = lab_text(**sections)
    with pytest.raises(LabFileError):
        load("lab.yaml", text=text, env={}, catalogue=CATALOGUE)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(parsed(text))


def test_file_without_nodes_is_refused_by_loader_and_schema() -> None:
    with pytest.raises(LabFileError, match="at least one node"):
        load("lab.yaml", text="name: x", env={}, catalogue=CATALOGUE)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({"name": "x"})


@pytest.fixture(scope="module")
def real() -> Catalogue:
    return installed()


def test_schema_of_what_is_installed_is_valid(real: Catalogue) -> None:
    jsonschema.Draft202012Validator.check_schema(build_schema(real))


def test_root_lab_loads_without_a_warning_and_satisfies_the_schema(real: Catalogue) -> None:
    schema = build_schema(real)
    text = (ROOT / "lab.yaml").read_text()
    jsonschema.Draft202012Validator(schema).validate(parsed(text))
    lab = load(ROOT / "lab.yaml", env={}, catalogue=real)
    jsonschema.Draft202012Validator(schema).validate(to_plain(lab))
    assert lab.warnings == ()
    assert {node.driver for node in lab.nodes.values()} == {"qemu", "netns"}
    assert lab.nodes["vm1"].settings == {"memory": "96M"}
    assert [link.point_to_point for link in lab.links] == [False, False, False, True]
