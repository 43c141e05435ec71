"""A port spec being served, on the switch of a test."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from vswitch.errors import FabricError
from vswitch.fabric.outside import OutsidePort
from vswitch.ports.port import PortSpec

from ..fabric.lan import Lan, port_settings

TIMEOUT = 20.0


def eventually(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds, for what nothing tells of."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it never was so"
        select.select([], [], [], 0.01)


class Served:
    """Serves `spec` as the fabric does, as port `name`, from a loop in a thread of its own, until `close()`.

    `events` has all that was told of it: (port, state, reason). Raises FabricError when it cannot be served.
    """

    def __init__(self, lan: Lan, spec: PortSpec, name: str = "p") -> None:
        self.events: list[tuple[str, str, str]] = []
        self._lan = lan
        self._spec = spec
        self._name = name
        self._ports: dict[str, int] = {}
        self._changed = threading.Condition()
        self._refusals: list[str] = []
        self._answered = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._answered.wait(TIMEOUT)
        if self._refusals:
            self._thread.join()
            raise FabricError(self._refusals[0])

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    @property
    def ports(self) -> dict[str, int]:
        """The engine's ports there are now, by name."""
        with self._changed:
            return dict(self._ports)

    def wait_for(self, *event: str, after: int = 0) -> int:
        """Wait for an event (port, state, part of the reason) beyond the first `after`; return its number from 1."""

        def there() -> int | None:
            for number, (port, state, reason) in enumerate(self.events[after:], after + 1):
                if (port, state)[: len(event)] == event[:2] and (len(event) < 3 or event[2] in reason):
                    return number
            return None

        with self._changed:
            assert self._changed.wait_for(there, TIMEOUT), f"no {event} in {self.events}"
            return there() or 0

    def wait_for_ports(self, *names: str) -> None:
        """Wait until there are just these ports."""
        with self._changed:
            done = self._changed.wait_for(lambda: set(self._ports) == set(names), TIMEOUT)
            assert done, f"{sorted(self._ports)} are there, not {names}; {self.events}"

    def close(self) -> None:
        """End it, and wait until it has cleaned up."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(TIMEOUT)
            assert not self._thread.is_alive()

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        stopped = asyncio.Event()
        fields = msgspec.to_builtins(self._spec)
        self._outside = OutsidePort(
            self._name, fields, [], self._attach, self._detach, self._answer, self._told, asyncio.Event()
        )
        self._loop.add_reader(self._lan.engine.fileno(), self._ended)
        try:
            await self._stop.wait()
        finally:
            self._outside.stop(stopped.set)
            await stopped.wait()
            self._loop.remove_reader(self._lan.engine.fileno())

    def _answer(self, refusal: str | None) -> None:
        if refusal is not None:
            self._refusals.append(refusal)
            self._stop.set()
        self._answered.set()

    def _told(self, name: str, state: str, reason: str) -> None:
        with self._changed:
            self.events.append((name, state, reason))
            self._changed.notify_all()

    def _attach(self, name: str, port_type: str, fds: list[int], options: bytes) -> None:
        handed_on = fds[:]
        fds.clear()
        try:
            number = self._lan.engine.add_port(self._lan.switch, port_type, handed_on, options, **port_settings())
        except (OSError, ValueError) as error:
            for fd in handed_on if isinstance(error, ValueError) else ():
                os.close(fd)
            raise FabricError(str(error)) from None
        with self._changed:
            self._ports[name] = number
            self._changed.notify_all()

    def _detach(self, name: str) -> None:
        with self._changed:
            number = self._ports.pop(name, None)
            self._changed.notify_all()
        if number is not None:
            self._lan.engine.remove_port(number)

    def _ended(self) -> None:
        names = {number: name for name, number in self.ports.items()}
        for number, state, reason in self._lan.engine.events():
            self._told(names[number], state, reason)
            self._outside.port_ended(names[number], state, reason)
