"""A QEMU machine's network cards: their model, their queues, their places on the PCI bus. No I/O here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..errors import NodeError
from ..model.lab import Interface, Transport
from ..ports.tap import MAX_MTU

_FIRST_SLOT = 3  # 0 is the host bridge, 1 the agent's serial port, 2 the disk
_LAST_SLOT = 30  # 31 is q35's LPC bridge
_FUNCTIONS = 8
_VLAN_TAG, _HEADER = 4, 14
_LONGEST_MTU: dict[Transport, int] = {  # bytes; of longer frames, QEMU or the kernel loses the rest, or all
    "mcast": 65507 - _HEADER - _VLAN_TAG,  # UDP
    "tap": MAX_MTU,
    "vde": 4096 - _HEADER - _VLAN_TAG,  # QEMU's buffer
    "l2tpv3": 2048 - _HEADER - _VLAN_TAG,  # the same
}
_VIRTIO = "virtio-net-pci"


class Place(NamedTuple):
    """Where on the machine's PCI bus a card is."""

    slot: int
    function: int

    def __str__(self) -> str:
        return f"{self.slot:02x}.{self.function}"


def nic_model(interface: Interface) -> str:
    """The QEMU device behind an interface."""
    return _VIRTIO if interface.model in (None, "virtio") else str(interface.model)


def nic_devices(interfaces: Sequence[Interface]) -> list[str]:
    """QEMU's `-device` arguments for a machine's cards. Raises NodeError for more than a PCI bus takes."""
    places = nic_places(interfaces)
    used = Counter(place.slot for place in places)
    return [
        _device(number, interface, place, shared=used[place.slot] > 1)
        for number, (interface, place) in enumerate(zip(interfaces, places, strict=True))
    ]


def _device(number: int, interface: Interface, place: Place, *, shared: bool) -> str:
    # romfile= without a value: no boot ROM, which would take time before the guest starts.
    words = f"{nic_model(interface)},netdev=net{number},id=nic{number},mac={interface.mac},romfile="
    vectors = interface.vectors
    if interface.queues > 1:
        words += ",mq=on"
        # One for each direction of a pair, one for the control queue, one for changes of configuration.
        vectors = 2 * interface.queues + 2 if vectors is None else vectors
    if vectors is not None:
        words += f",vectors={vectors}"
    words += f",addr={place.slot:#x}"
    return f"{words}.{place.function},multifunction=on" if shared else words


def nic_places(interfaces: Sequence[Interface]) -> list[Place]:
    """Where each card goes: where it was told to, or else a slot of its own, in order; a function where slots are few.

    Raises NodeError for more cards than a PCI bus takes.
    """
    written = {number: _place(nic.addr) for number, nic in enumerate(interfaces) if nic.addr is not None}
    left = len(interfaces) - len(written)
    slots = range(_FIRST_SLOT, _LAST_SLOT + 1)
    taken = {place.slot for place in written.values()}
    free = [Place(slot, 0) for slot in slots if slot not in taken]
    if len(free) < left:
        every = (Place(slot, function) for slot in slots for function in range(_FUNCTIONS))
        free = [place for place in every if place not in written.values()]
    if len(free) < left:
        raise NodeError(f"a machine takes {len(slots) * _FUNCTIONS} interfaces at most, not {len(interfaces)}")
    unwritten = iter(free)
    return [written[number] if number in written else next(unwritten) for number in range(len(interfaces))]


def nic_mistakes(interfaces: Sequence[Interface], reserved: Mapping[int, str]) -> Iterator[tuple[Interface, str, str]]:
    """What is wrong with the cards' settings taken together: the interface, its key, and what about it.

    `reserved` says what the machine itself has in slots of its PCI bus.
    """
    owners: dict[Place, Interface] = {}
    for interface in interfaces:
        model = nic_model(interface)
        longest = _LONGEST_MTU.get(interface.transport, interface.mtu)
        if interface.mtu > longest:
            yield interface, "mtu", f"transport {interface.transport} carries at most {longest}, not {interface.mtu}"
        if interface.vectors is not None and not model.startswith(_VIRTIO):
            yield interface, "vectors", f"only model virtio has a choice of vectors, not {model}"
        if interface.queues > 1 and not model.startswith(_VIRTIO):
            yield interface, "queues", f"only model virtio has several queues, not {model}"
        elif interface.queues > 1 and interface.transport != "tap":
            what = f"several queues need 'transport: tap', not {interface.transport}: other transports have one"
            yield interface, "queues", what
        if interface.addr is None:
            continue
        place = _place(interface.addr)
        if place.slot in reserved:
            yield interface, "addr", f"slot {place.slot:02x} is that of {reserved[place.slot]}; take one from 03 to 1e"
        elif place in owners:
            yield interface, "addr", f"{owners[place].name} is at {place} already"
        owners.setdefault(place, interface)
    if len(interfaces) <= (_LAST_SLOT - _FIRST_SLOT + 1) * _FUNCTIONS:
        yield from _hidden(interfaces)


def _hidden(interfaces: Sequence[Interface]) -> Iterator[tuple[Interface, str, str]]:
    """The cards no guest looks for: where there is no function 0 there is nothing in a slot."""
    places = nic_places(interfaces)
    for interface, place in zip(interfaces, places, strict=True):
        if interface.addr is not None and place._replace(function=0) not in places:
            yield interface, "addr", f"a guest does not look at {place} unless some interface is at {place.slot:02x}.0"


def _place(addr: str) -> Place:
    slot, _, function = addr.lower().removeprefix("0x").partition(".")
    return Place(int(slot, 16), int(function or "0"))
