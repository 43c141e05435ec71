"""From a User-Mode Linux node's settings to its kernel's command line. No I/O here.

The words are those of Linux 6.1's arch/um. Interfaces are called vec0, eth1, ... by the kernel, after their transport
and number; the configuration script finds them by MAC address and names them as the lab file does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from ..model.lab import Interface
from .driver import Bus

AGENT_LINE = "ttyS0"
_DEPTH = 64  # frames it sends or receives with one system call

_Path = Annotated[str, Meta(extra={"path": True})]


class UmlSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a User-Mode Linux machine. It boots the built-in image's root file system.

    `kernel` is another User-Mode Linux than the `linux.uml` on the PATH; `append` goes after our kernel command line.
    """

    memory: Annotated[str, Meta(pattern="^[1-9][0-9]*[KMG]?$", extra={"what": "a size such as 64M or 1G"})] = "64M"
    kernel: _Path | None = None
    append: str = ""


class Descriptors(NamedTuple):
    """Its ends of the sockets we talk to it over."""

    console: int
    agent: int


class Attachment(NamedTuple):
    """Where an interface is plugged in: descriptor of a datagram socket, or a bus."""

    interface: Interface
    to: int | Bus


def command_line(
    spec: UmlSpec,
    initrd: Path,
    own_directory: Path,
    modules: Path,
    attachments: Sequence[Attachment],
    descriptors: Descriptors,
) -> list[str]:
    """The arguments, without the program's name. All the guest can mount of the host is what is in `modules`."""
    memory = spec.memory if spec.memory[-1].isalpha() else f"{spec.memory}M"
    words = [f"mem={memory}", f"initrd={initrd}", f"uml_dir={own_directory}/", "umid=uml", f"hostfs={modules}"]
    words += ["con=null", f"con0=fd:{descriptors.console}", "ssl=null", f"ssl0=fd:{descriptors.agent}"]
    # A panic ends the machine at once, and so does a reboot; both are reported.
    words += [f"vswitch.agent={AGENT_LINE}", "noreboot", "panic=-1", "quiet"]
    words += [_interface(number, attachment) for number, attachment in enumerate(attachments)]
    return [*words, *spec.append.split()]


def _interface(number: int, attachment: Attachment) -> str:
    interface, to = attachment
    if isinstance(to, Bus):
        return f"eth{number}=mcast,{interface.mac},{to.group},{to.port},1"
    return f"vec{number}:transport=fd,fd={to},mac={interface.mac},mtu={interface.mtu},depth={_DEPTH}"
