"""Driver `external`: a node that somebody else starts. It has interfaces and addresses, but no process of ours."""

from __future__ import annotations

import hashlib
import os
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from ..errors import AgentError, NodeError
from ..model.lab import Interface, Node, Transport
from ..ports.port import PortSpec
from .driver import Driver, ExecRequest, ExecSession, FabricEnd, NodeContext
from .external_join import join_words
from .external_settings import ExternalSpec, port_spec


class ExternalDriver(Driver):
    """Reserves a port for each interface, and says how to join it."""

    name: ClassVar[str] = "external"
    Spec: ClassVar[type[Struct]] = ExternalSpec
    interface_keys: ClassVar[frozenset[str]] = frozenset({"transport"})
    transports: ClassVar[tuple[Transport, ...]] = ("auto", "stream", "dgram", "mcast", "vde", "l2tpv3")

    def __init__(self, node: Node, context: NodeContext) -> None:
        super().__init__(node, context)
        self._spec = msgspec.convert(node.settings, ExternalSpec)
        self._ports: dict[str, PortSpec] = {}

    def outside_port(self, interface: Interface) -> PortSpec:
        """The port the interface's peer is to join; the same at every call."""
        if interface.name not in self._ports:
            transport = self._spec.transport_of(interface)
            address = self._spec.address or self._own_address(transport, interface)
            self._ports[interface.name] = port_spec(transport, address)
        return self._ports[interface.name]

    def _own_address(self, transport: str, interface: Interface) -> dict[str, Any]:
        """An address that no other lab has, nor any other interface of this one."""
        if transport == "mcast":
            name = f"{self.context.run_id} {self.node.name} {interface.name}"
            digest = hashlib.sha256(name.encode()).digest()
            # 239.192.0.0/14 is for an organisation's own use (RFC 2365).
            group = f"239.{192 + digest[0] % 4}.{digest[1]}.{1 + digest[2] % 254}"
            return {"bus": f"{group}:{1024 + int.from_bytes(digest[3:5]) % 60_000}"}
        # Short: a unix socket's path has 107 bytes at most, of which the directory may take all but these few.
        path = os.fspath(self.context.lab_dir / f"e{self.context.new_number()}")
        if transport == "vde":
            return {"listen": path}
        if transport == "dgram":
            return {"local": f"unix:{path}", "remote": f"unix:{path}p"}
        return {"listen": f"unix:{path}"}

    def join_words(self, interface: Interface) -> dict[str, str]:
        """How to join, see external_join.py."""
        return join_words(self.outside_port(interface), interface, self.node.interfaces.index(interface))

    async def open_port(self, interface: Interface) -> FabricEnd:
        """Never called: the fabric serves `outside_port`."""
        raise NodeError(f"node {self.node.name} is external: the fabric makes its ports")

    async def start(self) -> None:
        """Nothing starts; nobody waits for whoever joins."""

    async def stop(self) -> None:
        """Nothing of ours runs."""

    async def exec(self, request: ExecRequest) -> ExecSession:
        """Refuse: we have no way in."""
        raise AgentError(self._no_way_in)

    async def console_write(self, data: bytes) -> None:
        """Refuse: its console is elsewhere."""
        raise NodeError(self._no_way_in)

    @property
    def _no_way_in(self) -> str:
        name = self.node.name
        return f"node {name} is external: its console and commands are with whoever starts it; see: lab inspect {name}"

    @property
    def pid(self) -> int | None:
        """None: it is none of our processes."""
        return None
