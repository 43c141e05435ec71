"""A port that faces outside the lab, served by its `PortSpec` for as long as its network lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import FabricError
from ..ports.port import load_port_types


class OutsidePort:
    """Runs one spec's `serve()` in a task.

    It has any number of engine ports over time, or at once: `attach(name, port_type, fds, options)` and `detach(name)`
    make and remove them; `attach` raises FabricError. `answer(None or why not)` is called once, when the port is being
    served or cannot be; `changed(name, state, reason)` whenever it has something to tell afterwards.
    """

    def __init__(
        self,
        name: str,
        spec: dict[str, Any],
        attach: Callable[[str, str, list[int], bytes], None],
        detach: Callable[[str], None],
        answer: Callable[[str | None], None],
        changed: Callable[[str, str, str], None],
    ) -> None:
        self.name = name
        self.type = str(spec.get("type"))
        self.state = "starting"
        self._attach = attach
        self._detach = detach
        self._answer = answer
        self._changed = changed
        self._answered = False
        self._ends: dict[str, asyncio.Future[str]] = {}
        self._task = asyncio.get_running_loop().create_task(self._run(spec))

    @property
    def attached(self) -> list[str]:
        """The names of the engine ports it has now."""
        return list(self._ends)

    def stop(self, then: Callable[[], None] = lambda: None) -> None:
        """Remove the ports and end the task; `then()` is called when it has cleaned up."""
        self._task.add_done_callback(lambda _: then())
        self._task.cancel()
        for name in list(self._ends):
            self._detach(name)
        self._ends.clear()

    def port_ended(self, name: str, reason: str) -> None:
        """Note that an engine port has ended; it may not be one of this port's."""
        end = self._ends.get(name)
        if end is not None and not end.done():
            end.set_result(reason)

    async def _run(self, fields: dict[str, Any]) -> None:
        try:
            types = load_port_types()
            spec_type = types.get(self.type)
            if spec_type is None:
                raise FabricError(f"unknown port type {self.type}; known: {', '.join(sorted(types))}")
            await msgspec.convert(fields, spec_type).serve(self._new_port, self._status)
            reason = "ended"
        except (FabricError, msgspec.ValidationError, ValueError) as error:
            reason = str(error)
        except OSError as error:
            reason = error.strerror or str(error)
        self.state = "error"
        if self._answered:
            self._changed(self.name, "error", reason)
        else:
            self._answered = True
            self._answer(reason)

    def _status(self, state: str) -> None:
        self.state = state
        if not self._answered:
            self._answered = True
            self._answer(None)

    async def _new_port(self, port_type: str, fds: list[int], label: str = "", options: bytes = b"") -> str:
        """`Attach`, see ports/port.py."""
        name = self.name + label
        self._attach(name, port_type, fds, options)
        end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ends[name] = end
        self._changed(name, "up", "")
        try:
            return await end
        finally:
            if self._ends.pop(name, None) is not None:
                self._detach(name)
