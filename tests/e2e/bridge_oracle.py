"""Scripts that a switch can be put through: what they consist of, how they are invented, and how they are cut down.

A script is plain data that prints as the Python that makes it, so one that fails can be kept.
Its steps do not depend on each other: what makes no sense where it stands, such as a frame from a port without a link,
is left out by `effective`, so any part of a script is a script.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

N_PORTS = 6
DOT1Q, DOT1AD = 0x8100, 0x88A8
PRIORITY = 0  # the VLAN id of a tag that says only a priority
STATIONS = tuple(f"02000000010{i}" for i in range(8))
CROWD = tuple(f"0200000002{i:02x}" for i in range(256))
BROADCAST = "ffffffffffff"
GROUPS = ("01005e000005", "333300000001")
RESERVED = "0180c200000"  # and the last four bits
NEVER_FORWARDED = (1, 2)  # by Linux, of the reserved groups
MAY_FORWARD = 0xFFF8  # those that it is told about, as bits
UNHEARD = "020000000fff"
"""An address that never sends, but to see who is known."""
VLANS = (1, 10, 20, 4094)
FOREIGN_VLAN = 99  # no port is ever in it


class Frame(NamedTuple):
    """A frame of `size` bytes, of which 4 for each tag (type, TCI). Addresses are in hexadecimal."""

    to: str
    source: str
    tags: tuple[tuple[int, int], ...] = ()
    size: int = 60

    def data(self, number: int) -> bytes:
        """Return its bytes; `number` makes it differ from any other."""
        tags = b"".join(struct.pack(">HH", *tag) for tag in self.tags)
        head = bytes.fromhex(self.to + self.source) + tags + b"\x88\xb5" + struct.pack(">I", number)
        return head + bytes(i & 0xFF for i in range(self.size - len(head)))


class Settings(NamedTuple):
    """What a port is set to. `pvid` 0: untagged frames are dropped; else it is one of `members`."""

    members: tuple[int, ...] = (1,)
    pvid: int = 1
    isolated: bool = False
    learning: bool = True
    unknown_flood: bool = True
    broadcast_flood: bool = True
    multicast_flood: bool = True
    hairpin: bool = False


class Send(NamedTuple):
    """Frames sent by the station behind `port`, at once. `first` is the first one's number."""

    port: int
    frames: tuple[Frame, ...]
    first: int = 0


class Configure(NamedTuple):
    """Give a port other settings."""

    port: int
    settings: Settings


class Pin(NamedTuple):
    """Make a static entry."""

    address: str
    vlan: int
    port: int


class Unpin(NamedTuple):
    """Remove a static entry."""

    address: str
    vlan: int
    port: int


class Flush(NamedTuple):
    """Forget what was learnt on a port."""

    port: int


class Link(NamedTuple):
    """Take a port's link away, or give it back."""

    port: int
    up: bool


class Wait(NamedTuple):
    """Let time pass."""

    ms: int


Step = Send | Configure | Pin | Unpin | Flush | Link | Wait


class Script(NamedTuple):
    """A switch's settings, and what is done to it. Bit n of `forwarded`: frames for reserved group n are."""

    filtering: bool
    protocol: int
    forwarded: int
    ageing: float  # s
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        steps = "".join(f"\n        {step!r}," for step in self.steps)
        return (
            f"Script(\n    {self.filtering}, {self.protocol:#x}, {self.forwarded:#x}, {self.ageing},\n"
            f"    ({steps}\n    ),\n)"
        )


Received = dict[int, list[bytes]]
"""What came out, in order, by port."""


@dataclass
class State:
    """What a script has set so far, but not what the switch has learnt."""

    script: Script
    settings: list[Settings] = field(default_factory=lambda: [Settings()] * N_PORTS)
    up: list[bool] = field(default_factory=lambda: [True] * N_PORTS)
    pinned: dict[tuple[str, int], int] = field(default_factory=dict)

    def vlan_of(self, port: int, frame: Frame) -> int | None:
        """The VLAN that a frame is in when it comes in by a port; None when it is in none."""
        if not self.script.filtering:
            return 0
        settings = self.settings[port]
        tagged = frame.tags and frame.tags[0][0] == self.script.protocol
        vlan = (frame.tags[0][1] & 0xFFF if tagged else PRIORITY) or settings.pvid
        return vlan if vlan in settings.members else None

    def is_pinned_elsewhere(self, port: int, frame: Frame) -> bool:
        """Whether the frame's source has a static entry on another port."""
        vlan = self.vlan_of(port, frame)
        return vlan is not None and self.pinned.get((frame.source, vlan), port) != port

    def pins_on(self, port: int) -> list[Pin]:
        """The static entries of a port."""
        return [Pin(address, vlan, port) for (address, vlan), at in self.pinned.items() if at == port]

    def makes_sense(self, step: Step) -> bool:
        """Whether there is a point in doing this now, and both switches would."""
        match step:
            case Send() | Flush():
                return self.up[step.port]
            case Link():
                return self.up[step.port] != step.up
            case Pin():
                vlans = self.settings[step.port].members if self.script.filtering else (0,)
                return self.up[step.port] and step.vlan in vlans
            case Unpin():
                return self.pinned.get((step.address, step.vlan)) == step.port
        return True

    def note(self, step: Step) -> None:
        """Take note of what has been done."""
        match step:
            case Configure():
                self.settings[step.port] = step.settings
            case Pin():
                self.pinned[step.address, step.vlan] = step.port
            case Unpin():
                del self.pinned[step.address, step.vlan]
            case Link():
                self.up[step.port] = step.up


def effective(script: Script, *, pins_outlive_links: bool) -> Iterator[tuple[State, Step]]:
    """Yield each step that makes sense, and the state before it; the state is the same object every time.

    Where static entries do not outlive their port's link, they are removed before it goes and made again afterwards.
    """
    state = State(script)
    parked: dict[int, list[Pin]] = {port: [] for port in range(N_PORTS)}
    number = 0

    def one(step: Step) -> Iterator[tuple[State, Step]]:
        if state.makes_sense(step):
            yield state, step
            state.note(step)

    for step in script.steps:
        if not state.makes_sense(step):
            continue
        if isinstance(step, Send):
            step = step._replace(first=number)
            number += len(step.frames)
        if isinstance(step, Link) and not step.up and not pins_outlive_links:
            parked[step.port] = state.pins_on(step.port)
            for pin in parked[step.port]:
                yield from one(Unpin(*pin))
        yield from one(step)
        if isinstance(step, Link) and step.up:
            for pin in parked[step.port]:
                if (pin.address, pin.vlan) not in state.pinned:
                    yield from one(pin)
            parked[step.port] = []


# --- inventing ------------------------------------------------------------------------------------------------------


class Inventor:
    """Makes scripts up. Stations have a port they are mostly on, and move, so most unicasts find somebody.

    Of the switches without VLANs every other one has no setting that needs a look at each frame: then ours takes a
    shorter way.
    """

    def __init__(self, seed: int, *, filtering: bool, protocol: int = DOT1Q, n_steps: int = 80) -> None:
        self._random = random.Random(seed)
        self._filtering = filtering
        self._simple = not filtering and seed % 2 == 0
        self._protocol = protocol
        self._n_steps = n_steps
        self._homes = [self._random.randrange(N_PORTS) for _ in STATIONS]
        self._vlans: list[tuple[int, ...]] = [(1,)] * N_PORTS  # what each port is in
        self._pins: list[Pin] = []

    def script(self) -> Script:
        """Invent one."""
        steps: list[Step] = []
        for port in range(N_PORTS):
            if self._filtering or self._chance(0.3):
                steps.append(self._configure(port))
        makers: list[Callable[[], Step]] = [
            self._send,
            self._configure,
            self._pin,
            self._unpin,
            self._flush,
            self._link,
            self._probe,
            self._crowd,
        ]
        for make in self._random.choices(makers, weights=(80, 8, 4, 3, 2, 4, 5, 1), k=self._n_steps):
            step = make()
            steps.append(step)
            if isinstance(step, Link) and not step.up and self._chance(0.6):
                steps += [self._send(), Link(step.port, True)]
            if self._chance(0.05):
                self._homes[self._random.randrange(len(STATIONS))] = self._port()
        return self._made(300.0, steps)

    def _made(self, ageing: float, steps: list[Step]) -> Script:
        forwarded = forced_forwards(self._filtering, self._protocol) | self._random.getrandbits(16) & MAY_FORWARD
        if self._simple:
            forwarded = 0xFFFF  # and no frame is sent to those that Linux would not
        return Script(self._filtering, self._protocol, forwarded, ageing, tuple(steps))

    def ageing_script(self) -> Script:
        """Invent one that waits: what has not been heard for two waits has aged, for one wait it has not."""
        ageing, wait = 1.0, 0.6  # s
        steps: list[Step] = []
        for _ in range(4):
            for address, home in zip(STATIONS, self._homes, strict=True):
                if self._chance(0.4):
                    steps.append(Send(home, (Frame(self._destination(), address),)))
            steps.append(Wait(round(wait * 1000)))
            port = self._port()
            steps += [Send(port, (Frame(address, UNHEARD),)) for address in STATIONS]
        return self._made(ageing, steps)

    def _port(self) -> int:
        return self._random.randrange(N_PORTS)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _vlan(self) -> int:
        return self._random.choice(VLANS)

    def _settings(self) -> Settings:
        members: tuple[int, ...] = (1,)
        pvid = 1
        if self._filtering:
            kind = self._random.choice(("access", "trunk", "hybrid", "none"))
            if kind == "access":
                pvid = self._vlan()
                members = (pvid,)
            elif kind != "none":
                members = tuple(sorted(self._random.sample(VLANS, self._random.randint(1, len(VLANS)))))
                pvid = self._random.choice(members) if kind == "hybrid" else 0
        settings = Settings(
            members, pvid, isolated=self._chance(0.25), learning=self._chance(0.85), hairpin=self._chance(0.2)
        )
        if self._simple:
            return settings
        return settings._replace(
            unknown_flood=self._chance(0.85),
            broadcast_flood=self._chance(0.85),
            multicast_flood=self._chance(0.85),
        )

    def _address(self) -> str:
        return self._random.choice(STATIONS)

    def _destination(self) -> str:
        kind = self._random.choices(("station", "broadcast", "group", "reserved", "crowd"), (70, 10, 8, 8, 4))[0]
        match kind:
            case "station":
                return self._address()
            case "broadcast":
                return BROADCAST
            case "group":
                return self._random.choice(GROUPS)
            case "reserved":
                number = self._random.choice((0, 1, 2, 3, 14, self._random.randrange(16)))
                return f"{RESERVED}{14 if self._simple and number in NEVER_FORWARDED else number:x}"
        return self._random.choice((UNHEARD, *CROWD))

    def _tag(self, port: int) -> tuple[int, int]:
        other = DOT1AD if self._protocol == DOT1Q else DOT1Q
        vlan = self._random.choice(self._vlans[port])
        if self._chance(0.3):
            vlan = self._random.choice((*VLANS, PRIORITY, FOREIGN_VLAN, 4095))
        priority = self._random.choice((0, 0, self._random.getrandbits(4) << 12))
        return (other if self._chance(0.2) else self._protocol), priority | vlan

    def _frame(self, port: int) -> Frame:
        here = [address for address, home in zip(STATIONS, self._homes, strict=True) if home == port]
        source = self._random.choice(here) if here and self._chance(0.85) else self._address()
        if self._chance(0.02):
            source = GROUPS[0]
        n_tags = self._random.choices((0, 1, 2, 3), (50, 40, 8, 2))[0]
        tags = tuple(self._tag(port) for _ in range(n_tags))
        size = self._random.choice((60, 60, 60, 61, 64, 100, self._random.randint(60, 1514), 1514))
        return Frame(self._destination(), source, tags, size)

    def _send(self) -> Send:
        port = self._port()
        if self._chance(0.8):
            port = self._random.choice(self._homes)
        burst = self._random.choice((1, 1, 1, 2, 3, 8))
        return Send(port, tuple(self._frame(port) for _ in range(burst)))

    def _configure(self, port: int | None = None) -> Configure:
        port = self._port() if port is None else port
        settings = self._settings()
        self._vlans[port] = settings.members
        return Configure(port, settings)

    def _pin(self) -> Pin:
        port = self._port()
        pin = Pin(self._address(), self._random.choice(self._vlans[port]) if self._filtering else 0, port)
        self._pins.append(pin)
        return pin

    def _unpin(self) -> Step:
        if not self._pins:
            return self._pin()
        return Unpin(*self._pins.pop(self._random.randrange(len(self._pins))))

    def _probe(self) -> Step:
        """A frame for a static entry, from a port in its VLAN; the entry's own may have left it."""
        if not self._pins:
            return self._pin()
        pin = self._random.choice(self._pins)
        ports = [port for port, vlans in enumerate(self._vlans) if pin.vlan in vlans or not self._filtering]
        tags = ((self._protocol, pin.vlan),) if self._filtering else ()
        frame = Frame(pin.address, self._address(), tags)
        return Send(self._random.choice(ports or [pin.port]), (frame,))

    def _crowd(self) -> Send:
        """Many stations at once, so that tables grow."""
        return Send(self._port(), tuple(Frame(UNHEARD, source) for source in self._random.sample(CROWD, 30)))

    def _flush(self) -> Flush:
        return Flush(self._port())

    def _link(self) -> Link:
        return Link(self._port(), self._chance(0.5))


def forced_forwards(filtering: bool, protocol: int) -> int:
    """Reserved groups that Linux forwards whatever it is told: STP's while it does not speak STP itself, and those that
    concern a customer's bridges only when it is a provider's (IEEE 802.1Q-2022, table 8-2). Groups 1 and 2 never are.
    """
    return 0xB801 if filtering and protocol == DOT1AD else 0x0001


# --- cutting down ---------------------------------------------------------------------------------------------------


def shrink(script: Script, fails: Callable[[Script], bool]) -> Script:
    """Return a smaller script that fails, too: without any step, or frame of a burst, that can be left out."""
    steps = list(script.steps)

    def fail(shorter: list[Step]) -> bool:
        return fails(script._replace(steps=tuple(shorter)))

    size = len(steps) + 1
    while size := size // 2:
        at = 0
        while at < len(steps):
            shorter = steps[:at] + steps[at + size :]
            if fail(shorter):
                steps = shorter
            else:
                at += size
    for at, step in enumerate(steps):
        if not isinstance(step, Send):
            continue
        kept = step
        for frame in step.frames:
            less = kept._replace(frames=tuple(other for other in kept.frames if other is not frame))
            if less.frames and fail([*steps[:at], less, *steps[at + 1 :]]):
                steps[at] = kept = less
    return script._replace(steps=tuple(steps))
