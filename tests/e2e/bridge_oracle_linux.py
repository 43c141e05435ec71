"""Linux's bridge, put through a script (bridge_oracle.py): in a network namespace of its own, here or in a guest.

What is told to the kernel is encoded here, as rtnetlink(7) has it, and carried out there by bridge_oracle.c.
"""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .bridge_oracle import (
    MAY_FORWARD,
    N_PORTS,
    Configure,
    Flush,
    Link,
    Pin,
    Received,
    Script,
    Send,
    Settings,
    State,
    Step,
    Unpin,
    Wait,
)

# bridge_oracle.c, enum verb
_NAMESPACE, _NETLINK, _PATIENTLY, _OPEN, _FRAME, _WAIT, _FLUSH = range(7)
_MARKS = (14, 15)

_BRIDGE = 100
_INNER, _OUTER = 200, 300  # + port: the end of its veth pair in the bridge, and the station's
_MARK_DEVICES = (400, 401)
_MTU = 9000

# linux/rtnetlink.h, linux/netlink.h
_NEWLINK, _SETLINK, _DELLINK, _NEWNEIGH, _DELNEIGH = 16, 19, 17, 28, 29
_REQUEST, _ACK, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_NESTED = 0x8000

# linux/if_link.h
_IFNAME, _MTU_ATTRIBUTE, _MASTER, _PROTINFO, _LINKINFO, _AF_SPEC = 3, 4, 10, 12, 18, 26
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_BR_AGEING, _BR_STP, _BR_FILTERING, _BR_PROTOCOL, _BR_FORWARDED, _BR_SNOOPING, _BR_BOOLEANS = 4, 5, 7, 8, 9, 23, 46
_NO_LINK_LOCAL_LEARN = 1
_PORT_STATE, _PORT_HAIRPIN, _PORT_LEARNING, _PORT_UNKNOWN_FLOOD, _PORT_FLUSH = 1, 4, 8, 9, 24
_PORT_MULTICAST_FLOOD, _PORT_BROADCAST_FLOOD, _PORT_ISOLATED = 27, 30, 33
_FORWARDING = 3

# linux/if_bridge.h, linux/neighbour.h
_VLAN_INFO, _VLAN_PVID, _VLAN_UNTAGGED = 2, 2, 4
_ND_ADDRESS, _ND_VLAN, _ND_NOARP, _ND_MASTER, _ND_STICKY = 2, 5, 0x40, 0x04, 0x40

_UP = 0x1


def _attribute(kind: int, data: bytes) -> bytes:
    return (struct.pack("=HH", len(data) + 4, kind) + data).ljust((len(data) + 7) & ~3, b"\0")


def _nested(kind: int, *attributes: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(attributes))


def _u8(kind: int, value: int) -> bytes:
    return _attribute(kind, bytes([value]))


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", len(body) + 16, kind, flags | _REQUEST | _ACK, 0, 0) + body


def _ifinfo(index: int, family: int = socket.AF_UNSPEC, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, change)


def _device(index: int, name: str) -> bytes:
    return _ifinfo(index) + _text(_IFNAME, name) + _u32(_MTU_ATTRIBUTE, _MTU)


def _new_device(index: int, name: str, kind: str, *data: bytes) -> bytes:
    info = _nested(_LINKINFO, _text(_INFO_KIND, kind), _nested(_INFO_DATA, *data))
    return _message(_NEWLINK, _CREATE, _device(index, name) + info)


def _set_master(index: int, master: int) -> bytes:
    return _message(_SETLINK, 0, _ifinfo(index) + _u32(_MASTER, master))


def _set_up(index: int, up: bool) -> bytes:
    return _message(_SETLINK, 0, _ifinfo(index, flags=_UP if up else 0, change=_UP))


def _set_port(port: int, *attributes: bytes) -> bytes:
    return _message(_SETLINK, 0, _ifinfo(_INNER + port, socket.AF_BRIDGE) + _nested(_PROTINFO, *attributes))


def _vlan(kind: int, port: int, vlan: int, flags: int) -> bytes:
    info = _attribute(_VLAN_INFO, struct.pack("=HH", flags, vlan))
    return _message(kind, 0, _ifinfo(_INNER + port, socket.AF_BRIDGE) + _nested(_AF_SPEC, info))


def _neighbour(kind: int, flags: int, pin: Pin | Unpin) -> bytes:
    state = struct.pack("=BxHiHBB", socket.AF_BRIDGE, 0, _INNER + pin.port, _ND_NOARP, _ND_MASTER | _ND_STICKY, 0)
    vlan = _attribute(_ND_VLAN, struct.pack("=H", pin.vlan)) if pin.vlan else b""
    return _message(kind, flags, state + _attribute(_ND_ADDRESS, bytes.fromhex(pin.address)) + vlan)


Command = tuple[int, int, bytes]
"""Verb, argument, data."""


def _netlink(message: bytes) -> Command:
    return _NETLINK, 0, message


def _new_pair(indices: tuple[int, int], names: tuple[str, str]) -> Iterator[Command]:
    """Make two devices that are each other's other end. The first finds itself connected when it comes up, so it takes
    frames from then on; the second has to wait for a kernel thread to notice, unless frames bypass its queue.
    """
    yield _netlink(_new_device(indices[0], names[0], "veth", _nested(_VETH_INFO_PEER, _device(indices[1], names[1]))))
    for index in reversed(indices):
        yield _netlink(_set_up(index, True))


def _forwarding(port: int) -> Command:
    return _PATIENTLY, 0, _set_port(port, _u8(_PORT_STATE, _FORWARDING))


def _setup(script: Script) -> Iterator[Command]:
    """Make the bridge and its ports, as `Settings()` has them."""
    yield _NAMESPACE, 0, b""
    options = [
        _u32(_BR_AGEING, round(script.ageing * 100)),
        _u32(_BR_STP, 0),
        _u8(_BR_SNOOPING, 0),
        _attribute(_BR_FORWARDED, struct.pack("=H", script.forwarded & MAY_FORWARD)),
        _attribute(_BR_BOOLEANS, struct.pack("=II", _NO_LINK_LOCAL_LEARN, _NO_LINK_LOCAL_LEARN)),
    ]
    if script.filtering:
        options += [_u8(_BR_FILTERING, 1), _attribute(_BR_PROTOCOL, struct.pack(">H", script.protocol))]
    yield _netlink(_new_device(_BRIDGE, "bridge", "bridge", *options))
    yield _netlink(_set_up(_BRIDGE, True))
    yield from _new_pair(_MARK_DEVICES, ("mark0", "mark1"))
    for mark, device in zip(_MARKS, ("mark0", "mark1"), strict=True):
        yield _OPEN, mark, device.encode()
    for port in range(N_PORTS):
        yield from _new_pair((_INNER + port, _OUTER + port), (f"inner{port}", f"outer{port}"))
        yield _netlink(_set_master(_INNER + port, _BRIDGE))
        yield _OPEN, port, f"outer{port}".encode()
        yield _forwarding(port)


def _configure(step: Configure, before: Settings, filtering: bool) -> Iterator[Command]:
    settings = step.settings
    if filtering:
        for vlan in sorted(set(before.members) - set(settings.members)):
            yield _netlink(_vlan(_DELLINK, step.port, vlan, 0))
        for vlan in settings.members:
            flags = _VLAN_PVID | _VLAN_UNTAGGED if vlan == settings.pvid else 0
            yield _netlink(_vlan(_SETLINK, step.port, vlan, flags))
    yield _netlink(
        _set_port(
            step.port,
            _u8(_PORT_ISOLATED, settings.isolated),
            _u8(_PORT_LEARNING, settings.learning),
            _u8(_PORT_UNKNOWN_FLOOD, settings.unknown_flood),
            _u8(_PORT_BROADCAST_FLOOD, settings.broadcast_flood),
            _u8(_PORT_MULTICAST_FLOOD, settings.multicast_flood),
            _u8(_PORT_HAIRPIN, settings.hairpin),
        )
    )


def _commands(state: State, step: Step) -> Iterator[Command]:
    match step:
        case Send():
            for number, frame in enumerate(step.frames, step.first):
                yield _FRAME, step.port, frame.data(number)
        case Configure():
            yield from _configure(step, state.settings[step.port], state.script.filtering)
        case Pin():
            yield _netlink(_neighbour(_NEWNEIGH, _CREATE | _REPLACE, step))
        case Unpin():
            left = state.script.filtering and step.vlan not in state.settings[step.port].members
            if left:  # then Linux does not let go of the entry
                yield _netlink(_vlan(_SETLINK, step.port, step.vlan, 0))
            yield _netlink(_neighbour(_DELNEIGH, 0, step))
            if left:
                yield _netlink(_vlan(_DELLINK, step.port, step.vlan, 0))
        case Flush():
            yield _netlink(_set_port(step.port, _attribute(_PORT_FLUSH, b"")))
        case Link():
            yield _netlink(_set_up(_INNER + step.port, step.up))
            if step.up:
                yield _forwarding(step.port)
        case Wait():
            yield _WAIT, 0, struct.pack("=I", step.ms)


def build(directory: Path) -> Path:
    """Compile bridge_oracle.c in `directory`; return the program."""
    program = directory / "bridge_oracle"
    source = Path(__file__).with_name("bridge_oracle.c")
    options = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-static"]
    subprocess.run(["cc", *options, "-o", program, source], check=True)
    return program


class LinuxBridge:
    """A bridge_oracle.c that runs, at the other end of two pipes."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._stdin = stdin
        self._stdout = stdout

    def filters_vlans(self) -> bool:
        """Whether we may make a bridge there that does (CONFIG_BRIDGE_VLAN_FILTERING)."""
        try:
            self.run(Script(True, 0x8100, 0, 300.0, ()), [])
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOSPC):
                raise
            return False
        return True

    def run(self, script: Script, steps: list[list[Command]]) -> list[list[Received]]:
        """Put a new bridge through what `commands` made of each step. Return what came out for each frame sent.

        Raises OSError when the kernel will not do something.
        """
        setup = list(_setup(script))
        commands = [*setup, *(command for step in steps for command in step), (_FLUSH, 0, b"")]
        request = b"".join(struct.pack("=BBH", verb, to, len(data)) + data for verb, to, data in commands)
        writer = threading.Thread(target=self._write, args=(request,))
        writer.start()
        try:
            answers = [self._answer() for _ in commands]
        finally:
            writer.join()
        for command, (number, _) in zip(commands, answers, strict=True):
            if number:
                raise OSError(number, f"{errno.errorcode.get(number, number)} for {command}")
        rest = iter(answers[len(setup) :])
        return [[_received(next(rest)[1]) for _ in step] for step in steps]

    def _write(self, request: bytes) -> None:
        self._stdin.write(request)
        self._stdin.flush()

    def _answer(self) -> tuple[int, bytes]:
        head = self._stdout.read(8)
        if len(head) < 8:
            raise EOFError("bridge_oracle has ended")
        number, size = struct.unpack("=iI", head)
        return number, self._stdout.read(size)


def commands(state: State, step: Step) -> list[Command]:
    """What Linux is told for a step, given the state before it."""
    return list(_commands(state, step))


def _received(answer: bytes) -> Received:
    received: Received = {}
    at = 0
    while at < len(answer):
        port, size = struct.unpack_from("=BH", answer, at)
        at += 3
        received.setdefault(port, []).append(answer[at : at + size])
        at += size
    return received
