"""Driver `qemu`: a virtual machine under QEMU, driven over inherited sockets only.

QEMU gets one end each of socket pairs for its monitor (QMP), its serial console, the agent in the guest and every
network interface, so a machine has no names, ports or paths that could collide with another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec
from msgspec import Struct

from ..coordinator.supervise import Child, describe_exit, spawn_task
from ..errors import AgentError, MachineError, NodeError
from ..model.lab import Interface, Node, Transport
from ..model.problems import suggestion
from ..ports.bus import Bus
from .accel import Verdict, probe_kvm
from .agent import AgentChannel, agent_program
from .driver import ExecRequest, ExecSession, Exit, FabricEnd, NodeContext
from .guest import LAST_WORDS_GRACE, GuestDriver
from .image import built_image, default_image
from .process_output import LoggedOutput
from .qemu_command import (
    Attachment,
    Boot,
    Channels,
    QemuSpec,
    ReadyConsole,
    command_line,
    default_binary,
)
from .qemu_guest import CONFIGURED, configuration_script
from .qemu_nic import nic_model
from .qemu_transport import TRANSPORTS, QemuPlug, open_cable, plug_bus, plug_stream

if TYPE_CHECKING:
    from qemu.qmp import EventListener, QMPClient

__all__ = ["QemuDriver", "default_binary", "version"]

_OLDEST = (7, 2)  # the first with -netdev stream
_NO_CARDS = ("pvrdma", "rocker")  # listed with the network cards, but nothing one plugs a cable into
_QUIT_GRACE = 1.0  # s
_MAX_SAID = 4096  # bytes kept of what the configuration script says
_LINK_LIMIT = 10.0  # s

_SHUTDOWN_WORDS = {
    "guest-shutdown": "the guest powered off",
    "guest-reset": "the guest rebooted, or its kernel panicked",
    "guest-panic": "the guest's kernel panicked",
    "host-signal": "QEMU was told to end by a signal",
    "host-qmp-quit": "QEMU was told to quit over its monitor",
    "host-error": "QEMU ended on an error",
}


@functools.cache
def version(binary: str) -> str:
    """QEMU's version, "7.2.22". Raises MachineError when there is no such program or it does not say."""
    try:
        said = subprocess.run([binary, "-version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{binary} does not run: {error}") from None
    found = re.search(r"version (\d+(?:\.\d+)+)", said)
    if found is None:
        raise MachineError(f"{binary} does not say its version")
    return found[1]


@functools.cache
def nic_models(binary: str) -> tuple[str, ...]:
    """Names of the PCI NICs this QEMU has."""
    listing = subprocess.run(
        [binary, "-device", "help"], capture_output=True, text=True, timeout=10, check=False
    ).stdout
    section = listing.partition("Network devices:")[2].partition("\n\n")[0]
    found = re.findall(r'^name "([^"]+)", bus PCI', section, re.MULTILINE)
    return tuple(name for name in found if name not in _NO_CARDS)


class QemuDriver(GuestDriver):
    """One QEMU machine."""

    name: ClassVar[str] = "qemu"
    Spec: ClassVar[type[Struct]] = QemuSpec
    takes_stream: ClassVar[bool] = True
    takes_bus: ClassVar[bool] = True
    interface_keys: ClassVar[frozenset[str]] = frozenset({"transport", "model", "addr", "queues", "vectors"})
    transports: ClassVar[tuple[Transport, ...]] = TRANSPORTS

    def __init__(self, node: Node, context: NodeContext) -> None:
        super().__init__(node, context, context.console_output)
        self._spec = msgspec.convert(node.settings, QemuSpec)
        self._binary = self._spec.qemu or default_binary()
        self._plugs: dict[str, QemuPlug] = {}
        self._loose: set[str] = set()
        self._dark: set[str] = set()
        """Interfaces that are to have no carrier."""
        self._plugged = False
        """Whether the others have been given theirs."""
        self._messages = LoggedOutput(context.run_dir / "qemu.log")
        self._qmp: QMPClient | None = None
        self._shutdown: EventListener | None = None
        self._accel = ""
        self._kvm: Verdict | None = None

    @classmethod
    def check(cls, node: Node) -> list[str]:
        """Say what is missing here for `node`: QEMU, its version, a NIC model, the image."""
        spec = msgspec.convert(node.settings, QemuSpec)
        binary = spec.qemu or default_binary()
        if shutil.which(binary) is None:
            package = "qemu-system-arm" if "aarch64" in binary else "qemu-system-x86"
            return [f"there is no {binary} on the PATH; run: apt-get install {package} (as root)"]
        missing = []
        try:
            if tuple(map(int, version(binary).split(".")[:2])) < _OLDEST:
                missing.append(f"{binary} is version {version(binary)}, but 7.2 or newer is needed")
        except MachineError as error:
            missing.append(str(error))
        if spec.disk is not None and shutil.which("qemu-img") is None:
            missing.append("there is no qemu-img on the PATH; run: apt-get install qemu-utils (as root)")
        if spec.built_in and built_image() is None:
            missing.append("the guest image is not built yet; run: lab image build")
        for interface in node.interfaces:
            if interface.model is not None and nic_model(interface) not in nic_models(binary):
                known = suggestion(interface.model, nic_models(binary))
                missing.append(f"{binary} has no PCI NIC {interface.model!r} for {interface.name}{known}")
        return missing

    # --- interfaces -------------------------------------------------------------------------------------------------

    async def open_port(self, interface: Interface) -> FabricEnd:
        """Make a cable of the interface's transport, keep QEMU's end."""
        try:
            self._plugs[interface.name], end = await open_cable(interface, self.context)
        except NodeError as error:
            raise NodeError(f"node {self.node.name}: {error}") from None
        return end

    async def join_socket(self, interface: Interface, sock: socket.socket) -> None:
        """Give QEMU `sock`."""
        self._plugs[interface.name] = plug_stream(sock)

    async def join_bus(self, interface: Interface, bus: Bus) -> None:
        """Have QEMU join the bus itself."""
        self._plugs[interface.name] = plug_bus(bus)

    async def set_carrier(self, interface: Interface, up: bool) -> None:
        """Tell QEMU, and so the guest's driver, or remember it until the cables are plugged in."""
        (self._dark.discard if up else self._dark.add)(interface.name)
        if self._plugged:
            await self._set_link(interface, up)

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Boot the machine; return once its agent has configured it, or without an agent once it counts as ready."""
        if self._child is not None or self._stopping:
            raise NodeError(f"node {self.node.name} was started before")
        self._accel = await self._choose_accelerator()
        boot = await self._what_to_boot()
        self._agent = AgentChannel() if self._spec.has_agent else None
        pattern = self._spec.ready.console if isinstance(self._spec.ready, ReadyConsole) else None
        shown = self._console.expect(pattern) if pattern is not None else None
        monitor = await self._spawn(boot)
        await self._or_death(self._connect_monitor(monitor))
        if self._agent is not None:
            await self._or_death(self._configure(self._agent))
        elif shown is not None:
            await self._or_death(shown)

    async def _choose_accelerator(self) -> str:
        if self._spec.accel == "tcg":
            return "tcg"
        self._kvm = await asyncio.get_running_loop().run_in_executor(None, probe_kvm, self._binary)
        if self._kvm.works:
            return "kvm"
        if self._spec.accel == "kvm":
            raise NodeError(f"KVM does not work here: {self._kvm.reason}; use accel: auto")
        return "tcg"

    async def _what_to_boot(self) -> Boot:
        kernel, initrd, disk = self._spec.kernel, self._spec.initrd, None
        if self._spec.built_in:
            image = default_image()
            kernel, initrd = os.fspath(image.kernel), initrd or os.fspath(image.initrd)
        if self._spec.disk is not None:
            disk = await self._make_overlay(Path(self._spec.disk))
        return Boot(kernel, initrd, disk)

    async def _make_overlay(self, disk: Path) -> str:
        """Create an empty image over `disk` that takes all writes."""
        overlay = self.context.run_dir / "disk.qcow2"
        argv = _overlay_command(disk, overlay)
        log = self.context.run_dir / "qemu-img.log"
        with log.open("wb") as output:
            code = await Child.spawn(argv, run_id=self.context.run_id, output=output).wait()
        if code != 0:
            raise NodeError(f"no overlay over {disk}: {log.read_text(errors='replace').strip()}")
        return os.fspath(overlay)

    async def _spawn(self, boot: Boot) -> socket.socket:
        """Start QEMU with its ends of everything; return our end of its monitor."""
        pairs = {name: socket.socketpair() for name in ("console", "monitor", "agent")}
        theirs = {name: pair[1] for name, pair in pairs.items()}
        errors_read, errors_write = os.pipe()
        try:
            attachments = [self._attachment(interface) for interface in self.node.interfaces]
            channels = Channels(
                theirs["console"].fileno(),
                theirs["monitor"].fileno(),
                theirs["agent"].fileno() if self._agent is not None else None,
            )
            argv = command_line(self._spec, boot, self._accel, attachments, channels)
            self._child = Child.spawn(
                # So that QEMU dies with us, whatever kills us.
                [agent_program(), "--die-with", str(os.getpid()), self._binary, *argv],
                run_id=self.context.run_id,
                pass_fds=[
                    *(sock.fileno() for sock in theirs.values()),
                    *(fd for plug in self._plugs.values() for fd in plug.fds),
                ],
                output=errors_write,
            )
        except OSError as error:
            raise NodeError(f"starting {self._binary}: {error}") from error
        finally:
            os.close(errors_write)
            for sock in theirs.values():
                sock.close()
            for plug in self._plugs.values():
                plug.close()
            if self._child is None:
                os.close(errors_read)
                for ours, _ in pairs.values():
                    ours.close()
        self._watcher = spawn_task(self._watch(self._child), name=f"watch {self.node.name}")
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: self._messages, os.fdopen(errors_read, "rb", 0))
        console = pairs["console"][0]
        console.setblocking(False)
        await loop.create_unix_connection(lambda: self._console, sock=console)
        if self._agent is not None:
            await self._agent.open(pairs["agent"][0])
        else:
            pairs["agent"][0].close()
        return pairs["monitor"][0]

    @property
    def _cabled(self) -> list[Interface]:
        """The interfaces that are linked to something."""
        return [interface for interface in self.node.interfaces if interface.name not in self._loose]

    def _attachment(self, interface: Interface) -> Attachment:
        if interface.name not in self._plugs:
            # Not linked to anything: a cable into nowhere.
            self._loose.add(interface.name)
            end, nowhere = socket.socketpair()
            nowhere.close()
            self._plugs[interface.name] = plug_stream(end)
        return Attachment(interface, self._plugs[interface.name].netdev)

    async def _connect_monitor(self, sock: socket.socket) -> None:
        from qemu.qmp import EventListener, QMPClient, QMPError

        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it logs what it raises
        client = QMPClient(self.node.name)
        self._shutdown = EventListener(("SHUTDOWN",))
        client.register_listener(self._shutdown)
        sock.setblocking(False)
        try:
            await client.connect(sock)
        except QMPError as error:
            raise NodeError(f"QEMU's monitor does not answer: {error}") from error
        self._qmp = client
        # With an agent the cables stay out until the guest is configured, see configuration_script().
        self._plugged = self._agent is None
        if self._dark or not self._plugged:
            await self._set_cables()

    async def _configure(self, agent: AgentChannel) -> None:
        await self._greeted(agent)
        lit = [interface.name for interface in self._cabled if interface.name not in self._dark]
        script = configuration_script(self.node.name, self.context.hosts, self.node.interfaces, lit)
        session = await agent.exec(ExecRequest(argv=("sh", "-s")))
        said = {"stdout": b"", "stderr": b""}
        feeding = asyncio.ensure_future(_feed(session, script.encode()))
        try:
            async for event in session:
                if isinstance(event, Exit):
                    if event.code != 0:
                        errors = said["stderr"].decode(errors="replace").strip()[-500:] or "it said nothing"
                        raise NodeError(f"configuring the guest failed with exit code {event.code}: {errors}")
                    return
                unplugged = CONFIGURED not in said["stdout"]
                said[event.stream] = (said[event.stream] + event.data)[-_MAX_SAID:]
                if unplugged and CONFIGURED in said["stdout"]:
                    self._plugged = True
                    await self._set_cables()
        finally:
            feeding.cancel()
            await session.close()

    async def _set_cables(self) -> None:
        """Give the cards what they are to have now; to start with they have a carrier."""
        for interface in self._cabled:
            await self._set_link(interface, self._plugged and interface.name not in self._dark)

    async def _set_link(self, interface: Interface, up: bool) -> None:
        from qemu.qmp import QMPError

        assert self._qmp is not None
        number = self.node.interfaces.index(interface)
        try:
            async with asyncio.timeout(_LINK_LIMIT):
                # Its answer, should it come later, is still to be taken.
                await asyncio.shield(spawn_task(self._qmp.execute("set_link", {"name": f"nic{number}", "up": up})))
        except TimeoutError:
            raise NodeError(f"QEMU did not set the link of {interface.name} within {_LINK_LIMIT:g} s") from None
        except (QMPError, EOFError, OSError) as error:
            raise NodeError(f"QEMU did not set the link of {interface.name}: {error}") from error

    # --- end --------------------------------------------------------------------------------------------------------

    async def _watch(self, child: Child) -> None:
        code = await child.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_GRACE):
                await self._messages.ended.wait()
        self._reason = self._describe_end(code, await self._shutdown_reasons())
        if not self._stopping:
            self.context.exited(self._reason)

    async def _shutdown_reasons(self) -> list[str]:
        """Let the monitor's connection end and return why QEMU shut down, as far as it said."""
        from qemu.qmp import QMPError

        if self._qmp is None or self._shutdown is None:
            return []
        with contextlib.suppress(QMPError, EOFError, OSError, TimeoutError):
            async with asyncio.timeout(LAST_WORDS_GRACE):
                await self._qmp.disconnect()
        reasons = []
        while not self._shutdown.empty():
            event = await self._shutdown.get()
            data = event.get("data")
            if isinstance(data, dict):
                reasons.append(str(data.get("reason", "")))
        return reasons

    def _describe_end(self, code: int, shutdown: list[str]) -> str:
        words = [_SHUTDOWN_WORDS.get(reason, reason) for reason in shutdown[-1:]]
        if code != 0 or not words:
            words.append(f"QEMU: {describe_exit(code)}")
        if code != 0 and self._messages.last_line:
            words.append(self._messages.last_line)
        return "; ".join(words)

    async def stop(self) -> None:
        """End QEMU: politely if it answers at once, else by force."""
        self._stopping = True
        if self._child is not None and self._child.returncode is None:
            await self._quit()
            self._child.kill()
            await self._child.wait()
        for plug in self._plugs.values():
            await plug.remove()
        if self._watcher is not None:
            await asyncio.wait({self._watcher})
        if self._agent is not None:
            await self._agent.close()
        self._console.close()
        self._messages.close()

    async def _quit(self) -> None:
        from qemu.qmp import QMPError

        if self._qmp is None or self._child is None:
            return
        with contextlib.suppress(QMPError, EOFError, OSError, TimeoutError):
            async with asyncio.timeout(_QUIT_GRACE):
                await self._qmp.execute("quit")
                await self._child.wait()

    # --- use --------------------------------------------------------------------------------------------------------

    async def exec(self, request: ExecRequest) -> ExecSession:
        """Start a command in the guest through its agent."""
        if self._agent is None:
            raise AgentError(f"node {self.node.name} has no agent to run commands; use: lab console {self.node.name}")
        return await self._agent.exec(request)

    def facts(self) -> dict[str, str]:
        """The accelerator, and why it is not KVM where that was tried."""
        if not self._accel:
            return {}
        facts = {"accel": self._accel}
        if self._kvm is not None and not self._kvm.works:
            facts["kvm"] = self._kvm.reason
        return facts


async def _feed(session: ExecSession, data: bytes) -> None:
    await session.write(data)
    await session.write(b"")


def _overlay_command(disk: Path, overlay: Path) -> list[str]:
    """The format below is never left to QEMU to guess: the guest of a raw disk could make it look like another one."""
    try:
        with disk.open("rb") as file:
            kind = "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
    except OSError as error:
        raise NodeError(f"disk {disk}: {error.strerror}") from None
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", str(disk.absolute()), str(overlay)]
