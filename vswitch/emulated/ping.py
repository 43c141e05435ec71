"""The `ping` command of a host: when to send, what came back, what to print. No I/O."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from .headers import Address
from .pacing import SECOND
from .role import INTERRUPTED, Arguments, Reply, Usage

_ASK_AGAIN = SECOND  # for the neighbour's address
_MAX_SIZE = 65000
_PATTERN = bytes(range(256))


class PingRequest(NamedTuple):
    """What was asked for. Times in nanoseconds; `size` in bytes of payload."""

    target: Address
    packets: int
    interval: int
    timeout: int
    size: int

    @classmethod
    def parse(cls, arguments: Arguments, names: Mapping[str, Sequence[str]]) -> PingRequest:
        """Read the command's arguments. Raises Usage or ValueError."""
        values = {"-c": "4", "-i": "1", "-s": "56", "-W": "1"}
        targets: list[str] = []
        version = None
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            if word[:2] in values:
                value = word[2:] or (rest.pop(0) if rest else "")
                if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) is None:
                    raise Usage(f"{word} wants a number")
                values[word[:2]] = value
            elif word in ("-4", "-6"):
                version = int(word[1])
            elif word.startswith("-"):
                raise Usage(f"{word[:60]!r} is not understood")
            else:
                targets.append(word)
        if len(targets) != 1:
            raise Usage("one address or node is wanted")
        count, size = int(float(values["-c"])), int(float(values["-s"]))
        interval, timeout = (int(float(values[key]) * SECOND) for key in ("-i", "-W"))
        if count < 1 or interval < SECOND // 1000 or size > _MAX_SIZE:
            raise ValueError(f"at least one packet, 0.001 s between them, {_MAX_SIZE} bytes in them at the most")
        return cls(_target(targets[0], version, names), count, interval, timeout, size)


def _target(text: str, version: int | None, names: Mapping[str, Sequence[str]]) -> Address:
    candidates: list[Address] = []
    for one in names.get(text, (text,)):
        try:
            candidates.append(ip_address(one))
        except ValueError:
            raise ValueError(f"{text[:60]!r} is neither an address nor a name known here") from None
    for address in candidates:
        if version in (None, address.version):
            return address
    raise ValueError(f"{text[:60]!r} has no IPv{version} address")


class Echo(NamedTuple):
    """An echo request to send."""

    sequence: int
    payload: bytes


class Ask(NamedTuple):
    """The neighbour's address is to be asked for."""


class Ping:
    """One ping under way to `request.target`, through the neighbour `hop` at `port`, from the own address `source`."""

    def __init__(
        self, request: PingRequest, reply: Reply, port: int, source: Address, hop: Address, identifier: int, now: int
    ) -> None:
        self.request = request
        self.port = port
        self.source = source
        self.hop = hop
        self.identifier = identifier
        self.over = False
        self._reply = reply
        self._began = now
        self._sent = 0
        self._asked_at: int | None = None
        self._resolved = False
        self._in_flight: dict[int, int] = {}  # sequence number -> when it was sent
        self._answers = 0
        self._total = 0
        self._least = 0
        self._most = 0
        reply.cancelled = self._interrupted
        reply.out(f"PING {request.target}: {request.size} bytes\n")

    def due(self) -> int:
        """When `work` has something to do, if nothing comes in before."""
        if self.over:
            return 0
        # They were sent in order, so the first one in flight is the first to be given up.
        times = [sent + self.request.timeout for sent in itertools.islice(self._in_flight.values(), 1)]
        if self._sent < self.request.packets:
            next_at = self._began + self._sent * self.request.interval
            if not self._resolved and self._asked_at is not None:
                next_at = max(next_at, min(self._asked_at + _ASK_AGAIN, self._give_up_at()))
            times.append(next_at)
        return min(times, default=0)  # 0: all is done but to say so

    def _give_up_at(self) -> int:
        """When the neighbour not answering counts as the next packet being lost."""
        return self._began + self._sent * self.request.interval + self.request.timeout

    def work(self, now: int, *, resolved: bool) -> Iterator[Echo | Ask]:
        """What to send now; `resolved` tells whether the neighbour's address is known."""
        self._resolved = resolved
        for sequence, sent in list(self._in_flight.items()):
            if now < sent + self.request.timeout:
                break
            del self._in_flight[sequence]
            self._reply.out(f"no answer to seq={sequence}\n")
        while not self.over and self._sent < self.request.packets:
            if now < self._began + self._sent * self.request.interval:
                break
            if resolved:
                self._sent += 1
                self._in_flight[self._sent & 0xFFFF] = now
                payload = (_PATTERN * (self.request.size // len(_PATTERN) + 1))[: self.request.size]
                yield Echo(self._sent & 0xFFFF, payload)
            elif now >= self._give_up_at():
                self._sent += 1
                self._reply.out(f"no neighbour {self.hop} for seq={self._sent}\n")
            elif self._asked_at is None or now >= self._asked_at + _ASK_AGAIN:
                self._asked_at = now
                yield Ask()
                break
            else:
                break
        if self._sent >= self.request.packets and not self._in_flight:
            self._finish(0 if self._answers else 1)

    def resolved(self) -> None:
        """The neighbour's address has just become known: `work` has something to do at once."""
        self._resolved = True

    def answered(self, source: Address, sequence: int, size: int, hops: int, now: int) -> None:
        """An echo reply came in."""
        sent = self._in_flight.get(sequence)
        if self.over or sent is None or source != self.request.target:
            return
        del self._in_flight[sequence]
        took = now - sent
        self._least = min(self._least, took) if self._answers else took
        self._most = max(self._most, took)
        self._total += took
        self._answers += 1
        self._reply.out(f"{size} bytes from {source}: seq={sequence} ttl={hops} time={took / 1e6:.3f} ms\n")

    def _interrupted(self) -> None:
        self._finish(0 if self._answers else INTERRUPTED)

    def _finish(self, code: int) -> None:
        if self.over:
            return
        self.over = True
        loss = 100 * (self._sent - self._answers) / self._sent if self._sent else 0
        self._reply.out(
            f"{self._sent} packets transmitted, {self._answers} packets received, {loss:.0f}% packet loss\n"
        )
        if self._answers:
            times = (self._least, self._total / self._answers, self._most)
            self._reply.out(f"round-trip min/avg/max = {'/'.join(f'{time / 1e6:.3f}' for time in times)} ms\n")
        self._reply.exit(code)
