"""A port that faces outside, served as the fabric process serves it, in a thread of this one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from vswitch.errors import FabricError
from vswitch.ports.port import PortSpec

from ..fabric.lan import Lan, port_settings
from .namespaces import TIMEOUT


class Serving:
    """Runs `spec.serve()` with ports of `lan`'s switch, in the network namespace it is made in, until the block ends.

    `words` are what it has told, in order; a port that was attached appears as "up". `reason` came with the last one.
    `error` is how serving ended.
    """

    def __init__(self, lan: Lan, spec: PortSpec) -> None:
        self.words: list[str] = []
        self.reason = ""
        self.error: BaseException | None = None
        self.ports: dict[str, int] = {}
        """Those attached now, by label."""
        self._lan = lan
        self._spec = spec
        self._ends: dict[int, asyncio.Future[str]] = {}
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    def __enter__(self) -> Serving:
        self._thread.start()
        self._wait_until(lambda: self.words or self.error)
        return self

    def __exit__(self, *error: Any) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    def _wait_until(self, condition: Callable[[], Any]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, TIMEOUT), (self.words, self.error)

    def wait_up(self, times: int = 1, label: str = "") -> int:
        """Wait until a port has been attached for the `times`th time, and is; return its id."""
        self._wait_until(lambda: self.words.count("up" + label) >= times and label in self.ports)
        return self.ports[label]

    def wait_for(self, word: str) -> None:
        """Wait until this is the last that was told."""
        self._wait_until(lambda: self.words and self.words[-1] == word)

    def wait_error(self) -> str:
        """Wait until serving has failed; return why."""
        self._wait_until(lambda: self.error)
        return str(self.error)

    def _tell(self, state: str, reason: str = "") -> None:
        with self._changed:
            self.reason = reason
            self.words.append(state)
            self._changed.notify_all()

    def _stop(self) -> None:
        self._task.cancel()
        self._stopped.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._loop.add_reader(self._lan.engine.fileno(), self._note_ends)
        self._task = asyncio.ensure_future(self._spec.serve(self._attach, self._tell))
        try:
            await self._task
        except (FabricError, OSError) as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()
        except asyncio.CancelledError:
            pass
        await self._stopped.wait()
        self._loop.remove_reader(self._lan.engine.fileno())

    def _note_ends(self) -> None:
        for port, _, reason in self._lan.engine.events():
            if port in self._ends and not self._ends[port].done():
                self._ends[port].set_result(reason)

    async def _attach(
        self, port_type: str, fds: list[int], label: str = "", options: bytes = b"", peer: str = ""
    ) -> str:
        taken = fds[:]
        fds.clear()
        port = self._lan.engine.add_port(self._lan.switch, port_type, taken, options, **port_settings())
        self._ends[port] = self._loop.create_future()
        self.ports[label] = port
        self._tell("up" + label)
        try:
            return await self._ends[port]
        finally:
            del self._ends[port]
            del self.ports[label]
            self._lan.engine.remove_port(port)
