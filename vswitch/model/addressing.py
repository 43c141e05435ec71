"""Subnets, and which interface gets which address of them."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from typing import TypeAlias

from .problems import Problems, quote
from .tree import Path

Address: TypeAlias = IPv4Address | IPv6Address
Subnet: TypeAlias = IPv4Network | IPv6Network


class Member:
    """An interface on a segment; `written` are the addresses the file gives it, None to be given some."""

    def __init__(self, node: str, interface: str, written: list[tuple[str, Path]] | None) -> None:
        self.node = node
        self.interface = interface
        self.written = written
        self.addresses: list[str] = []


class Segment:
    """What can be reached without a router: a network, or a link of two interfaces (or, alone, an unlinked one).

    `members` are in node order. `subnets` have the path each was written at.
    """

    def __init__(self, name: str, subnets: list[tuple[Subnet, Path]], members: list[Member]) -> None:
        self.name = name
        self.subnets = subnets
        self.members = members


def read_subnets(written: str | list[str] | None, path: Path, problems: Problems) -> list[tuple[Subnet, Path]]:
    """Read a `subnet:`; what is wrong is reported and left out."""
    subnets: list[tuple[Subnet, Path]] = []
    for text, place in as_list(written, path):
        try:
            subnet = ip_network(text, strict=False)
            exact = ip_interface(text).ip == subnet.network_address
        except ValueError:
            problems.error(place, f"expected a subnet such as 10.0.0.0/24 or fd00::/64, not {quote(text)}")
            continue
        if "/" not in text:
            problems.error(place, f"a subnet needs its prefix length, as in {text}/{24 if subnet.version == 4 else 64}")
        elif not exact:
            problems.error(place, f"{text} is an address in a subnet; the subnet is {subnet}")
        elif subnet.is_multicast:
            problems.error(place, f"{subnet} is for multicast groups; interfaces have no such addresses")
        elif any(subnet.overlaps(other) for other, _ in subnets if other.version == subnet.version):
            problems.error(place, f"{subnet} overlaps another subnet of this network")
        else:
            subnets.append((subnet, place))
    return subnets


def as_list(written: str | list[str] | None, path: Path) -> list[tuple[str, Path]]:
    """A value that may be one text or a list of them, each with its path."""
    if isinstance(written, list):
        return [(text, (*path, index)) for index, text in enumerate(written)]
    return [] if written is None else [(written, path)]


class Addressing:
    """Settles the addresses of all segments of a lab: those written first, then those to be given out.

    No address is given or accepted twice in a lab, for every name resolves on every node.
    """

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._taken: dict[Address, Path | None] = {}
        self._free: dict[Subnet, Iterator[Address]] = {}

    def settle(self, segments: list[Segment]) -> None:
        """Fill in `addresses` ("address/prefix") of every member."""
        for segment in segments:
            for member in segment.members:
                for text, path in member.written or ():
                    address = self._accept(text, path, segment)
                    if address is not None:
                        member.addresses.append(address)
        for segment in segments:
            waiting = [member for member in segment.members if member.written is None]
            for subnet, path in segment.subnets:
                self._give_out(subnet, path, waiting)

    def _give_out(self, subnet: Subnet, path: Path, waiting: list[Member]) -> None:
        free = self._free.setdefault(subnet, (address for address in usable(subnet) if address not in self._taken))
        for member in waiting:
            address = next(free, None)
            if address is None:
                count = f"{_count_usable(subnet)} usable address" + ("" if _count_usable(subnet) == 1 else "es")
                self._problems.error(
                    path, f"subnet {subnet} is too small: {count}, none left for {member.node}:{member.interface}"
                )
                return
            self._taken[address] = None
            member.addresses.append(f"{address}/{subnet.prefixlen}")

    def _accept(self, text: str, path: Path, segment: Segment) -> str | None:
        """Check an address the file gives; return it with its prefix length, or report why not."""
        try:
            address = ip_interface(text).ip if "/" in text else ip_address(text)
        except ValueError:
            self._problems.error(path, f"expected an address such as 10.0.0.1 or 10.0.0.1/24, not {quote(text)}")
            return None
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            self._problems.error(path, f"expected an address without a zone (%...), not {quote(text)}")
            return None
        subnet = next((subnet for subnet, _ in segment.subnets if address in subnet), None)
        prefix = int(ip_interface(text).network.prefixlen) if "/" in text else None
        mistake = self._mistake(address, prefix, subnet, segment)
        if mistake is not None:
            self._problems.error(path, mistake)
            return None
        earlier = self._taken.setdefault(address, path)
        if earlier != path:
            place = f", in {self._problems.line(earlier)}" if earlier is not None else ""
            self._problems.error(path, f"address {address} is given already{place}")
            return None
        return f"{address}/{subnet.prefixlen if subnet is not None else prefix}"

    def _mistake(self, address: Address, prefix: int | None, subnet: Subnet | None, segment: Segment) -> str | None:
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            return f"{address} is not an address an interface of a lab can have"
        if subnet is None:
            if segment.subnets and not address.is_link_local:
                known = ", ".join(str(subnet) for subnet, _ in segment.subnets)
                return f"{address} is outside {segment.name}'s subnet {known}"
            if prefix is None:
                example = f"{address}/{24 if address.version == 4 else 64}"
                return f"needs its prefix length, as in {example}: there is no subnet to take it from"
            return None
        if prefix is not None and prefix != subnet.prefixlen:
            return f"prefix length {prefix} is not that of subnet {subnet}; leave it out"
        if not is_usable(address, subnet):
            what = "network" if address == subnet.network_address else "broadcast"
            return f"{address} is the {what} address of {subnet}"
        return None


def is_usable(address: Address, subnet: Subnet) -> bool:
    """Whether an interface may have `address`.

    Not the first of a subnet (for IPv6 the routers' anycast address, RFC 4291 section 2.6.1) nor, for IPv4, the last;
    both are free in subnets of two addresses (RFC 3021, RFC 6164) and of one.
    """
    if subnet.num_addresses <= 2:
        return True
    return address != subnet.network_address and (subnet.version == 6 or address != subnet.broadcast_address)


def usable(subnet: Subnet) -> Iterator[Address]:
    """The addresses of `subnet` that interfaces may have, lowest first."""
    return (address for address in subnet if is_usable(address, subnet))


def _count_usable(subnet: Subnet) -> int:
    if subnet.num_addresses <= 2:
        return subnet.num_addresses
    return subnet.num_addresses - (2 if subnet.version == 4 else 1)
