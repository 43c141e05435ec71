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

from ..errors import NodeError
from ..model.lab import Interface
from .driver import Bus

AGENT_PORT = "org.vswitch.agent"

_Path = Annotated[str, Meta(extra={"path": True})]
_NIC_SLOT = 3  # 0 is the host bridge, 1 the agent's serial port, 2 the disk
_LAST_SLOT = 30  # 31 is q35's LPC bridge
_FUNCTIONS = 8
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
    `args` are handed to QEMU as they are.
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
    args: tuple[str, ...] = ()

    @property
    def built_in(self) -> bool:
        """Whether it boots the built-in image's kernel."""
        return self.kernel is None and self.disk is None

    @property
    def has_agent(self) -> bool:
        """Whether the guest runs our agent."""
        return (self.built_in and self.initrd is None) if self.agent is None else self.agent


class Boot(NamedTuple):
    """What the machine boots: paths of files, None for what there is not. `disk` is the overlay, always qcow2."""

    kernel: str | None
    initrd: str | None
    disk: str | None


class Attachment(NamedTuple):
    """Where a NIC is plugged in: descriptor of a stream socket, or a bus."""

    interface: Interface
    to: int | Bus


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
    arm = "aarch64" in (spec.qemu or default_binary())
    machine = spec.machine or ("virt" if arm else "q35")
    cpu = spec.cpu or ("host" if accel == "kvm" else "max")
    argv = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", machine, "-cpu", cpu]
    argv += ["-accel", "tcg,thread=multi" if accel == "tcg" else accel]
    argv += ["-smp", str(spec.cpus), "-m", spec.memory if spec.memory[-1].isalpha() else f"{spec.memory}M"]
    if boot.kernel is not None:
        argv += ["-kernel", boot.kernel, "-append", kernel_words(spec, arm=arm)]
    if boot.initrd is not None:
        argv += ["-initrd", boot.initrd]
    if boot.disk is not None:
        argv += ["-drive", f"if=none,id=disk0,format=qcow2,cache=unsafe,file={_escaped(boot.disk)}"]
        first = "" if boot.kernel is not None else ",bootindex=0"
        argv += ["-device", f"virtio-blk-pci,drive=disk0,addr=0x2{first}"]
    argv += ["-chardev", f"socket,id=console,fd={channels.console}", "-serial", "chardev:console"]
    argv += ["-chardev", f"socket,id=monitor,fd={channels.monitor}", "-mon", "chardev=monitor,mode=control"]
    if channels.agent is not None:
        argv += ["-chardev", f"socket,id=agent,fd={channels.agent}", "-device", "virtio-serial-pci,addr=0x1"]
        argv += ["-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"]
    for number, attachment in enumerate(attachments):
        argv += _nic(number, len(attachments), attachment)
    return [*argv, *spec.args]


def kernel_words(spec: QemuSpec, *, arm: bool) -> str:
    """The kernel's command line. A panic ends the machine at once (with -no-reboot), which is reported."""
    words = ["console=ttyAMA0" if arm else "console=ttyS0", "panic=-1"]
    if spec.built_in:
        # What boots fastest under emulation; tsc and no_timer_check spare calibrations that can fail on a busy host.
        words += ["quiet", "nokaslr", "mitigations=off", "random.trust_cpu=on"]
        words += [] if arm else ["tsc=reliable", "no_timer_check"]
    return " ".join([*words, spec.append]).strip()


def _nic(number: int, total: int, attachment: Attachment) -> list[str]:
    interface, to = attachment
    if isinstance(to, Bus):
        netdev = f"socket,id=net{number},mcast={to.group}:{to.port},localaddr={to.localaddr}"
    else:
        netdev = f"stream,id=net{number},server=off,addr.type=fd,addr.str={to}"
    # romfile= without a value: no boot ROM, which would take time before the guest starts.
    device = f"{nic_model(interface)},netdev=net{number},id=nic{number},mac={interface.mac},romfile="
    return ["-netdev", netdev, "-device", f"{device},{_nic_address(number, total)}"]


def nic_model(interface: Interface) -> str:
    """The QEMU device behind an interface."""
    return "virtio-net-pci" if interface.model in (None, "virtio") else str(interface.model)


def _nic_address(number: int, total: int) -> str:
    slots = _LAST_SLOT - _NIC_SLOT + 1
    if total <= slots:
        return f"addr={_NIC_SLOT + number:#x}"
    if total > slots * _FUNCTIONS:
        raise NodeError(f"a machine takes {slots * _FUNCTIONS} interfaces at most, not {total}")
    slot, function = divmod(number, _FUNCTIONS)
    return f"addr={_NIC_SLOT + slot:#x}.{function},multifunction=on"


def _escaped(value: str) -> str:
    """A value within QEMU's comma-separated options."""
    return value.replace(",", ",,")
