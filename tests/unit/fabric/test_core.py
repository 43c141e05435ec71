"""The engine as Python sees it. What it does with frames in detail is tested in C (tests/c)."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vswitch.fabric import core

from .lan import Lan, port_settings, switch_settings, vlans
from .peers import BROADCAST, frame, framed, mac


def number(host: int) -> int:
    """A host's address as the engine has it."""
    return int.from_bytes(mac(host), "big")


def test_switch_sends_known_unicast_to_its_port_alone(lan: Lan) -> None:
    """Once B was heard, frames for B go to B only; before, to everybody."""
    (a, _), (b, _), (c, _) = lan.peer(), lan.peer(), lan.peer()
    a.send(frame(mac(2), mac(1), b"flooded"))
    assert b.receive() == c.receive() == frame(mac(2), mac(1), b"flooded")
    b.send(frame(mac(1), mac(2), b"answer"))
    assert a.receive() == frame(mac(1), mac(2), b"answer")
    a.send(frame(mac(2), mac(1), b"direct"))
    assert b.receive() == frame(mac(2), mac(1), b"direct")
    assert c.silent()


def test_hub_floods_what_a_switch_would_not() -> None:
    """Every frame goes to every other port, and nothing is learnt."""
    with Lan(hub=True) as lan:
        (a, _), (b, _), (c, _) = lan.peer(), lan.peer(), lan.peer()
        b.send(frame(mac(1), mac(2)))
        assert a.receive() == c.receive() == frame(mac(1), mac(2))
        a.send(frame(mac(2), mac(1)))
        assert b.receive() == c.receive() == frame(mac(2), mac(1))
        assert lan.engine.fdb(lan.switch) == []


def test_fdb_lists_address_port_and_age(lan: Lan) -> None:
    """The table says who was heard where."""
    (a, a_port), (b, b_port) = lan.peer(), lan.peer()
    a.send(frame(BROADCAST, mac(1)))
    b.receive()
    b.send(frame(BROADCAST, mac(2)))
    a.receive()
    rows = sorted(lan.engine.fdb(lan.switch))
    assert [row[:3] for row in rows] == [
        (number(1), 0, a_port),
        (number(2), 0, b_port),
    ]
    assert all(0 <= age < 10 and kind == "dynamic" for _, _, _, age, kind in rows)


def test_fdb_full_of_static_entries_is_counted_and_floods() -> None:
    """An address that finds no room is not learnt; a static one is not forgotten for it."""
    with Lan(fdb_limit=1) as lan:
        (a, a_port), (b, b_port), (c, _) = lan.peer(), lan.peer(), lan.peer()
        lan.engine.fdb_add(lan.switch, number(1), 0, a_port)
        a.send(frame(BROADCAST, mac(1)))
        assert b.receive() == c.receive()
        b.send(frame(mac(1), mac(2)))
        a.receive()
        assert c.silent()
        assert lan.counters(b_port).unlearnt == 1
        a.send(frame(mac(2), mac(1)))
        assert b.receive() == c.receive() == frame(mac(2), mac(1))


def test_counters_tell_both_directions_and_drops(lan: Lan) -> None:
    """What goes in comes out or is counted under a name."""
    (a, a_port), (b, b_port) = lan.peer(), lan.peer()
    a.sock.sendall(framed(b"") + framed(b"runt"))
    a.send(frame(mac(1), mac(3)))
    a.send(frame(BROADCAST, mac(1), size=1514))
    b.receive()
    b.receive()
    counters = lan.counters(a_port)
    assert (counters.rx_frames, counters.rx_bytes) == (2 + 2, 1574 + 4)
    assert counters.drops == {"runt": 2}
    assert (lan.counters(b_port).tx_frames, lan.counters(b_port).tx_bytes) == (2, 1574)
    assert set(counters.drops) <= set(core.DROP_REASONS)
    assert (counters.rx_unicast_frames, counters.rx_unicast_bytes) == (1, 60)
    assert (counters.rx_broadcast_frames, counters.rx_broadcast_bytes) == (1, 1514)
    assert lan.counters(b_port).tx_multicast_frames == 0


def test_oversize_length_fails_that_port_alone(lan: Lan) -> None:
    """A peer that breaks the rules is hung up on, and the reason said; the others go on."""
    (a, a_port), (b, _), (c, _) = lan.peer(), lan.peer(), lan.peer()
    a.sock.sendall(struct.pack(">I", 69633))
    port, state, reason = lan.next_event()
    assert (port, state) == (a_port, "error")
    assert "69633" in reason
    with pytest.raises(EOFError):
        a.receive()
    b.send(frame(BROADCAST, mac(2), size=69632))
    assert len(c.receive()) == 69632
    assert lan.counters(a_port).drops == {"oversize": 1}


def test_peer_that_closes_is_reported_and_its_addresses_forgotten(lan: Lan) -> None:
    """A closed port stays to be looked at until it is removed."""
    (a, a_port), (b, _) = lan.peer(), lan.peer()
    a.send(frame(BROADCAST, mac(1)))
    b.receive()
    a.close()
    assert lan.next_event() == (a_port, "closed", "the peer closed the connection")
    assert lan.engine.fdb(lan.switch) == []
    assert lan.counters(a_port).state == "closed"
    lan.engine.remove_port(a_port)
    with pytest.raises(KeyError):
        lan.engine.remove_port(a_port)


def test_stuck_peer_does_not_slow_the_others(lan: Lan) -> None:
    """Of floods the stuck port takes what its queue holds; the rest is dropped there, and only there."""
    (a, _), (stuck, stuck_port), (c, c_port) = lan.peer(), lan.peer(), lan.peer()
    for number in range(2000):
        a.send(frame(BROADCAST, mac(1), number.to_bytes(4, "big"), size=1514))
        assert c.receive()[14:18] == number.to_bytes(4, "big")
    dropped = lan.counters(stuck_port).drops["overflow"]
    assert dropped > 0
    assert lan.counters(c_port).drops == {}
    numbers = [stuck.receive()[14:18] for _ in range(2000 - dropped)]
    assert numbers == sorted(numbers)
    assert stuck.silent()


def test_stuck_unicast_receiver_pauses_its_sender_for_a_moment_only(lan: Lan) -> None:
    """The sender waits for the limit, then goes on to others; nobody waits for the stuck one again."""
    (a, a_port), (stuck, stuck_port), (c, _) = lan.peer(), lan.peer(), lan.peer()
    stuck.send(frame(BROADCAST, mac(2)))
    c.send(frame(BROADCAST, mac(3)))
    for _ in range(2):
        a.receive()
    c.receive()
    for _ in range(3000):  # over four times what the queue holds; times out if the sender were held for good
        a.send(frame(mac(2), mac(1), size=1514))
    a.send(frame(mac(3), mac(1), b"through"))
    assert c.receive() == frame(mac(3), mac(1), b"through")
    assert lan.counters(a_port).pauses == 1
    assert lan.counters(stuck_port).drops["overflow"] > 0


def test_slow_receiver_loses_nothing(lan: Lan) -> None:
    """A sender faster than its receiver is slowed down to it, however the frames are cut by the sockets."""
    (a, _), (b, b_port) = lan.peer(), lan.peer()
    b.send(frame(BROADCAST, mac(2)))
    a.receive()
    generator = random.Random(1)
    frames = [
        frame(mac(2), mac(1), number.to_bytes(4, "big"), size=generator.randint(18, 9000)) for number in range(3000)
    ]

    def send_all() -> None:
        for data in frames:
            a.send(data)

    sender = threading.Thread(target=send_all)
    sender.start()
    received = [b.receive() for _ in frames]
    sender.join()
    assert received == frames
    assert lan.counters(b_port).drops == {}


@given(
    sizes=st.lists(st.integers(14, 2000), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 3000), min_size=1, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_stream_reassembles_frames_however_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    """Frame boundaries do not depend on how the bytes arrive."""
    frames = [frame(BROADCAST, mac(1), size=size) for size in sizes]
    wire = b"".join(framed(data) for data in frames)
    with Lan() as lan:
        (a, _), (b, _) = lan.peer(), lan.peer()
        at = index = 0
        while at < len(wire):
            cut = cuts[index % len(cuts)]
            a.sock.sendall(wire[at : at + cut])
            lan.engine.stats()  # a turn of the loop, which may read what is there
            at += cut
            index += 1
        assert [b.receive() for _ in frames] == frames
        assert b.silent()


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_forwarding_agrees_with_a_dictionary(steps: list[tuple[int, int, int]]) -> None:
    """Learning, moving and flooding, against the plainest model: a dictionary from address to port."""
    with Lan() as lan:
        peers = [lan.peer()[0] for _ in range(4)]
        table: dict[int, int] = {}
        for serial, (port, source, destination) in enumerate(steps):
            table[source] = port
            data = frame(mac(destination), mac(source), serial.to_bytes(4, "big"))
            peers[port].send(data)
            where = table.get(destination)
            expected = [p for p in range(4) if p != port] if where is None else [where] if where != port else []
            for receiver in expected:
                assert peers[receiver].receive() == data
            lan.engine.stats()
        assert all(peer.silent() for peer in peers)


def test_settings_hold_from_a_ports_first_frame_on(lan: Lan) -> None:
    """What has come in before the port exists is subject to them."""
    witness, _ = lan.peer()
    for _ in range(50):
        ours, theirs = socket.socketpair()
        ours.sendall(b"".join(framed(frame(BROADCAST, mac(1), size=size)) for size in (514, 515, 60)))
        port = lan.engine.add_port(lan.switch, "stream", [theirs.detach()], **port_settings(mtu=500))
        assert [len(witness.receive()) for _ in range(2)] == [514, 60]
        assert lan.counters(port).drops == {"oversize": 1}
        ours.close()


def test_vlans_separate_what_shares_a_switch(lan: Lan) -> None:
    """Access ports of one VLAN hear each other, a trunk hears both with tags; the rest in detail is in C."""
    lan.engine.configure_switch(lan.switch, **switch_settings(vlan_filtering=True))
    (a, a_port), (b, _) = lan.peer(members=vlans(10), pvid=10), lan.peer(members=vlans(20), pvid=20)
    trunk, _ = lan.peer(members=vlans(10, 20), pvid=0)
    a.send(frame(BROADCAST, mac(1)))
    tagged = frame(BROADCAST, mac(1))
    assert trunk.receive() == tagged[:12] + bytes.fromhex("8100000a") + tagged[12:]
    assert b.silent()
    assert [row[:3] for row in lan.engine.fdb(lan.switch)] == [(number(1), 10, a_port)]
    trunk.send(frame(mac(1), mac(3)))
    lan.engine.stats()
    assert a.silent()


def test_addresses_are_added_removed_and_flushed_by_hand(lan: Lan) -> None:
    """Static entries stay through a flush, which says how many others went."""
    (a, a_port), (b, b_port) = lan.peer(), lan.peer(sticky=True)
    lan.engine.fdb_add(lan.switch, number(9), 0, a_port)
    for host in (1, 2):
        a.send(frame(BROADCAST, mac(host)))
        b.receive()
    b.send(frame(BROADCAST, mac(3)))
    a.receive()
    kinds = {row[0]: row[4] for row in lan.engine.fdb(lan.switch)}
    assert kinds == {number(1): "dynamic", number(2): "dynamic", number(3): "sticky", number(9): "static"}
    assert (lan.counters(a_port).macs, lan.counters(b_port).macs) == (3, 1)
    lan.engine.fdb_remove(lan.switch, number(1), 0)
    with pytest.raises(KeyError):
        lan.engine.fdb_remove(lan.switch, number(1), 0)
    assert lan.engine.fdb_flush(lan.switch, a_port, 7) == 0
    assert lan.engine.fdb_flush(lan.switch, a_port, 0) == 1
    assert lan.engine.fdb_flush(lan.switch, None, None) == 1
    assert [row[0] for row in lan.engine.fdb(lan.switch)] == [number(9)]


def test_wrong_settings_are_refused(lan: Lan) -> None:
    """Nothing is changed by a call that raises."""
    (_, port), engine = lan.peer(), lan.engine
    wrong_ports: list[dict[str, Any]] = [
        {"members": b""},
        {"members": vlans(0, 1)},
        {"members": vlans(1, 4095)},
        {"members": vlans(10), "pvid": 1},
        {"pvid": 4095},
        {"pvid": 65536 + 1},
        {"mtu": -1},
        {"storm_limit": 1 << 32},
    ]
    for wrong in wrong_ports:
        with pytest.raises(ValueError):
            engine.configure_port(port, **port_settings(**wrong))
    with pytest.raises(TypeError, match="15 given"):
        engine.configure_port(port, **port_settings(hairpins=True))
    wrong_switches: list[dict[str, Any]] = [
        {"vlan_protocol": 0x9100},
        {"reserved": bytes(15)},
        {"reserved": b"\3" * 16},
        {"ageing": -1.0},
    ]
    for wrong in wrong_switches:
        with pytest.raises(ValueError):
            engine.configure_switch(lan.switch, **switch_settings(**wrong))
    with pytest.raises(KeyError):
        engine.configure_port(99, **port_settings())
    with pytest.raises(KeyError):
        engine.configure_switch(99, **switch_settings())
    with pytest.raises(KeyError):
        engine.fdb(99)


def test_wrong_addresses_are_refused(lan: Lan) -> None:
    """Groups are no station's address, a port is one of the switch asked, and a hub has no addresses at all."""
    (_, port), engine = lan.peer(), lan.engine
    other, hub = engine.add_switch(False, 300, 8192), engine.add_switch(True, 300, 8192)
    for mac_number, vlan in ((1 << 40, 0), (1 << 48, 0), (1, 4095)):
        with pytest.raises(ValueError):
            engine.fdb_add(lan.switch, mac_number, vlan, port)
    for call in (
        lambda: engine.fdb_add(other, 1, 0, port),
        lambda: engine.fdb_add(lan.switch, 1, 0, 99),
        lambda: engine.fdb_flush(other, port, None),
        lambda: engine.fdb_flush(99, None, None),
    ):
        with pytest.raises(KeyError):
            call()
    with pytest.raises(ValueError):
        engine.fdb_flush(lan.switch, None, 4095)
    with pytest.raises(OSError, match="not supported"):
        engine.fdb_add(hub, 1, 0, port)


def test_port_wants_descriptors_of_its_type(lan: Lan) -> None:
    """A wrong descriptor is refused and closed; a wrong call leaves it with the caller."""
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(ValueError, match="unknown port type 'strem'"):
        lan.engine.add_port(lan.switch, "strem", [fd])
    with pytest.raises(ValueError, match="takes 1 to 1 descriptors, not 2"):
        lan.engine.add_port(lan.switch, "stream", [fd, fd])
    with pytest.raises(OSError, match="non-socket"):
        lan.engine.add_port(lan.switch, "stream", [fd])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    for port_type in ("tap", "packet"):
        with pytest.raises(OSError):
            lan.engine.add_port(lan.switch, port_type, [os.open("/dev/null", os.O_RDWR)])
    with pytest.raises(OSError):
        lan.engine.add_port(lan.switch, "mcast", [socket.socket(socket.AF_INET).detach(), os.open("/dev/null", 0)])
    with pytest.raises(OSError, match="No such file"):
        lan.engine.add_port(99, "stream", [os.open("/dev/null", os.O_RDWR)])


def test_closed_engine_refuses_and_disconnects() -> None:
    """Closing hangs up on every peer; the object stays safe to use."""
    lan = Lan()
    peer, _ = lan.peer()
    lan.engine.close()
    lan.engine.close()
    with pytest.raises(EOFError):
        peer.receive()
    peer.close()
    with pytest.raises(ValueError, match="closed"):
        lan.engine.stats()
