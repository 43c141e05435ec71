"""What a lab file may say to an emulated node, checked as far as it can be without knowing the rest of the lab."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..model.lab import Lab, Node
from ..model.tree import Path
from . import patterns, probe

_BYTE = r"(?:[0-9A-Fa-f]{2}|\{[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}\})"
MAC_PATTERN = f"{_BYTE}(?::{_BYTE}){{5}}"

_Path = Annotated[str, Meta(extra={"path": True})]
_Duration = Annotated[float, Meta(extra={"unit": "duration"})]
_Positive = Annotated[int, Meta(ge=1, le=2**40 - 1)]
_Size = Annotated[
    str,
    Meta(
        pattern=r"^(imix|[0-9]{1,5}(-[0-9]{1,5})?)$",
        extra={"what": "a frame size such as 60, 60-1514 or imix, or a mix such as {60: 7, 1514: 1}"},
    ),
]
_Sizes = dict[Annotated[str, Meta(pattern="^[0-9]{1,5}$", extra={"what": "a frame size in bytes"})], _Positive]
_Rate = Annotated[
    str,
    Meta(
        pattern=r"^(max|[0-9]{1,15}(\.[0-9]{1,9})?[kmgKMG]?(pps|[bB]it))$",
        extra={"what": "a rate such as 100kpps, 10mbit or max"},
    ),
]
_Source = Annotated[
    str, Meta(pattern=f"^{MAC_PATTERN}$", extra={"what": "a MAC address or a pattern such as 02:00:00:00:00:{00-ff}"})
]
_Numbers = Annotated[
    str,
    Meta(pattern=r"^([0-9]{1,5}|\{[0-9]{1,5}-[0-9]{1,5}\})$", extra={"what": "a number or a range such as {10-20}"}),
]
_Class = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        extra={"what": "a class, as MODULE:CLASS, its module beside the lab file or installed"},
    ),
]

MAX_BURST = 65536
_FRAME_KEYS = {"dst", "src", "vlan", "dst_ip", "src_ip", "dst_port", "src_port", "size"}
_PACED_KEYS = {"rate", "start"}
# The settings of each role; a role key's own name (`replay`, `python`) is not repeated.
ROLES: dict[str, frozenset[str]] = {
    "pktgen": frozenset(_FRAME_KEYS | _PACED_KEYS | {"count", "duration", "burst"}),
    "sink": frozenset(),
    "echo": frozenset({"promiscuous"}),
    "host": frozenset({"gateway", "vlan"}),
    "replay": frozenset(_PACED_KEYS | {"speed", "loop"}),
    "python": frozenset({"options"}),
}
_ROLE_KEYS = ("role", "replay", "python")


def is_mac(text: str) -> bool:
    """Whether `text` is a MAC address or a pattern of them, and not the name of a node."""
    return re.fullmatch(MAC_PATTERN, text) is not None


def is_address(text: str) -> bool:
    """Whether `text` means IP addresses, rightly written or not, and not a node or NODE:INTERFACE."""
    return "{" in text or text.count(":") > 1 or re.fullmatch(r"[0-9.]+", text) is not None


class EmulatedSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an emulated node. It has one of `role`, `replay` (a capture file) and `python` (MODULE:CLASS).

    For a `pktgen`: `dst` is a node (its interface that this one reaches), NODE:INTERFACE, a MAC address or a pattern;
    `dst_ip`, `src_ip` (addresses, patterns or nodes) make UDP packets; `size` is a frame's, in bytes without its
    checksum; `rate` is frames or bits per second, as fast as possible without; `count` and `duration` end it; `burst`
    frames go out together; `start: manual` waits for `lab exec NODE -- start`. For `replay`: `rate` or `speed` (2 is
    twice as fast) instead of the recorded times, `loop` for ever or so many times. An `echo` node answers what is
    addressed to it, `promiscuous` everything. A `host` answers pings. `options` reach the class of a `python` node.
    """

    role: Literal["pktgen", "sink", "echo", "host"] | None = None
    replay: _Path | None = None
    python: _Class | None = None
    dst: str | None = None
    src: _Source | None = None
    vlan: _Numbers | None = None
    dst_ip: str | None = None
    src_ip: str | None = None
    dst_port: _Numbers | None = None
    src_port: _Numbers | None = None
    size: _Size | _Sizes | None = None
    rate: _Rate | None = None
    count: _Positive | None = None
    duration: _Duration | None = None
    burst: Annotated[int, Meta(ge=1, le=MAX_BURST)] | None = None
    start: Literal["auto", "manual"] | None = None
    speed: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    loop: bool | _Positive | None = None
    promiscuous: bool | None = None
    gateway: str | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        said = [key for key in _ROLE_KEYS if getattr(self, key) is not None]
        if len(said) > 1:
            raise ValueError(f"{' and '.join(map(repr, said))} each make it another node; it is one of them")
        if not said:
            raise ValueError("needs one of 'role' (pktgen, sink, echo, host), 'replay' and 'python'")
        for key in self.__struct_fields__:
            if key not in _ROLE_KEYS and getattr(self, key) is not None and key not in ROLES[self.does]:
                raise ValueError(self._foreign(key))
        if self.rate is not None:
            patterns.rate(self.rate)  # "0pps" is refused here
        if self.speed is not None and self.rate is not None:
            raise ValueError("'speed' and 'rate' are two ways to say how fast; write one")
        if self.vlan is not None:
            vlans = patterns.numbers(self.vlan, 1, 4094)
            if self.does == "host" and len(vlans) > 1:
                raise ValueError("a host is in one 'vlan', not a range of them")
        if self.does == "pktgen":
            self._check_frames()

    def mistakes(self, node: Node, lab: Lab) -> list[tuple[Path, str]]:
        """What is wrong with these settings of `node`, as part of `lab`."""
        from .frames import check
        from .targets import resolve

        try:
            spec = resolve(self, node, lab)
            if self.does == "pktgen":
                check(spec)
        except ValueError as error:
            return [((), str(error))]
        return []

    @property
    def does(self) -> str:
        """The role: "pktgen", "sink", "echo", "host", "replay", "python", or "" when none was given."""
        return "replay" if self.replay is not None else "python" if self.python is not None else self.role or ""

    @property
    def version(self) -> int | None:
        """The IP version of a generator's packets as far as written addresses tell, None without any."""
        written = [text for text in (self.src_ip, self.dst_ip) if text is not None and is_address(text)]
        return patterns.addresses(written[0])[0].version if written else None

    def _foreign(self, key: str) -> str:
        owners = [role for role, keys in ROLES.items() if key in keys]
        own = sorted(ROLES[self.does])
        near = difflib.get_close_matches(key, own, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        takes = f"takes {', '.join(own)}" if own else "has no settings"
        return f"{key!r} is a setting of {' and '.join(owners)}; {self.does} {takes}{hint}"

    def _check_frames(self) -> None:
        if (self.dst_port or self.src_port) is not None and self.dst_ip is None and self.src_ip is None:
            raise ValueError("'dst_port' and 'src_port' want UDP packets: write 'dst_ip', too")
        for ports in (self.dst_port, self.src_port):
            if ports is not None:
                patterns.numbers(ports, 0, 65535)
        for macs in (self.src, self.dst):
            if macs is not None and is_mac(macs):
                patterns.macs(macs)
        smallest = min(patterns.sizes(self.size if self.size is not None else str(patterns.MIN_FRAME)))
        version = self.version
        room = probe.room(tagged=self.vlan is not None, version=version)
        if smallest < room:
            parts = ["Ethernet", *(["a VLAN tag"] if self.vlan else []), *([f"IPv{version}", "UDP"] if version else [])]
            raise ValueError(
                f"size {smallest} is too small: {', '.join(parts)} and the {probe.SIZE} bytes that measure need {room}"
                f"; write size: {max(room, 64)}"
            )
