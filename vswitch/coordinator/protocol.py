"""The messages between a client and a lab's coordinator, and how they travel.

Two ZeroMQ sockets in the run directory: a ROUTER for requests (`control.sock`) and an XPUB for events (`events.sock`).
Every message is two frames: a fixed header (magic and protocol version, network order) and a msgpack body. The header
never changes shape, so that two versions can always tell each other apart.

A request carries a number chosen by the client; every reply repeats it. Most requests get one reply. `Exec` and
`Console` open a stream: replies with that number follow until `Exited`, and both directions are flow controlled by
acknowledged bytes, because a ROUTER drops what a slow client does not take.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from msgspec import Struct

from ..errors import ProtocolError

VERSION = 2
WINDOW = 256 * 1024
"""Bytes of a stream that may be under way, unacknowledged, in one direction."""
_LEAST_COST = 256
MAX_MESSAGE = 1 << 20


def cost(data: bytes) -> int:
    """What `data` takes of a stream's window: at least 256 bytes, so that tiny messages are bounded in number, too."""
    return max(len(data), _LEAST_COST)


_HEADER = struct.Struct("!4sH")
_MAGIC = b"VSW\0"
HEADER = _HEADER.pack(_MAGIC, VERSION)


def check_header(frame: bytes) -> None:
    """Raise ProtocolError unless `frame` is a header of this version."""
    if len(frame) != _HEADER.size or frame[:4] != _MAGIC:
        raise ProtocolError("not a vswitch message")
    version = _HEADER.unpack(frame)[1]
    if version != VERSION:
        raise ProtocolError(
            f"the client speaks protocol {version}, this lab's coordinator speaks {VERSION}: "
            "use the lab command of the version that started the lab, or take it down and up again"
        )


class _Message(Struct, frozen=True, tag=True, array_like=True, forbid_unknown_fields=True):
    pass


# --- requests -------------------------------------------------------------------------------------------------------


class Status(_Message, frozen=True):
    """Ask for a `LabStatus`."""


class Detach(_Message, frozen=True):
    """The client that started the lab lets it run on by itself."""


class Down(_Message, frozen=True):
    """Take the lab down; `Done` comes when all is gone."""


class Exec(_Message, frozen=True):
    """Run `argv` in `node`; opens a stream. `tty` is (rows, columns)."""

    node: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    cwd: str | None = None
    tty: tuple[int, int] | None = None


class Console(_Message, frozen=True):
    """Attach to `node`'s console; opens a stream that begins with what the console last printed."""

    node: str


class Input(_Message, frozen=True):
    """Bytes for an open stream; empty means end of input."""

    data: bytes


class Resize(_Message, frozen=True):
    """The client's terminal changed its size."""

    rows: int
    columns: int


class Signal(_Message, frozen=True):
    """Send a signal to an open stream's command."""

    number: int


class Ack(_Message, frozen=True):
    """`size` more of the stream's window (see `cost`) is free again (sent by either side)."""

    size: int


class Hangup(_Message, frozen=True):
    """End an open stream."""


class Stats(_Message, frozen=True):
    """Ask for the counters of every port."""


class Fdb(_Message, frozen=True):
    """Ask for a switch's forwarding table."""

    network: str


class Networks(_Message, frozen=True):
    """Ask for a row on every network: its type, the number of its ports and addresses, its settings."""


class Ports(_Message, frozen=True):
    """Ask for a row on every port of `network`: whether it faces outside, and its settings."""

    network: str


class Inspect(_Message, frozen=True):
    """Ask for a row on every interface of `node`, or of all: what it is linked to, its port, how to join it."""

    node: str | None = None


class Configure(_Message, frozen=True):
    """Change settings of `network`, or of its `port`: name -> value, written as in a lab file."""

    network: str
    port: str | None
    settings: dict[str, str]


class AddStatic(_Message, frozen=True):
    """Have the address `entry` ("MAC" or "MAC@VLAN") on `port` of `network` for good, and on no other."""

    network: str
    entry: str
    port: str


class Forget(_Message, frozen=True):
    """Have `network` forget one address, however it knows it: in one VLAN, or wherever it does."""

    network: str
    mac: str
    vlan: int | None


class Flush(_Message, frozen=True):
    """Have `network` forget all addresses but static ones, or only those of a port, a VLAN, or both."""

    network: str
    port: str | None = None
    vlan: int | None = None


Operation = (
    Status
    | Detach
    | Down
    | Exec
    | Console
    | Input
    | Resize
    | Signal
    | Ack
    | Hangup
    | Stats
    | Fdb
    | Networks
    | Ports
    | Inspect
    | Configure
    | AddStatic
    | Forget
    | Flush
)


class Request(Struct, frozen=True, array_like=True):
    """One request; for stream operations `number` is that of the request that opened the stream."""

    number: int
    operation: Operation


# --- replies --------------------------------------------------------------------------------------------------------


class Done(_Message, frozen=True):
    """It is done."""


class Failed(_Message, frozen=True):
    """It could not be done; `message` is for the user."""

    message: str


class NodeStatus(Struct, frozen=True, kw_only=True):
    """One node as it is now. `since` is seconds since the epoch; `cause` says why it exited or what it waits for."""

    name: str
    kind: str
    driver: str
    state: str
    cause: str = ""
    pid: int | None = None
    since: float = 0.0
    boot_seconds: float | None = None
    interfaces: dict[str, tuple[str, ...]] = {}
    macs: dict[str, str] = {}
    facts: dict[str, str] = {}


class LabStatus(_Message, frozen=True, kw_only=True):
    """The whole lab as it is now. `sequence` is the number of the last event it includes."""

    name: str
    lab: str
    source: str
    state: str
    cause: str
    sequence: int
    created: float
    version: str
    pid: int
    fabric_pid: int | None
    nodes: tuple[NodeStatus, ...]
    networks: dict[str, str]
    links: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()


class Started(_Message, frozen=True):
    """The stream is open."""


class Output(_Message, frozen=True):
    """Bytes from an open stream; `stream` is "stdout" or "stderr"."""

    stream: str
    data: bytes


class Exited(_Message, frozen=True):
    """The stream's command ended with `code`; the stream is closed."""

    code: int


class Alive(_Message, frozen=True):
    """Sent on open streams now and then: fails to send once the client is gone, which ends the stream."""


class Table(_Message, frozen=True):
    """Rows of named values; further replies have the next ones while `more`."""

    rows: tuple[dict[str, Any], ...]
    more: bool = False


class Count(_Message, frozen=True):
    """It is done, to this many."""

    number: int


Answer = Done | Failed | LabStatus | Started | Output | Exited | Alive | Table | Count | Ack


class Reply(Struct, frozen=True, array_like=True):
    """One reply to request `number`."""

    number: int
    answer: Answer


# --- events ---------------------------------------------------------------------------------------------------------


class Event(Struct, frozen=True, kw_only=True):
    """Something changed. `what` is "lab", "node", "network", "link", "port" or "fabric"; `time` in epoch seconds."""

    sequence: int
    time: float
    what: str
    name: str
    state: str
    cause: str = ""


_encode = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(Request)
_reply = msgspec.msgpack.Decoder(Reply)
_event = msgspec.msgpack.Decoder(Event)


def pack(message: Request | Reply | Event) -> list[bytes]:
    """Turn a message into its two frames."""
    return [HEADER, _encode(message)]


def _unpack(frames: list[bytes], decode: Any) -> Any:
    if len(frames) != 2 or len(frames[1]) > MAX_MESSAGE:
        raise ProtocolError("not a vswitch message")
    check_header(frames[0])
    try:
        return decode(frames[1])
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"malformed message: {error}") from None


def unpack_request(frames: list[bytes]) -> Request:
    """Decode a request. Raises ProtocolError."""
    request: Request = _unpack(frames, _request.decode)
    return request


def unpack_reply(frames: list[bytes]) -> Reply:
    """Decode a reply. Raises ProtocolError."""
    reply: Reply = _unpack(frames, _reply.decode)
    return reply


def unpack_event(frames: list[bytes]) -> Event:
    """Decode an event. Raises ProtocolError."""
    event: Event = _unpack(frames, _event.decode)
    return event
