"""From a QEMU node's settings to QEMU's command line. No I/O here.

The command line is what `qemu-system-*` 7.2 and later take. Devices get fixed PCI addresses, NICs in the order of the
lab file, so a guest that numbers its interfaces by bus position numbers them in that order.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from ..model.lab import Interface, Lab, Node, Transport
from ..model.tree import Path
from .qemu_nic import nic_devices, nic_mistakes

AGENT_PORT = "org.vswitch.agent"

_Path = Annotated[str, Meta(extra={"path": True})]
_MEMORY = re.compile(r"[1-9][0-9]*[KMGT]?")


class ReadyConsole(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ready when the console shows a match of this regular expression (Python's, within the last 4 KiB)."""

    console: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.console)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None


class QemuSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a QEMU machine. Without `kernel` and `disk` it boots the built-in image.

    `memory` takes QEMU's suffixes, M by default. `disk` is never written to: the machine works on a throw-away overlay.
    `append` goes after our kernel command line. `agent` says whether the guest runs our agent (default: only the
    built-in image does); without one, `ready` says when it counts as ready (default: as soon as it is started).
    `transport` is that of interfaces that do not say otherwise. `args` are handed to QEMU as they are.
    """

    memory: Annotated[str, Meta(pattern=f"^{_MEMORY.pattern}$", extra={"what": "a size such as 96M or 1G"})] = "96M"
    cpus: Annotated[int, Meta(ge=1, le=255)] = 1
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    machine: str | None = None
    cpu: str | None = None
    kernel: _Path | None = None
    initrd: _Path | None = None
    append: str = ""
    disk: _Path | None = None
    agent: bool | None = None
    ready: Literal["started"] | ReadyConsole | None = None
    qemu: str | None = None
    transport: Transport = "auto"
    args: tuple[str, ...] = ()

    @property
    def built_in(self) -> bool:
        """Whether it boots the built-in image's kernel."""
        return self.kernel is None and self.disk is None

    @property
    def has_agent(self) -> bool:
        """Whether the guest runs our agent."""
        return (self.built_in and self.initrd is None) if self.agent is None else self.agent

    def mistakes(self, node: Node, lab: Lab) -> list[tuple[Path, str]]:
        """What is wrong with the interfaces of `node`, each for itself and together."""
        reserved = {0: "the host bridge"}
        reserved |= {1: "the agent's serial port"} if self.has_agent else {}
        reserved |= {2: "the disk"} if self.disk is not None else {}
        reserved |= {31: "q35's LPC bridge"} if _machine(self).startswith("q35") else {}
        found = nic_mistakes(node.interfaces, reserved)
        return [(("interfaces", interface.name, key), what) for interface, key, what in found]


class Boot(NamedTuple):
    """What the machine boots: paths of files, None for what there is not. `disk` is the overlay, always qcow2."""

    kernel: str | None
    initrd: str | None
    disk: str | None


class Attachment(NamedTuple):
    """A NIC and what is at the other end of its cable: a `-netdev` argument, without an id."""

    interface: Interface
    netdev: str


class Channels(NamedTuple):
    """Descriptors of QEMU's ends of the sockets we talk to it over; `agent` None without an agent."""

    console: int
    monitor: int
    agent: int | None


def default_binary() -> str:
    """Name of the QEMU that emulates this machine's own architecture."""
    return f"qemu-system-{'aarch64' if platform.machine() == 'aarch64' else 'x86_64'}"


def command_line(
    spec: QemuSpec, boot: Boot, accel: str, attachments: Sequence[Attachment], channels: Channels
) -> list[str]:
    """QEMU's arguments, without its name. Raises NodeError for more interfaces than a PCI bus takes."""
    arm = _is_arm(spec)
    cpu = spec.cpu or ("host" if accel == "kvm" else "max")
    argv = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", _machine(spec), "-cpu", cpu]
    argv += ["-accel", "tcg,thread=multi" if accel == "tcg" else accel]
    argv += ["-smp", str(spec.cpus), "-m", spec.memory if spec.memory[-1].isalpha() else f"{spec.memory}M"]
    if boot.kernel is not None:
        argv += ["-kernel", boot.kernel, "-append", kernel_words(spec, arm=arm)]
    if boot.initrd is not None:
        argv += ["-initrd", boot.initrd]
    if boot.disk is not None:
        argv += ["-drive", f"if=none,id=disk0,format=qcow2,cache=unsafe,file={escaped(boot.disk)}"]
        first = "" if boot.kernel is not None else ",bootindex=0"
        argv += ["-device", f"virtio-blk-pci,drive=disk0,addr=0x2{first}"]
    argv += ["-chardev", f"socket,id=console,fd={channels.console}", "-serial", "chardev:console"]
    argv += ["-chardev", f"socket,id=monitor,fd={channels.monitor}", "-mon", "chardev=monitor,mode=control"]
    if channels.agent is not None:
        argv += ["-chardev", f"socket,id=agent,fd={channels.agent}", "-device", "virtio-serial-pci,addr=0x1"]
        argv += ["-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"]
    devices = nic_devices([attachment.interface for attachment in attachments])
    for number, attachment in enumerate(attachments):
        argv += ["-netdev", f"{attachment.netdev},id=net{number}", "-device", devices[number]]
    return [*argv, *spec.args]


def _is_arm(spec: QemuSpec) -> bool:
    return "aarch64" in (spec.qemu or default_binary())


def _machine(spec: QemuSpec) -> str:
    return spec.machine or ("virt" if _is_arm(spec) else "q35")


def kernel_words(spec: QemuSpec, *, arm: bool) -> str:
    """The kernel's command line. A panic ends the machine at once (with -no-reboot), which is reported."""
    words = ["console=ttyAMA0" if arm else "console=ttyS0", "panic=-1"]
    if spec.built_in:
        # What boots fastest under emulation; tsc and no_timer_check spare calibrations that can fail on a busy host.
        words += ["quiet", "nokaslr", "mitigations=off", "random.trust_cpu=on"]
        words += [] if arm else ["tsc=reliable", "no_timer_check"]
    return " ".join([*words, spec.append]).strip()


def escaped(value: str) -> str:
    """A value within QEMU's comma-separated options."""
    return value.replace(",", ",,")
