"""Role `python`: a class of the user's own decides about frames.

The class needs any of these, and nothing to derive from:

    setup(self, node)                  once, before anything else; `node` is a `Node`
    received(self, frame, interface)   for every frame; may return an answer, or several, for the same interface
    tick(self)                         every `tick_every` seconds (1.0 unless the class says otherwise)
    command(self, argv)                `lab exec NODE -- ARGV...`; returns text, raises ValueError for wrong arguments
    stats(self)                        a dict for the `stats` command
    run(self, node)                    instead of `received` and `tick`: a loop of its own over `node.rings`

An exception that leaves one of them (but `command`) ends the node, its traceback on the console.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import NodeError
from ..model.lab import Interface
from .pacing import SECOND
from .role import Arguments, Frame, Reply, Role, Usage

if TYPE_CHECKING:
    from ..ring import Ring

_MAX_QUEUE = 65536


class Node:
    """What a user's class knows of its node, and sends through."""

    def __init__(self, name: str, interfaces: Sequence[Interface], options: Mapping[str, Any]) -> None:
        self.name = name
        self.interfaces = {interface.name: interface for interface in interfaces}
        self.options = options
        self.rings: dict[str, Ring] = {}
        """The rings by interface, for `run`; whoever has `received` leaves them alone."""
        self.log: Callable[[str], None] = lambda line: None
        self.queue: deque[tuple[int, Frame]] = deque()
        """What `send` was given and has not left yet: (interface's number, frame)."""
        self._numbers = {interface.name: number for number, interface in enumerate(interfaces)}

    def send(self, frames: Frame | Iterable[Frame], interface: str | None = None) -> None:
        """Send frames soon, from the first interface unless told otherwise.

        Raises KeyError for an unknown interface, BufferError when 65536 frames wait already.
        """
        number = 0 if interface is None else self._numbers[interface]
        for frame in _listed(frames):
            if len(self.queue) >= _MAX_QUEUE:
                raise BufferError(f"{_MAX_QUEUE} frames are waiting to be sent already")
            self.queue.append((number, frame))


def _listed(frames: Frame | Iterable[Frame]) -> Iterable[Frame]:
    return [frames] if isinstance(frames, bytes | bytearray | memoryview) else frames


def load_class(written: str, directory: Path) -> type[Any]:
    """The class MODULE:CLASS, its module in `directory` or installed. Raises NodeError."""
    module_name, _, class_name = written.partition(":")
    sys.path.insert(0, str(directory))
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a module that this one wants
        raise NodeError(f"python: there is no module {module_name!r} in {directory}, and none installed") from None
    except AttributeError:
        raise NodeError(f"python: module {module_name} has no {class_name!r}") from None
    if not isinstance(found, type):
        raise NodeError(f"python: {written} is not a class")
    return found


class Python(Role):
    """Adapts `user`, an instance of the user's class."""

    name: ClassVar[str] = "python"

    def __init__(self, user: Any, node: Node) -> None:
        super().__init__()
        self._user = user
        self.node = node
        self._received = getattr(user, "received", None)
        self._tick = getattr(user, "tick", None)
        self._every = int(float(getattr(user, "tick_every", 1.0)) * SECOND)
        self._next_tick: int | None = None
        self._names = list(node.interfaces)
        self._counters = {"received": 0, "sent": 0}
        self.own_loop: Callable[[Node], None] | None = getattr(user, "run", None)
        if self.own_loop is None and self._received is None and self._tick is None:
            raise NodeError(f"class {type(user).__name__} has none of the methods received, tick and run")

    def setup(self) -> None:
        """Let the user's class set itself up."""
        self.node.log = self.log
        setup = getattr(self._user, "setup", None)
        if setup is not None:
            setup(self.node)

    def begin(self, now: int) -> None:
        """Begin to tick."""
        if self._tick is not None:
            self._next_tick = now

    def handle(self, port: int, frames: Sequence[bytes], now: int) -> Sequence[Frame]:
        """Hand frames over one by one, collect what is answered."""
        self._counters["received"] += len(frames)
        if self._received is None:
            return ()
        answers: list[Frame] = []
        for frame in frames:
            answer = self._received(frame, self._names[port])
            if answer is not None:
                answers.extend(_listed(answer))
        self._counters["sent"] += len(answers)
        return answers

    def due(self) -> int | None:
        """At once while something waits to be sent, else at the next tick."""
        return 0 if self.node.queue else self._next_tick

    def emit(self, now: int, room: int) -> tuple[int, Sequence[Frame]]:
        """Tick if it is time to, then send what waits."""
        if self._next_tick is not None and now >= self._next_tick and self._tick is not None:
            # On the beat, but without catching up on beats that were missed.
            self._next_tick += max(1, (now - self._next_tick) // self._every + 1) * self._every
            self._tick()
        queue = self.node.queue
        if not queue:
            return 0, ()
        port = queue[0][0]
        frames: list[Frame] = []
        for number, frame in queue:
            if number != port or len(frames) == room:
                break
            frames.append(frame)
        return port, frames

    def sent(self, count: int, now: int) -> None:
        """Forget what has left."""
        for _ in range(count):
            self.node.queue.popleft()
        self._counters["sent"] += count

    def stats(self) -> Mapping[str, object]:
        """Counters, and what the user's class adds."""
        own = getattr(self._user, "stats", None)
        return {"role": self.name, **self._counters, **(own() if own is not None else {})}

    def reset(self) -> None:
        """Start counting from nothing."""
        self._counters = dict.fromkeys(self._counters, 0)

    def command(self, argv: Arguments, reply: Reply, now: int) -> None:
        """A command of ours, or else one of the user's class."""
        own = getattr(self._user, "command", None)
        if own is None or (argv and argv[0] in self.commands):
            super().command(argv, reply, now)
            return
        try:
            said = own(list(argv))
        except (ValueError, Usage) as error:
            reply.err(f"{error}\n")
            reply.exit(2)
            return
        except Exception as error:  # noqa: BLE001 - it is the user's; the one who asked is told
            reply.err(f"{type(error).__name__}: {error}\n")
            reply.exit(1)
            return
        if said is not None:
            reply.out(said if isinstance(said, str) else json.dumps(said, indent=2))
            reply.out("" if isinstance(said, str) and said.endswith("\n") else "\n")
        reply.exit()
