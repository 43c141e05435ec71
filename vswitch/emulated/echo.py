"""Role `echo`: sends back what it gets, the addresses of Ethernet, IP and UDP swapped. No I/O.

Swapping changes no checksum. It answers only what is addressed to it, unless told otherwise, so that frames flooded by
a switch are not doubled; and never a probe that was echoed before, so that two echoes do not play ball for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from . import probe
from .headers import ETH_IPV4, ETH_IPV6, IPV6_SIZE, UDP, parse_ethernet
from .role import Frame, Role


class Echo(Role):
    """An echo at interfaces with the addresses `macs`; `promiscuous` answers frames addressed to others, too."""

    name: ClassVar[str] = "echo"

    def __init__(self, macs: Sequence[bytes], *, promiscuous: bool = False) -> None:
        super().__init__()
        self._macs = macs
        self._promiscuous = promiscuous
        self._echoed = 0
        self._ignored = 0

    def handle(self, port: int, frames: Sequence[bytes], now: int) -> Sequence[Frame]:
        """Answer frames."""
        answers = [answer for frame in frames if (answer := self._answer(self._macs[port], frame)) is not None]
        self._echoed += len(answers)
        self._ignored += len(frames) - len(answers)
        return answers

    def _answer(self, own: bytes, frame: bytes) -> bytearray | None:
        header = parse_ethernet(frame)
        if header is None or header.src[0] & 1 or header.src == own:
            return None
        if header.dst != own and not header.dst[0] & 1 and not self._promiscuous:
            return None
        answer = bytearray(frame)
        answer[0:6] = header.src
        answer[6:12] = own if header.dst[0] & 1 else header.dst
        udp_at = _swap_addresses(answer, header.ethertype, header.at)
        at = probe.find(frame)
        if at >= 0:
            if frame[at + 4] & (probe.ECHOED >> 8):
                return None
            probe.mark_echoed(answer, at)
            if udp_at is not None:
                _mend_checksum(answer, udp_at + 6, probe.ECHOED)
        return answer

    def stats(self) -> Mapping[str, object]:
        """Counters."""
        return {"role": self.name, "echoed": self._echoed, "ignored": self._ignored}

    def reset(self) -> None:
        """Start from nothing."""
        self._echoed = self._ignored = 0


def _swap_addresses(frame: bytearray, ethertype: int, at: int) -> int | None:
    """Swap IP addresses and UDP ports, as far as the frame has them; return where its UDP header is."""
    if ethertype == ETH_IPV4 and len(frame) >= at + 20:
        size, addresses, protocol, header = 4, at + 12, frame[at + 9], (frame[at] & 15) * 4
        whole = not (frame[at + 6] & 0x1F or frame[at + 7])  # a later fragment has no ports
    elif ethertype == ETH_IPV6 and len(frame) >= at + IPV6_SIZE:
        size, addresses, protocol, header, whole = 16, at + 8, frame[at + 6], IPV6_SIZE, True
    else:
        return None
    middle, end = addresses + size, addresses + 2 * size
    frame[addresses:end] = frame[middle:end] + frame[addresses:middle]
    ports = at + header
    if protocol != UDP or not whole or len(frame) < ports + 8:
        return None
    frame[ports : ports + 4] = frame[ports + 2 : ports + 4] + frame[ports : ports + 2]
    return ports


def _mend_checksum(frame: bytearray, at: int, added: int) -> None:
    """Adjust a UDP checksum (0: there is none) to a word it covers having grown by `added`; see RFC 1624."""
    old = int.from_bytes(frame[at : at + 2], "big")
    if old:
        total = (0xFFFF - old + added) % 0xFFFF
        frame[at : at + 2] = (0xFFFF - total).to_bytes(2, "big")
