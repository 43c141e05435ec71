"""What a node driver is: the contract between the coordinator and a kind of machine.

A driver is one file in this package holding a settings struct and a `Driver` subclass; `load_drivers()` imports them
all and each registers itself. The coordinator calls, in this order:

    prepare()                       make what interfaces need (a namespace); cheap, no guest yet
    open_port() / join_bus() / join_socket()     once per interface, through whichever the link asks for
    set_carrier()                   whenever an interface's peer comes or goes
    start()                         launch, configure, return when the node answers ("ready")
    exec(), console(), ...          any number of times
    stop()                          always, whatever happened before; idempotent; leaves nothing behind
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from msgspec import Struct

from ..errors import NodeError
from ..model.lab import Interface, Lab, Node, Transport
from ..ports.bus import Bus
from ..ports.port import PortSpec


class NodeState(Enum):
    """Where a node is in its life. Only the transitions in `NODE_TRANSITIONS` (coordinator/state.py) are allowed."""

    CREATED = "created"
    BOOTING = "booting"
    READY = "ready"
    EXITED = "exited"


class FabricEnd(NamedTuple):
    """What the fabric gets for one interface: a port type it knows, descriptors it will own, the type's options."""

    port_type: str
    fds: tuple[int, ...]
    options: bytes = b""


class ExecRequest(Struct, frozen=True, kw_only=True):
    """A command to run in a node. `argv` is never passed through a shell. `tty` is (rows, columns) or None."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    cwd: str | None = None
    tty: tuple[int, int] | None = None


class Output(NamedTuple):
    """A piece of a running command's output."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Exit(NamedTuple):
    """The end of a command: its exit code, 128+N when signal N ended it."""

    code: int


class ExecSession(ABC):
    """One running command. Iterate it for `Output`s and, last, one `Exit`; reading slowly slows the command down."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Output | Exit]: ...

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send `data` to the command's stdin; waits while its buffer is full. `b""` closes stdin."""

    @abstractmethod
    async def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal its new size (no effect without a terminal)."""

    @abstractmethod
    async def signal(self, number: int) -> None:
        """Send signal `number` to the command's process group."""

    @abstractmethod
    async def close(self) -> None:
        """Hang up: the command gets SIGHUP, then SIGKILL. Idempotent."""


class NodeContext(NamedTuple):
    """What a driver may use of the lab it lives in.

    `run_dir` is the node's own directory, `lab_dir` the lab's; `hosts` the /etc/hosts text (the same for all nodes),
    `hosts_file` a file of it;
    `console_output(bytes)` must be called with everything the node prints (logged, kept as a tail, shown by
    `lab console`); `exited(reason)` exactly once if the node ends without having been asked to;
    `namespace` tells whether the lab has a network namespace of its own; `lab` is all of it, for drivers whose settings
    name other nodes; `new_number()` gives a number that nothing else in the lab has had, for what must have a name or
    an address of its own in the lab's namespace.
    """

    lab_name: str
    run_id: str
    run_dir: Path
    lab_dir: Path
    hosts: str
    hosts_file: Path
    console_output: Callable[[bytes], None]
    exited: Callable[[str], None]
    namespace: bool
    lab: Lab
    new_number: Callable[[], int]


class Driver(ABC):
    """One running node. Subclasses set `name` and `Spec`; see the module docstring for the life cycle."""

    name: ClassVar[str]
    Spec: ClassVar[type[Struct]]
    """Settings the lab file may give this driver, every field with a default; `forbid_unknown_fields=True`."""
    takes_stream: ClassVar[bool] = False
    """May be given a connected stream socket in QEMU's framing for an interface that wants one (`join_socket`)."""
    opens_rings: ClassVar[bool] = False
    """Its `FabricEnd`s are control sockets of rings, so two such nodes can be joined by a pipe."""
    interface_keys: ClassVar[frozenset[str]] = frozenset()
    """What it knows of an interface beyond `mac`, `ip` and `mtu`: names of fields of `Interface`."""
    transports: ClassVar[tuple[Transport, ...]] = ()
    """The values it knows of an interface's `transport`, if that is among its `interface_keys`."""
    takes_bus: ClassVar[bool] = False
    """May sit on a multicast bus by itself (`join_bus`)."""

    _registry: ClassVar[dict[str, type[Driver]]] = {}

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Register the driver under its name."""
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            if cls.name in Driver._registry:
                raise TypeError(f"two node drivers are called {cls.name!r}")
            Driver._registry[cls.name] = cls

    def __init__(self, node: Node, context: NodeContext) -> None:
        self.node = node
        self.context = context

    @classmethod
    def check(cls, node: Node) -> list[str]:
        """Say what is missing on this machine for `node` (programs, images), each with its cure; [] when it can run."""
        return []

    async def prepare(self) -> None:  # noqa: B027 - many drivers have nothing to prepare
        """Make what `open_port` needs. Raises NodeError."""

    def outside_port(self, interface: Interface) -> PortSpec | None:
        """The port facing outside by which `interface` joins; None (almost always) where `open_port` makes it."""
        return None

    def join_words(self, interface: Interface) -> dict[str, str]:
        """How a program joins an `outside_port`, by the program's name; {} where there is none."""
        return {}

    @abstractmethod
    async def open_port(self, interface: Interface) -> FabricEnd:
        """Create `interface` and return the end the fabric takes over. Raises NodeError."""

    async def join_socket(self, interface: Interface, sock: socket.socket) -> None:
        """Put `interface` on `sock`, a connected stream socket in QEMU's framing, which the driver now owns."""
        raise NodeError(f"a {self.name} node cannot be given a stream socket")

    async def join_bus(self, interface: Interface, bus: Bus) -> None:
        """Put `interface` on the multicast bus by itself."""
        raise NodeError(f"a {self.name} node cannot sit on a multicast bus by itself")

    async def set_carrier(self, interface: Interface, up: bool) -> None:  # noqa: B027 - not every NIC has a notion
        """Give the node's end of a linked `interface` a carrier, which it has at first, or take it away.

        May be called at any time between `open_port` (or what came instead) and the node's end. Raises NodeError.
        """

    @abstractmethod
    async def start(self) -> None:
        """Launch the node; return once it answers, its interfaces, names and addresses set. Raises NodeError.

        The caller bounds the time; being cancelled here must leave the node stoppable.
        """

    @abstractmethod
    async def stop(self) -> None:
        """End the node and everything it started; returns when it is gone. Idempotent, never raises for a dead node."""

    @abstractmethod
    async def exec(self, request: ExecRequest) -> ExecSession:
        """Start a command in the node. Raises AgentError when the node cannot be asked to (no agent, or it is gone).

        A program that cannot be started ends as in a shell: the reason on stderr and exit code 127 or 126.
        """

    async def console_write(self, data: bytes) -> None:
        """Type `data` on the node's console. Raises NodeError where there is none."""
        raise NodeError(f"a {self.name} node has no console; use: lab exec -t {self.node.name} -- sh")

    @property
    def has_console(self) -> bool:
        """Whether `console_write` works; if not, `lab console` opens a shell through `exec` instead."""
        return False

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Process id of the node's main process while it lives."""

    def facts(self) -> dict[str, str]:
        """Short facts worth showing in `lab ps` (for QEMU: the accelerator in use)."""
        return {}


def load_drivers() -> dict[str, type[Driver]]:
    """Import every module of this package and return the drivers by name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return dict(Driver._registry)


async def run_to_end(
    start: Awaitable[ExecSession], stdin: bytes = b"", timeout: float | None = None
) -> tuple[int, bytes, bytes]:
    """Run a command to its end and return (exit code, stdout, stderr). Raises TimeoutError after `timeout` seconds."""
    session = await start
    out: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    code = -1
    # Beside the reading: a command may stop taking input until its output is read.
    feeder = asyncio.ensure_future(_feed(session, stdin))
    try:
        async with asyncio.timeout(timeout):
            async for event in session:
                if isinstance(event, Exit):
                    code = event.code
                else:
                    out[event.stream] += event.data
    finally:
        feeder.cancel()
        await session.close()
        await asyncio.wait({feeder})
        if not feeder.cancelled():
            feeder.exception()  # the same loss of the node that ended the reading
    return code, bytes(out["stdout"]), bytes(out["stderr"])


async def _feed(session: ExecSession, stdin: bytes) -> None:
    if stdin:
        await session.write(stdin)
    await session.write(b"")
