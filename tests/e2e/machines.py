"""Drivers of machines with real guests, without the coordinator or the fabric between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from vswitch.model.lab import Interface, Lab, Node
from vswitch.nodes.driver import Driver, ExecRequest, NodeContext, run_to_end
from vswitch.nodes.qemu import QemuDriver

_LIMIT = 60  # s; a boot takes about two


class Machine:
    """A machine's driver with all it needs around it, and what it told the coordinator."""

    def __init__(
        self,
        run_dir: Path,
        name: str,
        interfaces: tuple[Interface, ...] = (),
        *,
        driver: type[Driver] = QemuDriver,
        namespace: bool = False,
        **settings: Any,
    ) -> None:
        run_dir.mkdir(parents=True)
        self.console = b""
        self.ends: list[str] = []
        self.ended = asyncio.Event()
        self._news = asyncio.Event()
        context = NodeContext(
            lab_name="test",
            run_id="test-run",
            run_dir=run_dir,
            lab_dir=run_dir.parent,
            hosts="127.0.0.1 localhost\n10.0.0.1 vm1\n10.0.0.2 vm2\n",
            hosts_file=Path("/etc/hosts"),
            console_output=self._printed,
            exited=self._exited,
            namespace=namespace,
            lab=Lab(name="test", seed=0, source="lab.yaml"),
            new_number=iter(range(1, 1000)).__next__,
        )
        node = Node(name=name, kind=driver.name, driver=driver.name, interfaces=interfaces, settings=settings)
        assert driver.check(node) == []
        self.driver = driver(node, context)

    def _printed(self, data: bytes) -> None:
        self.console += data
        self._news.set()

    async def printed(self, text: bytes) -> None:
        """Wait until the console has shown `text`."""
        while text not in self.console:
            self._news.clear()
            await self._news.wait()

    def _exited(self, reason: str) -> None:
        self.ends.append(reason)
        self.ended.set()

    async def run(self, command: str) -> tuple[int, bytes, bytes]:
        """Run a shell command in the guest."""
        return await run_to_end(self.driver.exec(ExecRequest(argv=("sh", "-c", command))), timeout=_LIMIT)


@asynccontextmanager
async def bounded(*machines: Machine) -> AsyncIterator[None]:
    """Bound the body's time and stop the machines after it, which must leave no descriptor of ours open."""
    try:
        async with asyncio.timeout(_LIMIT):
            yield
    finally:
        await asyncio.gather(*(machine.driver.stop() for machine in machines))
        for machine in machines:
            assert machine.driver.pid is None


def nic(name: str, number: int, *addresses: str, **options: Any) -> Interface:
    return Interface(name=name, mac=f"52:54:00:00:00:{number:02x}", addresses=addresses, **options)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
