"""The network cards on QEMU's command line: places on the bus, queues, vectors, and what is wrong with them."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.errors import LabFileError, NodeError
from vswitch.model import load
from vswitch.model.lab import Interface
from vswitch.nodes.qemu import nic_models
from vswitch.nodes.qemu_command import Attachment, Boot, Channels, QemuSpec, command_line, default_binary
from vswitch.nodes.qemu_nic import Place, nic_devices, nic_mistakes, nic_places


def nic(number: int, **options: Any) -> Interface:
    return Interface(name=f"eth{number}", mac=f"52:54:00:00:00:{number:02x}", **options)


def mistakes(*interfaces: Interface) -> list[tuple[str, str]]:
    found = nic_mistakes(interfaces, {0: "the host bridge", 31: "the LPC bridge"})
    return [(f"{interface.name}.{key}", what) for interface, key, what in found]


@pytest.mark.parametrize("count", [1, 28, 29, 224])
def test_places_are_distinct_and_in_the_order_of_the_file(count: int) -> None:
    devices = " ".join(nic_devices([nic(number) for number in range(count)]))
    found = re.findall(r"romfile=,addr=0x([0-9a-f]+)(?:\.(\d))?", devices)
    places = [(int(slot, 16), int(function or 0)) for slot, function in found]
    assert len(places) == count
    assert places == sorted(set(places))
    assert all(3 <= slot <= 30 and function < 8 for slot, function in places)
    assert ("multifunction" in devices) == (count > 28)


def test_more_interfaces_than_a_bus_takes_are_refused() -> None:
    with pytest.raises(NodeError, match="224 interfaces at most, not 225"):
        nic_places([nic(number) for number in range(225)])


addresses = st.builds("{:x}.{}".format, st.integers(3, 30), st.integers(0, 7))


@given(st.lists(st.none() | addresses, max_size=224))
def test_written_places_are_kept_and_nobody_shares_one(written: list[str | None]) -> None:
    kept = [addr for number, addr in enumerate(written) if addr is None or addr not in written[:number]]
    interfaces = [nic(number, addr=addr) for number, addr in enumerate(kept)]
    places = nic_places(interfaces)
    assert len(set(places)) == len(kept)
    for addr, place in zip(kept, places, strict=True):
        assert addr is None or f"{place.slot:x}.{place.function}" == addr
    unwritten = [place for addr, place in zip(kept, places, strict=True) if addr is None]
    assert unwritten == sorted(unwritten)
    assert all(place.function == 0 for place in unwritten) or len(kept) > 28 - sum(a is not None for a in kept)


@pytest.mark.parametrize(("addr", "place"), [("05.0", (5, 0)), ("0x5", (5, 0)), ("1E.7", (30, 7)), ("a", (10, 0))])
def test_addresses_are_read_as_qemu_reads_them(addr: str, place: tuple[int, int]) -> None:
    assert nic_places([nic(0, addr=addr)]) == [Place(*place)]


def test_devices_have_their_model_mac_queues_and_vectors() -> None:
    plain, fast, few = nic_devices([nic(0, model="e1000"), nic(1, queues=4), nic(2, queues=2, vectors=0, addr="9.0")])
    assert plain == "e1000,netdev=net0,id=nic0,mac=52:54:00:00:00:00,romfile=,addr=0x3"
    assert "virtio-net-pci,netdev=net1" in fast
    assert ",mq=on,vectors=10,addr=0x4" in fast
    assert ",mq=on,vectors=0,addr=0x9" in few


def test_functions_of_one_slot_need_its_first() -> None:
    both = [nic(0, addr="5.0"), nic(1, addr="5.3")]
    assert mistakes(*both) == []
    assert all("multifunction=on" in device for device in nic_devices(both))
    ((where, what),) = mistakes(nic(0), nic(1, addr="5.3"))
    assert where == "eth1.addr"
    assert "at 05.0" in what


def test_mistakes_are_named_with_interface_and_key() -> None:
    tap = {"transport": "tap"}
    found = mistakes(
        nic(0, addr="1f"),
        nic(1, addr="4.0"),
        nic(2, addr="0x4"),
        nic(3, queues=2),
        nic(4, queues=2, model="e1000", **tap),
        nic(5, vectors=3, model="rtl8139"),
        nic(6, queues=16, vectors=3, **tap),
        nic(7, transport="l2tpv3", mtu=2031),
        nic(8, transport="vde", mtu=4078),
    )
    wrong = ["eth0.addr", "eth2.addr", "eth3.queues", "eth4.queues", "eth5.vectors", "eth7.mtu"]
    assert [where for where, _ in found] == wrong
    text = "\n".join(what for _, what in found)
    assert "slot 1f is that of the LPC bridge" in text
    assert "eth1 is at 04.0 already" in text
    assert "need 'transport: tap', not auto" in text


# --- in a lab file ---------------------------------------------------------------------------------------------------


def lab(interface: str, node: str = "kind: qemu") -> str:
    return f"nodes: {{a: {{{node}, interfaces: {{eth0: {{{interface}}}}}}}}}\nlinks: [[a:eth0, b]]\nnetworks: {{b: }}\n"


@pytest.mark.parametrize(
    ("interface", "node", "message"),
    [
        ("addr: 20.0", "kind: qemu", "interfaces.eth0.addr: expected a PCI address such as 05.0"),
        ("addr: 5.8", "kind: qemu", "expected a PCI address"),
        ("addr: 01.0", "kind: qemu", "slot 01 is that of the agent's serial port; take one from 03 to 1e"),
        ("addr: 1f.0", "kind: qemu", "slot 1f is that of q35's LPC bridge"),
        ("queues: 17", "kind: qemu", "interfaces.eth0.queues: expected a whole number"),
        ("queues: 2", "kind: qemu", "several queues need 'transport: tap', not auto"),
        ("transport: wire", "kind: qemu", "interfaces.eth0.transport: expected"),
        ("model: e1000", "kind: netns", "key 'model' is for interfaces of driver qemu, but this is netns"),
        ("queues: 1", "kind: emulated, role: echo", "key 'queues' is for interfaces of driver qemu, but this is emul"),
        ("", "kind: netns, transport: tap", "key 'transport' is a setting of driver external, qemu, uml"),
    ],
)
def test_lab_file_is_told_what_is_wrong_with_an_interface(interface: str, node: str, message: str) -> None:
    with pytest.raises(LabFileError) as caught:
        load("lab.yaml", text=lab(interface, node), env={})
    assert message in str(caught.value)
    assert str(caught.value).startswith("lab.yaml:1:")


def test_transport_of_a_node_is_that_of_its_interfaces_that_do_not_say_otherwise() -> None:
    found = load("lab.yaml", text=lab("addr: 05.0, queues: 4, vectors: 6", "kind: qemu, transport: tap"), env={})
    (interface,) = found.nodes["a"].interfaces
    assert interface.transport == "tap"
    assert (interface.addr, interface.queues, interface.vectors) == ("05.0", 4, 6)
    (interface,) = (
        load("lab.yaml", text=lab("transport: auto", "kind: qemu, transport: tap"), env={}).nodes["a"].interfaces
    )
    assert interface.transport == "auto"


# --- in QEMU ---------------------------------------------------------------------------------------------------------


def pci_cards(interfaces: list[Interface]) -> dict[str, tuple[int, int]]:
    """Start a QEMU with these cards, which runs no guest, and return where it has which."""
    attachments = [Attachment(interface, "hubport,hubid=0") for interface in interfaces]
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(2)]
        _, (monitor, _) = [[stack.enter_context(sock) for sock in pair] for pair in pairs]
        fds = [theirs.fileno() for _, theirs in pairs]
        spec = QemuSpec(args=("-S",))
        argv = command_line(spec, Boot(None, None, None), "tcg", attachments, Channels(fds[0], fds[1], None))
        process = stack.enter_context(
            subprocess.Popen([default_binary(), *argv], pass_fds=fds, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
        stack.callback(process.kill)
        for _, theirs in pairs:
            theirs.close()
        qmp = stack.enter_context(monitor.makefile("rw"))
        if not qmp.readline():  # the greeting
            pytest.fail(process.communicate()[1].decode())
        answers = []
        for command in ("qmp_capabilities", "query-pci", "quit"):
            qmp.write(json.dumps({"execute": command}))
            qmp.flush()
            if not (answer := qmp.readline()):
                pytest.fail(f"{command}: {process.communicate()[1].decode()}")
            answers.append(json.loads(answer))
        assert process.wait(timeout=60) == 0
    devices = answers[1]["return"][0]["devices"]
    return {device["qdev_id"]: (device["slot"], device["function"]) for device in devices if device["qdev_id"]}


@pytest.mark.qemu
def test_qemu_takes_every_model_it_lists_where_it_is_told_to() -> None:
    models = nic_models(default_binary())
    assert {"virtio-net-pci", "e1000", "rtl8139", "pcnet", "ne2k_pci", "i82551", "vmxnet3"} <= set(models)
    interfaces = [nic(number, model=model) for number, model in enumerate(models)]
    interfaces += [nic(60, addr="1e.0"), nic(61, addr="1e.5", queues=3), nic(62, vectors=0)]
    placed = pci_cards(interfaces)
    assert placed == {f"nic{number}": place for number, place in enumerate(nic_places(interfaces))}
    assert placed[f"nic{len(models)}"] == (30, 0)
