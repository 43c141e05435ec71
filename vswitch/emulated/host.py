"""Role `host`: enough of an IP stack to be pinged, and to ping. No I/O.

It answers ARP requests and neighbour solicitations, ICMP and ICMPv6 echo requests and UDP datagrams to port 7 (RFC
862), each to the MAC address it came from. Fragments are not put together. It trusts nothing: what is malformed or has
a wrong checksum is counted by name and dropped.
"""

from __future__ import annotations

import itertools
import struct
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import ClassVar

from ..model.lab import Interface
from . import neighbours
from .headers import (
    BROADCAST,
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ICMP,
    ICMPV6,
    IPV4_SIZE,
    IPV6_SIZE,
    UDP,
    Address,
    Ethernet,
    Packet,
    checksum,
    ethernet,
    ip,
    parse_ethernet,
    parse_ip,
    parse_udp,
    pseudo,
    udp,
)
from .pacing import SECOND
from .ping import Echo, Ping, PingRequest
from .role import Arguments, Command, Frame, Reply, Role

ECHO_PORT = 7
MAX_PINGS = 16
MAX_KNOWN = 1024
_FRESH = 60 * SECOND  # a neighbour's address is asked for anew after this long
_MAX_QUEUE = 4096
_ECHO = struct.Struct(">BBHHH")
_REQUEST = {4: 8, 6: 128}
_ANSWER = {4: 0, 6: 129}


class _Port:
    """One interface: its MAC address and its IP addresses, a link-local one among them."""

    def __init__(self, interface: Interface) -> None:
        self.mac = bytes.fromhex(interface.mac.replace(":", ""))
        self.mtu = interface.mtu
        own = [ip_interface(text) for text in interface.addresses]
        link_local = IPv6Interface(f"{neighbours.link_local(self.mac)}/64")
        self.interfaces: list[IPv4Interface | IPv6Interface] = [*own, link_local]
        self.addresses: dict[bytes, Address] = {one.ip.packed: one.ip for one in self.interfaces}
        groups = {neighbours.ALL_NODES} | {
            neighbours.solicited_node(one.ip) for one in self.interfaces if isinstance(one.ip, IPv6Address)
        }
        self.groups = {group.packed for group in groups}
        self.macs = {self.mac, BROADCAST} | {neighbours.multicast_mac(group) for group in groups}

    def source_for(self, target: Address) -> Address | None:
        """The own address in the same subnet as `target`."""
        for one in self.interfaces:
            if one.version == target.version and target in one.network:
                return one.ip
        return None


class Host(Role):
    """A host with these interfaces. `names` are what can be pinged by name; `vlan` is the one it is in, tagged."""

    name: ClassVar[str] = "host"

    def __init__(
        self,
        interfaces: Sequence[Interface],
        *,
        vlan: int | None = None,
        gateway: str | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self._ports = [_Port(interface) for interface in interfaces]
        self._tags = () if vlan is None else (vlan,)
        self._gateway = ip_address(gateway) if gateway is not None else None
        self._names = names or {}
        self._counters: Counter[str] = Counter()
        self._known: dict[
            tuple[int, bytes], tuple[bytes, int]
        ] = {}  # (port, address) -> MAC, when learnt; oldest first
        self._queue: deque[tuple[int, bytes]] = deque()
        self._pings: dict[int, Ping] = {}
        self._identifiers = itertools.count(1)
        usage = "ping ADDRESS|NODE [-4|-6] [-c COUNT] [-i SECONDS] [-s BYTES] [-W SECONDS]"
        self.commands["ping"] = Command(self._command_ping, usage, "ping, 4 times unless -c says otherwise")
        self.commands["neighbours"] = Command(self._command_neighbours, "neighbours", "addresses whose MAC is known")

    def begin(self, now: int) -> None:
        """Tell everybody who has our addresses: switches learn where we are."""
        for number, port in enumerate(self._ports):
            for one in port.interfaces:
                self._queue.append((number, neighbours.announce(port.mac, one.ip, self._tags)))

    def stats(self) -> Mapping[str, object]:
        """Counters: what was answered, and what was dropped for which reason."""
        return {"role": self.name, **dict(sorted(self._counters.items()))}

    def reset(self) -> None:
        """Start from nothing."""
        self._counters.clear()

    # --- receiving --------------------------------------------------------------------------------------------------

    def handle(self, port: int, frames: Sequence[bytes], now: int) -> Sequence[Frame]:
        """Answer what wants an answer."""
        return [answer for frame in frames if (answer := self._take(port, frame, now)) is not None]

    def _take(self, number: int, frame: bytes, now: int) -> bytes | None:
        port = self._ports[number]
        header = parse_ethernet(frame)
        if header is None:
            self._counters["malformed"] += 1
            return None
        tags = tuple(tag for tag in header.tags if tag)  # 0 is a priority without a VLAN
        if header.dst not in port.macs or tags != self._tags or header.src[0] & 1:
            self._counters["not_for_us"] += 1
            return None
        if header.ethertype == ETH_ARP:
            return self._take_arp(number, frame, header, now)
        packet = parse_ip(frame, header)
        if isinstance(packet, str):
            self._counters[packet.replace("-", "_")] += 1
            return None
        if packet.dst not in port.addresses and packet.dst not in port.groups:
            self._counters["not_for_us"] += 1
            return None
        if packet.protocol == ICMPV6 and len(packet.src) == 16:
            return self._take_icmp(number, frame, header, packet, now)
        if packet.dst in port.groups:
            return None
        if packet.protocol == ICMP and len(packet.src) == 4:
            return self._take_icmp(number, frame, header, packet, now)
        if packet.protocol == UDP:
            return self._take_udp(port, frame, header, packet)
        self._counters["other_protocol"] += 1
        return None

    def _take_arp(self, number: int, frame: bytes, header: Ethernet, now: int) -> bytes | None:
        port = self._ports[number]
        message = neighbours.parse_arp(frame, header)
        if message is None or message.sender_mac[0] & 1:
            self._counters["malformed"] += 1
            return None
        for_us = message.target in port.addresses
        if any(message.sender) and message.sender not in port.addresses:
            self._learn(number, message.sender, message.sender_mac, now, new=for_us)
        if not for_us or message.operation != neighbours.ARP_REQUEST:
            return None
        self._counters["arp"] += 1
        answer = neighbours.Arp(neighbours.ARP_REPLY, port.mac, message.target, message.sender_mac, message.sender)
        return neighbours.arp(answer, message.sender_mac, self._tags)

    def _take_icmp(self, number: int, frame: bytes, header: Ethernet, packet: Packet, now: int) -> bytes | None:
        port = self._ports[number]
        body = frame[packet.at : packet.end]
        version = 4 if len(packet.src) == 4 else 6
        covered = () if version == 4 else (pseudo(packet.src, packet.dst, ICMPV6, len(body)),)
        if len(body) < _ECHO.size or checksum(*covered, body) != 0:
            self._counters["malformed" if len(body) < _ECHO.size else "bad_checksum"] += 1
            return None
        kind, code, _, identifier, sequence = _ECHO.unpack_from(body)
        if kind == _REQUEST[version] and code == 0:
            own = port.addresses.get(packet.dst)
            if own is None or not any(packet.src):
                return None  # to a group, or from nobody
            self._counters["echo"] += 1
            return self._icmp(port, header.src, own, ip_address(packet.src), bytes([_ANSWER[version]]) + body[1:])
        if kind == _ANSWER[version]:
            ping = self._pings.get(identifier)
            if ping is not None:
                ping.answered(ip_address(packet.src), sequence, len(body), packet.hops, now)
            return None
        if version == 6:
            return self._take_discovery(number, frame, header, packet, now)
        self._counters["other_icmp"] += 1
        return None

    def _icmp(self, port: _Port, dst_mac: bytes, src: Address, dst: Address, message: bytes) -> bytes:
        """A frame with an ICMP or ICMPv6 message, whose checksum is filled in."""
        bare = message[:2] + bytes(2) + message[4:]
        if isinstance(src, IPv4Address):
            body, protocol, ethertype = bare[:2] + checksum(bare).to_bytes(2, "big") + bare[4:], ICMP, ETH_IPV4
        else:
            assert isinstance(dst, IPv6Address)
            body, protocol, ethertype = neighbours.icmpv6(src, dst, bare), ICMPV6, ETH_IPV6
        return ethernet(dst_mac, port.mac, ethertype, self._tags) + ip(src, dst, protocol, len(body)) + body

    def _take_discovery(self, number: int, frame: bytes, header: Ethernet, packet: Packet, now: int) -> bytes | None:
        port = self._ports[number]
        message = neighbours.parse_discovery(frame, packet)
        if message is None:
            self._counters["other_icmp"] += 1
            return None
        if message.kind == neighbours.ADVERTISEMENT:
            if message.link is not None and message.target not in port.addresses:
                self._learn(number, message.target, message.link, now, new=True)
            return None
        own = port.addresses.get(message.target)
        if not isinstance(own, IPv6Address):
            return None
        self._counters["neighbour"] += 1
        if not any(packet.src):  # somebody asks whether the address is free
            group_mac = neighbours.multicast_mac(neighbours.ALL_NODES)
            return neighbours.advertise(port.mac, own, None, group_mac, self._tags)
        mac = message.link if message.link is not None and not message.link[0] & 1 else header.src
        self._learn(number, packet.src, mac, now, new=True)
        return neighbours.advertise(port.mac, own, IPv6Address(packet.src), mac, self._tags)

    def _take_udp(self, port: _Port, frame: bytes, header: Ethernet, packet: Packet) -> bytes | None:
        datagram = parse_udp(frame, packet)
        if isinstance(datagram, str):
            self._counters[datagram.replace("-", "_")] += 1
            return None
        own = port.addresses.get(packet.dst)
        if own is None or datagram.dst_port != ECHO_PORT or datagram.src_port == ECHO_PORT:
            self._counters["other_udp"] += 1  # from port 7 to port 7, two echoes would never stop
            return None
        self._counters["udp_echo"] += 1
        peer = ip_address(packet.src)
        body = udp(own, peer, ECHO_PORT, datagram.src_port, frame[datagram.at : datagram.end])
        ethertype = ETH_IPV4 if len(packet.src) == 4 else ETH_IPV6
        return ethernet(header.src, port.mac, ethertype, self._tags) + ip(own, peer, UDP, len(body)) + body

    # --- neighbours -------------------------------------------------------------------------------------------------

    def _learn(self, port: int, address: bytes, mac: bytes, now: int, *, new: bool) -> None:
        """Note where `address` is; with `new` also if nobody has asked for it yet."""
        key = (port, address)
        if key not in self._known and not new:
            return
        if key not in self._known and len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known.pop(key, None)
        self._known[key] = (mac, now)
        for ping in self._pings.values():
            if ping.port == port and ping.hop.packed == address:
                ping.resolved()

    def _command_neighbours(self, arguments: Arguments, reply: Reply, now: int) -> None:
        for (_, address), (mac, since) in self._known.items():
            reply.out(f"{ip_address(address)!s:<39} {mac.hex(':')} {(now - since) / SECOND:.0f}s\n")
        reply.exit()

    # --- sending pings ----------------------------------------------------------------------------------------------

    def _command_ping(self, arguments: Arguments, reply: Reply, now: int) -> None:
        request = PingRequest.parse(arguments, self._names)
        if len(self._pings) >= MAX_PINGS:
            raise ValueError(f"{MAX_PINGS} pings are under way already")
        number, source, hop = self._route(request.target)
        most = self._ports[number].mtu - (_ECHO.size + (IPV4_SIZE if source.version == 4 else IPV6_SIZE))
        if request.size > most:
            raise ValueError(f"at most {most} bytes fit the interface; a host here sends no fragments")
        identifier = next(i & 0xFFFF for i in self._identifiers if i & 0xFFFF not in self._pings)
        self._pings[identifier] = Ping(request, reply, number, source, hop, identifier, now)

    def _route(self, target: Address) -> tuple[int, Address, Address]:
        """The port to `target`, the own address there, and the neighbour to send to. Raises ValueError."""
        for hop in (target, self._gateway):
            if hop is None or hop.version != target.version:
                continue
            for number, port in enumerate(self._ports):
                if target.packed in port.addresses:
                    raise ValueError(f"{target} is this host's own address")
                source = port.source_for(hop)
                if source is not None:
                    return number, source, hop
        raise ValueError(f"no route to {target}: it is in no subnet of this host, which has no gateway for it")

    def due(self) -> int | None:
        """At once while something waits to be sent, else when a ping has something to do."""
        if self._queue:
            return 0
        return min((ping.due() for ping in self._pings.values()), default=None)

    def emit(self, now: int, room: int) -> tuple[int, Sequence[Frame]]:
        """What pings have to send."""
        for identifier, ping in list(self._pings.items()):
            self._serve(ping, now)
            if ping.over:
                del self._pings[identifier]
        if not self._queue:
            return 0, ()
        port = self._queue[0][0]
        same_port = itertools.takewhile(lambda entry: entry[0] == port, self._queue)
        return port, [frame for _, frame in itertools.islice(same_port, room)]

    def sent(self, count: int, now: int) -> None:
        """Forget what has left."""
        for _ in range(count):
            self._queue.popleft()

    def _serve(self, ping: Ping, now: int) -> None:
        port = self._ports[ping.port]
        mac, since = self._known.get((ping.port, ping.hop.packed), (None, 0))
        fresh = mac is not None and now - since < _FRESH
        for what in ping.work(now, resolved=fresh):
            if len(self._queue) >= _MAX_QUEUE:
                self._counters["queue_full"] += 1
            elif isinstance(what, Echo) and mac is not None:
                version = ping.source.version
                message = _ECHO.pack(_REQUEST[version], 0, 0, ping.identifier, what.sequence) + what.payload
                self._queue.append((ping.port, self._icmp(port, mac, ping.source, ping.request.target, message)))
            else:
                question = neighbours.ask(port.mac, ping.source, ping.hop, self._tags)
                self._queue.append((ping.port, question))
