"""`lab network` and `lab port`: what is typed, completed and shown."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from vswitch.cli import lab as lab_command
from vswitch.commands import switch_settings
from vswitch.model.lab import Endpoint, Lab, Link, Network, OutsidePort
from vswitch.model.settings import setting_text, setting_words
from vswitch.model.spec import PortSettingsSpec, SwitchSettingsSpec


def test_assignments_are_split_at_the_first_equals_sign() -> None:
    words = ["vlan=10", "trunk=", "static_macs=52:54:00:00:00:01@10,52:54:00:00:00:02", "x=a=b"]
    assert switch_settings.parse_assignments(words) == {
        "vlan": "10",
        "trunk": "",
        "static_macs": "52:54:00:00:00:01@10,52:54:00:00:00:02",
        "x": "a=b",
    }


@pytest.mark.parametrize("words", [["vlan"], ["=10"], ["vlan=1", "vlan=2"]], ids=str)
def test_what_is_no_assignment_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        switch_settings.parse_assignments(words)


def test_settings_are_shown_as_they_would_be_typed() -> None:
    policies = {"stp": "drop", "pause": "forward", "lldp": "deliver"}
    settings = {"ageing": 0.02, "isolated": True, "trunk": ["10", "20-29"], "reserved_multicast": policies, "mtu": None}
    assert setting_words(settings, settings) == (
        "ageing=0.02s isolated=true trunk=10,20-29 reserved_multicast.stp=drop reserved_multicast.lldp=deliver mtu="
    )
    assert setting_text("reserved_multicast", {"stp": "drop", "lldp": "drop"}) == "drop"


@pytest.mark.parametrize(("verb", "spec"), [("network", SwitchSettingsSpec), ("port", PortSettingsSpec)])
def test_help_names_every_setting(verb: str, spec: type[msgspec.Struct]) -> None:
    text = CliRunner().invoke(lab_command, [verb, "--help"]).output
    named = text[text.index("Settings:") :].split()
    assert [name for name in spec.__struct_fields__ if name not in named] == []


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A lab that seems to run: completion reads its resolved file only."""
    networks = {"lan0": Network(name="lan0", ports={"up": OutsidePort(spec={"type": "stream"})})}
    networks["lan1"] = Network(name="lan1")
    links = (Link(Endpoint("vm1", "eth0"), Endpoint("lan0")), Link(Endpoint("vm2", "eth0"), Endpoint("lan1")))
    lab = Lab(name="l", seed=0, source="l.yaml", networks=networks, links=links)
    (tmp_path / "lab.json").write_bytes(msgspec.json.encode(lab))

    class Found:
        lab_file = tmp_path / "lab.json"

    monkeypatch.setattr("vswitch.rundir.find", lambda name: (Found, None))


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        (["network"], "l", ["lan0", "lan1"]),
        (["port"], "lan1", ["lan1"]),
        (["port", "lan0"], "", ["up", "vm1:eth0"]),
        (["port", "lan0"], "vm", ["vm1:eth0"]),
        (["port", "nowhere"], "", []),
        (["fdb"], "lan0", ["lan0"]),
        (["port", "lan0", "up"], "mac", ["mac_limit="]),
        (["port", "lan0", "up", "vlan=3"], "overflow=", ["overflow=drop", "overflow=pause"]),
        (["port", "lan0", "up"], "isolated=t", ["isolated=true"]),
        (["network", "lan0"], "vlan_", ["vlan_filtering=", "vlan_protocol="]),
        (["network", "lan0"], "reserved_multicast=d", ["reserved_multicast=deliver", "reserved_multicast=drop"]),
        (["network", "lan0"], "reserved_multicast.stp=f", ["reserved_multicast.stp=forward"]),
        (["network", "lan0", "--flush", "--port"], "v", ["vm1:eth0"]),
    ],
    ids=str,
)
def test_names_settings_and_values_are_completed(words: list[str], incomplete: str, expected: list[str]) -> None:
    completion = ShellComplete(lab_command, {}, "lab", "_LAB_COMPLETE")
    assert sorted(item.value for item in completion.get_completions(words, incomplete)) == expected
