"""External nodes without a lab: what their settings refuse, and the words that join them."""

from __future__ import annotations

import json
import shlex
import socket

import pytest

from vswitch.errors import LabFileError
from vswitch.model import load
from vswitch.model.lab import Interface
from vswitch.nodes.external_join import join_words
from vswitch.nodes.external_settings import ExternalTransport, port_spec

NIC = Interface(name="eth0", mac="52:54:00:00:00:01")


def mistakes(settings: str, links: str = "[x:eth0, lan]") -> str:
    text = f"networks: {{lan: {{}}}}\nnodes: {{x: {{kind: external, {settings}}}}}\nlinks: [{links}]\n"
    with pytest.raises(LabFileError) as caught:
        load("-", text=text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("transport: tap", "expected"),
        ("transport: vde, bus: '239.1.1.1:5000'", "is for transport mcast, not vde"),
        ("transport: l2tpv3", "l2tpv3 needs both local and remote"),
        ("transport: dgram, local: 'unix:/a'", "give both local and remote"),
        ("listen: nowhere", "is not an address"),
        ("transport: mcast, bus: '10.0.0.1:5000'", "is not an IPv4 multicast address"),
        ("transport: vde, listen: 'relative'", "write the absolute path"),
        ("interfaces: {eth0: {model: e1000}}", "but this is external"),
    ],
)
def test_address_that_does_not_fit_its_transport_is_refused(settings: str, said: str) -> None:
    assert said in mistakes(settings)


def test_one_address_for_two_interfaces_is_refused() -> None:
    said = mistakes("listen: '127.0.0.1:7001'", "[x:eth0, lan], [x:eth1, lan]")
    assert "an address is for one interface" in said


@pytest.mark.parametrize(
    ("transport", "address", "options"),
    [
        ("stream", {"listen": "unix:/a,b"}, "stream,id=eth0,server=off,addr.type=unix,addr.path=/a,,b"),
        ("stream", {"listen": "unix:@x"}, ",addr.type=unix,addr.path=x,addr.abstract=on,addr.tight=on"),
        ("stream", {"listen": "[::1]:7"}, ",addr.type=inet,addr.host=::1,addr.port=7"),
        ("dgram", {"local": "unix:/l", "remote": "unix:/r"}, ",local.path=/r,remote.type=unix,remote.path=/l"),
        ("mcast", {"bus": "239.1.1.1:5"}, "socket,id=eth0,mcast=239.1.1.1:5,localaddr=127.0.0.1"),
        ("vde", {"listen": "/v w"}, "vde,id=eth0,sock=/v w"),
        ("l2tpv3", {"local": "[::1]:1", "remote": "[::1]:2", "session": 9}, "ipv6=on,txsession=9,rxsession=9"),
    ],
)
def test_words_for_qemu_are_one_netdev_and_one_card(
    transport: ExternalTransport, address: dict[str, object], options: str
) -> None:
    """They survive a shell whatever the path, and name QEMU's side of the address."""
    words = join_words(port_spec(transport, address), NIC, 0)
    netdev, device = shlex.split(words["qemu"])[1::2]
    assert options in netdev
    assert device == "virtio-net-pci,netdev=eth0,mac=52:54:00:00:00:01"
    assert json.loads(words["lab"])["type"] == transport


def test_words_for_vde_survive_a_shell() -> None:
    words = join_words(port_spec("vde", {"listen": "/v w"}), NIC, 3)
    assert shlex.split(words["vde"]) == ["vde_plug", "/v w"]
    assert shlex.split(words["uml"]) == ["eth3=vde,/v w,52:54:00:00:00:01"]


@pytest.mark.parametrize(
    ("transport", "address"),
    [
        ("stream", {"listen": "0.0.0.0:7001"}),
        ("dgram", {"local": "[::]:7001", "remote": "[::1]:7002"}),
        ("l2tpv3", {"local": "0.0.0.0:7001", "remote": "10.0.0.2:7002"}),
    ],
)
def test_a_port_at_all_addresses_is_joined_by_the_name_of_the_machine(
    transport: ExternalTransport, address: dict[str, object]
) -> None:
    words = join_words(port_spec(transport, address), NIC, 0)
    for program, text in words.items():
        assert socket.gethostname() in text, program
        assert "0.0.0.0" not in text
        assert "::]" not in text
    if "[::]:7001" in address.values():
        assert "remote.port=7001" in words["qemu"]


def test_a_session_with_cookies_is_joined_with_them_the_other_way_round() -> None:
    address = {"local": "127.0.0.1:1", "remote": "127.0.0.1:2", "tx_cookie": "1", "rx_cookie": "2", "counter": True}
    words = join_words(port_spec("l2tpv3", {**address, "offset": 4}), NIC, 0)
    assert words["qemu"].split()[1].endswith(",txsession=1,rxsession=1,rxcookie=1,txcookie=2,counter=on,offset=4")
    theirs = json.loads(words["lab"])
    assert (theirs["tx_cookie"], theirs["rx_cookie"], theirs["counter"], theirs["offset"]) == ("2", "1", True, 4)
    assert "uml" not in words
    assert "is for transport l2tpv3, not vde" in mistakes("transport: vde, counter: true")
