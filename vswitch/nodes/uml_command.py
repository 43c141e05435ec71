"""From a User-Mode Linux node's settings to its kernel's command line. No I/O here.

The words are those of Linux 6.1's arch/um. Its kernel calls interfaces (uml_transport.py) vec0, eth1, ... after their
driver and number; the configuration script finds them by MAC address and names them as the lab file does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from ..errors import NodeError
from ..model.lab import Lab, Node, Transport
from ..model.tree import Path as TreePath
from .uml_transport import OLD_MTU, TRANSPORTS

AGENT_LINE = "ttyS0"
_LONGEST = 4000  # characters; the kernel's limit is 4,095, and it adds "root=98:0 console=tty0"

_Path = Annotated[str, Meta(extra={"path": True})]


class UmlSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a User-Mode Linux machine. It boots the built-in image's root file system.

    `kernel` is another User-Mode Linux than the `linux.uml` on the PATH; `append` goes after our kernel command line.
    `transport` is that of interfaces that do not say otherwise.
    """

    memory: Annotated[str, Meta(pattern="^[1-9][0-9]*[KMG]?$", extra={"what": "a size such as 64M or 1G"})] = "64M"
    kernel: _Path | None = None
    append: str = ""
    transport: Transport = "auto"

    def mistakes(self, node: Node, lab: Lab) -> list[tuple[TreePath, str]]:
        """Report what the drivers of the interfaces do not take."""
        buses = {name for name, network in lab.networks.items() if network.type == "mcast"}
        on_bus = {link.a.interface for link in lab.links if link.a.target == node.name and link.b.target in buses}
        found: list[tuple[TreePath, str]] = []
        for interface in node.interfaces:
            place: TreePath = ("interfaces", interface.name)
            transport = interface.transport
            if transport not in TRANSPORTS:  # of the node, or its kind; the interface's own has been looked at
                known = ", ".join(TRANSPORTS)
                found.append((("transport",), f"driver uml has no transport {transport!r}; it has: {known}"))
                continue
            transport = "mcast" if transport == "auto" and interface.name in on_bus else transport
            if transport in ("mcast", "vde") and interface.mtu > OLD_MTU:
                what = f"{interface.mtu} is more than User-Mode Linux takes on transport {transport}: {OLD_MTU}"
                found.append(((*place, "mtu"), what))
        return found


class Descriptors(NamedTuple):
    """Its ends of the sockets we talk to it over."""

    console: int
    agent: int


def command_line(
    spec: UmlSpec,
    initrd: Path,
    own_directory: Path,
    modules: Path,
    interfaces: Sequence[str],
    descriptors: Descriptors,
) -> list[str]:
    """The arguments, without the program's name. All the guest can mount of the host is what is in `modules`.

    `interfaces` are the words that make them. Raises NodeError for more of all this than the kernel takes.
    """
    memory = spec.memory if spec.memory[-1].isalpha() else f"{spec.memory}M"
    words = [f"mem={memory}", f"initrd={initrd}", f"uml_dir={own_directory}/", "umid=uml", f"hostfs={modules}"]
    words += ["con=null", f"con0=fd:{descriptors.console}", "ssl=null", f"ssl0=fd:{descriptors.agent}"]
    # A panic ends the machine at once, and so does a reboot; both are reported.
    words += [f"vswitch.agent={AGENT_LINE}", "noreboot", "panic=-1", "quiet"]
    words += [*interfaces, *spec.append.split()]
    length = len(" ".join(words))
    if length > _LONGEST:
        raise NodeError(
            f"its kernel's command line would have {length} characters; User-Mode Linux takes {_LONGEST}. "
            "Each interface needs some; give it fewer"
        )
    return words
