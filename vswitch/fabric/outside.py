"""A port that faces outside the lab, served by its `PortSpec` for as long as its network lives."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import FabricError
from ..ports.descriptors import replace_descriptors
from ..ports.port import PortSpec, load_port_types, say_when_lab_is_up

log = logging.getLogger(__name__)

_MAX_REASON, _MAX_REFUSAL = 300, 4000
"""Characters; a peer, or a program, may have a hand in what is said of it."""


class OutsidePort:
    """Runs one spec's `serve()` in a task. `fds`, which are taken over, stand for the descriptors that the spec names.

    It has any number of engine ports over time, or at once: `attach(name, port_type, fds, options)` and `detach(name)`
    make and remove them; `attach` raises FabricError. `answer(None or why not)` is called once, when the port is being
    served or cannot be; `changed(name, state, reason)` whenever it has something to tell afterwards. `lab_up` is set
    once every node is ready.
    """

    def __init__(
        self,
        name: str,
        spec: dict[str, Any],
        fds: list[int],
        attach: Callable[[str, str, list[int], bytes], None],
        detach: Callable[[str], None],
        answer: Callable[[str | None], None],
        changed: Callable[[str, str, str], None],
        lab_up: asyncio.Event,
    ) -> None:
        self.name = name
        self.type = str(spec.get("type"))
        self.state = "starting"
        self.reason = ""
        self.peers: dict[str, str] = {}
        """What is at the other end of an engine port, as far as its type has said."""
        self._attach = attach
        self._detach = detach
        self._answer = answer
        self._changed = changed
        self._answered = False
        self._lab_up = lab_up
        self._over = False  # no engine port is made any more
        self._told = ("", "")  # about the port itself, not its peers
        self._last_end = ("closed", "")
        self._ends: dict[str, asyncio.Future[tuple[str, str]]] = {}
        self._fds = fds[:]  # until serve() has them
        fds.clear()
        self._task = asyncio.get_running_loop().create_task(self._run(spec))
        self._task.add_done_callback(lambda _: self._close_descriptors())  # also when it never began

    @property
    def attached(self) -> list[str]:
        """The names of the engine ports it has now."""
        return list(self._ends)

    def stop(self, then: Callable[[], None] = lambda: None) -> None:
        """Remove the ports and end the task; `then()` is called when it has cleaned up.

        Cleaning up may take a while, as when a command is run last.
        """
        self._over = True
        self._task.add_done_callback(lambda _: self._refuse("it was removed before it was there"))
        self._task.add_done_callback(lambda _: then())
        self._task.cancel()
        for name in list(self._ends):
            self._detach(name)
        self._ends.clear()

    def port_ended(self, name: str, state: str, reason: str) -> None:
        """Note that an engine port has ended, as "closed" or "error"; it may not be one of this port's."""
        end = self._ends.get(name)
        if end is not None and not end.done():
            end.set_result((state, reason))

    async def _run(self, fields: dict[str, Any]) -> None:
        try:
            say_when_lab_is_up(self._lab_up)
            types = load_port_types()
            spec_type = types.get(self.type)
            if spec_type is None:
                raise FabricError(f"unknown port type {self.type}; known: {', '.join(sorted(types))}")
            await self._spec(fields, spec_type).serve(self._new_port, self._status)
            state, reason = self._last_end
        except (FabricError, msgspec.ValidationError, ValueError) as error:
            state, reason = "error", str(error)
        except OSError as error:
            state, reason = "error", error.strerror or str(error)
        except Exception as error:  # a mistake of ours, which is no reason to end the other ports
            log.exception("port %s", self.name)
            state, reason = "error", f"internal error: {error!r}; see the fabric's log"
        self._close_descriptors()
        if self._over:
            return
        self._over = True
        if self._answered:
            self._status(state, reason)
        else:
            self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        if not self._answered:
            self._answered = True
            self._answer(_sayable(reason, _MAX_REFUSAL))

    def _spec(self, fields: dict[str, Any], spec_type: type[PortSpec]) -> PortSpec:
        """The spec, with the descriptors it names as they are called here; they are its own now. Raises FabricError."""
        here = iter(self._fds)
        fields = replace_descriptors(spec_type, fields, lambda number, _: next(here, -1))
        spec = msgspec.convert(fields, spec_type)
        if next(here, None) is not None:
            raise FabricError("it was handed more descriptors than its settings name")
        for problem in spec.problems():
            raise FabricError(problem)
        self._fds.clear()
        return spec

    def _close_descriptors(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _status(self, state: str, reason: str = "") -> None:
        """`Status`, see ports/port.py."""
        reason = _sayable(reason)
        self.state, self.reason = state, reason
        if not self._answered:
            self._answered = True
            self._answer(None)
        elif self._told != (state, reason):
            self._changed(self.name, state, reason)
        self._told = (state, reason)

    async def _new_port(
        self, port_type: str, fds: list[int], label: str = "", options: bytes = b"", peer: str = ""
    ) -> str:
        """`Attach`, see ports/port.py."""
        if self._over:  # a client came while the port went
            raise FabricError(f"port {self.name} is gone")
        name = self.name + label
        self._attach(name, port_type, fds, options)
        if not self._answered:
            self._answered = True
            self._answer(None)
        end: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._ends[name] = end
        if not label:  # why it was not up is of no interest any more
            self._told = self.state, self.reason = "up", ""
        self.peers[name] = peer = _sayable(peer)
        self._changed(name, "up", peer)
        try:
            self._last_end = await end
            return self._last_end[1]
        finally:
            del self.peers[name]
            if not label:
                self.state = "closed"
            if self._ends.pop(name, None) is not None:  # it is not we who are being stopped
                self._detach(name)
                if end.cancelled():  # nor has the engine told: its type has seen the peer go
                    self._changed(name, "closed", "the peer has gone")


def _sayable(reason: str, limit: int = _MAX_REASON) -> str:
    """`reason`, short enough to be told, and such that it can be encoded: a peer's name of a file may be any bytes."""
    reason = reason.encode(errors="backslashreplace").decode()
    return reason if len(reason) <= limit else reason[: limit - 1] + "…"
