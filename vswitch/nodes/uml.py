"""Driver `uml`: a real Linux kernel as a process of yours, User-Mode Linux; it boots in about a second, without KVM.

Like a QEMU machine it is driven over inherited sockets only: its console, its agent's serial line and each interface
are socket pairs. It runs contained (see agent_contain.c), because it leaves processes behind when it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
from msgspec import Struct

from ..coordinator.supervise import Child, describe_exit, spawn_task
from ..errors import AgentError, NodeError
from ..model.lab import Interface, Node, Transport
from ..ports.bus import Bus
from .agent import AgentChannel, agent_program
from .driver import ExecRequest, ExecSession, FabricEnd, NodeContext, run_to_end
from .guest import LAST_WORDS_GRACE, GuestDriver
from .image import built_image, default_image
from .process_output import LoggedOutput
from .qemu_guest import configuration_script
from .uml_command import Descriptors, UmlSpec, command_line
from .uml_transport import TRANSPORTS, UmlPlug, open_cable, plug_bus

_PROGRAM = "linux.uml"
_MODULES = Path("/usr/lib/uml/modules")
_STOP_GRACE = 5.0  # s; its processes take milliseconds to be killed
_TAIL = 4096  # bytes of console output in which the cause of its end is looked for
_IPV6 = "modprobe -q ipv6 || :\n"

_ENDS = (
    (re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)"), "the guest's kernel panicked"),
    (re.compile(rb"reboot: (?:Power down|System halted)"), "the guest powered off"),
    (re.compile(rb"reboot: Restarting system"), "the guest rebooted"),
)


class UmlDriver(GuestDriver):
    """One User-Mode Linux machine."""

    name: ClassVar[str] = "uml"
    Spec: ClassVar[type[Struct]] = UmlSpec
    takes_bus: ClassVar[bool] = True
    interface_keys: ClassVar[frozenset[str]] = frozenset({"transport"})
    transports: ClassVar[tuple[Transport, ...]] = TRANSPORTS

    def __init__(self, node: Node, context: NodeContext) -> None:
        super().__init__(node, context, self._print)
        self._spec = msgspec.convert(node.settings, UmlSpec)
        self._program = self._spec.kernel or _PROGRAM
        self._plugs: dict[str, UmlPlug] = {}
        self._printed = b""
        self._messages = LoggedOutput(context.run_dir / "uml.log")

    @classmethod
    def check(cls, node: Node) -> list[str]:
        """Say what is missing here for `node`: User-Mode Linux, the image."""
        spec = msgspec.convert(node.settings, UmlSpec)
        if platform.machine() != "x86_64":
            return [f"User-Mode Linux runs on x86-64 only, not on {platform.machine()}; use driver: qemu"]
        missing = []
        if spec.kernel is None and shutil.which(_PROGRAM) is None:
            missing.append(f"there is no {_PROGRAM} on the PATH; run: apt-get install user-mode-linux (as root)")
        elif spec.kernel is not None and not os.access(spec.kernel, os.X_OK):
            missing.append(f"kernel: {spec.kernel} is no program that can be run")
        if built_image() is None:
            missing.append("the guest image is not built yet; run: lab image build")
        return missing

    # --- interfaces -------------------------------------------------------------------------------------------------

    async def open_port(self, interface: Interface) -> FabricEnd:
        """Make a cable of the interface's transport, keep the guest's end."""
        self._plugs[interface.name], end = await open_cable(interface, self.context)
        return end

    async def join_bus(self, interface: Interface, bus: Bus) -> None:
        """Have the guest's kernel join the bus itself."""
        self._plugs[interface.name] = await plug_bus(interface, bus)

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Boot the machine; return once its agent has configured it."""
        if self._child is not None or self._stopping:
            raise NodeError(f"node {self.node.name} was started before")
        self._agent = AgentChannel(line=True)
        await self._spawn(self._agent)
        await self._or_death(self._configure(self._agent))

    async def _spawn(self, agent: AgentChannel) -> None:
        own = self.context.run_dir / "uml"
        own.mkdir(exist_ok=True)
        console, their_console = socket.socketpair()
        line, their_line = socket.socketpair()
        messages, their_messages = os.pipe()
        cables = [fd for plug in self._plugs.values() for fd in plug.fds]
        try:
            argv = command_line(
                self._spec,
                default_image().uml_initrd,
                own,
                _host_modules(own),
                [self._plugs[interface.name].word(number) for number, interface in enumerate(self._plugged)],
                Descriptors(their_console.fileno(), their_line.fileno()),
            )
            self._child = Child.spawn(
                [agent_program(), "--contain", str(os.getpid()), own, self._program, *argv],
                run_id=self.context.run_id,
                pass_fds=[their_console.fileno(), their_line.fileno(), *cables],
                env=_environment(own, cables),
                output=their_messages,
            )
        except OSError as error:
            raise NodeError(f"starting {self._program}: {error}") from error
        finally:
            os.close(their_messages)
            their_console.close()
            their_line.close()
            for plug in self._plugs.values():
                plug.close()
            if self._child is None:
                os.close(messages)
                console.close()
                line.close()
        self._watcher = spawn_task(self._watch(self._child), name=f"watch {self.node.name}")
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: self._messages, os.fdopen(messages, "rb", 0))
        console.setblocking(False)
        await loop.create_unix_connection(lambda: self._console, sock=console)
        await agent.open(line)

    @property
    def _plugged(self) -> list[Interface]:
        """The interfaces that are linked to something; User-Mode Linux has no others."""
        return [interface for interface in self.node.interfaces if interface.name in self._plugs]

    async def _configure(self, agent: AgentChannel) -> None:
        await self._greeted(agent)
        script = _IPV6 + configuration_script(self.node.name, self.context.hosts, self._plugged)
        code, _, errors = await run_to_end(agent.exec(ExecRequest(argv=("sh", "-s"))), stdin=script.encode())
        if code != 0:
            said = errors.decode(errors="replace").strip()[-500:] or "it said nothing"
            raise NodeError(f"configuring the guest failed with exit code {code}: {said}")

    def _print(self, data: bytes) -> None:
        self._printed = (self._printed + data)[-_TAIL:]
        self.context.console_output(data)

    # --- end --------------------------------------------------------------------------------------------------------

    async def _watch(self, child: Child) -> None:
        code = await child.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_GRACE):
                await self._messages.ended.wait()
                await self._console.ended.wait()
        self._reason = self._describe_end(code)
        if not self._stopping:
            self.context.exited(self._reason)

    def _describe_end(self, code: int) -> str:
        for pattern, words in _ENDS:
            found = pattern.search(self._printed)
            if found is not None:
                return f"{words}: {found[1].decode(errors='replace')}" if found.groups() else words
        code = 128 - code if code > 128 else code  # as our waiting process tells of a signal
        words = f"User-Mode Linux: {describe_exit(code)}"
        return f"{words}; {self._messages.last_line}" if self._messages.last_line else words

    async def stop(self) -> None:
        """End the machine and all its processes."""
        self._stopping = True
        for plug in self._plugs.values():
            plug.close()
        if self._child is not None and self._child.returncode is None:
            self._child.kill(signal.SIGTERM)
            await self._child.wait_or_kill(_STOP_GRACE)
        if self._watcher is not None:
            await asyncio.wait({self._watcher})
        for plug in self._plugs.values():
            await plug.remove()
        self._plugs.clear()
        if self._agent is not None:
            await self._agent.close()
        self._console.close()
        self._messages.close()

    # --- use --------------------------------------------------------------------------------------------------------

    async def exec(self, request: ExecRequest) -> ExecSession:
        """Start a command in the guest through its agent."""
        if self._agent is None:
            raise AgentError(f"node {self.node.name} has not been started yet")
        return await self._agent.exec(request)


def _host_modules(otherwise: Path) -> Path:
    """Where the modules of the distribution's User-Mode Linux are; without them, an empty directory."""
    return _MODULES if _MODULES.is_dir() else otherwise


def _environment(own: Path, cables: Sequence[int]) -> dict[str, str]:
    preload = [str(agent_program().parents[1] / "lib" / "libvswitch_uml.so"), os.environ.get("LD_PRELOAD", "")]
    return {
        **os.environ,
        "TMPDIR": str(own),  # where it keeps the guest's memory
        "LD_PRELOAD": ":".join(filter(None, preload)),
        "VSWITCH_KEEP_FDS": " ".join(map(str, cables)),
    }
