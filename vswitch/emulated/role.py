"""What a role is: the part of an emulated node that decides about frames. No I/O, no clock: both are handed in.

Ports are numbers, those of the node's interfaces in order. Times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeAlias

Frame: TypeAlias = bytes | bytearray | memoryview
Arguments: TypeAlias = Sequence[str]

USAGE, NOT_FOUND, INTERRUPTED = 2, 127, 130
"""Exit codes of commands: used wrongly, unknown, ended by SIGINT."""


class Usage(Exception):
    """A command was given arguments it does not take; the message says which it does."""


class Reply(ABC):
    """Where a command writes. It is over when it has called `exit`, at once or later; writing after that is ignored."""

    cancelled: Callable[[], None] | None = None
    """Called when whoever asked has hung up or interrupted, if the command has set it."""

    @abstractmethod
    def out(self, text: str) -> None:
        """Write to the command's stdout."""

    @abstractmethod
    def err(self, text: str) -> None:
        """Write to the command's stderr."""

    @abstractmethod
    def exit(self, code: int = 0) -> None:
        """End the command."""


class Command:
    """One command of a role: `run` gets the arguments after its name, and the time."""

    def __init__(self, run: Callable[[Arguments, Reply, int], None], usage: str, help: str) -> None:  # noqa: A002
        self.run = run
        self.usage = usage
        self.help = help


class Role(ABC):
    """A role. Subclasses override what they need; `commands` starts with those every role has."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {
            "stats": Command(self._stats, "stats", "counters, as JSON"),
            "reset": Command(self._reset, "reset", "set the counters back to nothing"),
            "help": Command(self._help, "help", "this list"),
        }
        self.log: Callable[[str], None] = lambda line: None
        """Prints a line on the node's console; set by whoever runs the role."""

    @abstractmethod
    def stats(self) -> Mapping[str, object]:
        """Counters, fit for JSON."""

    def reset(self) -> None:  # noqa: B027 - nothing to forget
        """Forget what has been counted."""

    def begin(self, now: int) -> None:  # noqa: B027
        """The node is attached and ready; called once."""

    def handle(self, port: int, frames: Sequence[bytes], now: int) -> Sequence[Frame]:
        """Take frames that came in at `port`; return answers to send there. Must not keep the list."""
        return ()

    def due(self) -> int | None:
        """When `emit` wants to be called next, None for not before something happens."""
        return None

    def emit(self, now: int, room: int) -> tuple[int, Sequence[Frame]]:
        """A port and at most `room` frames to send there now; `sent` tells how many of them were."""
        return 0, ()

    def sent(self, count: int, now: int) -> None:  # noqa: B027
        """The first `count` frames of the last `emit` have been taken by the ring, the rest has not."""

    def ports_attached(self, frame_max: Sequence[int]) -> None:  # noqa: B027
        """The longest frame, in bytes, each port takes; called before `begin`."""

    # --- commands ---------------------------------------------------------------------------------------------------

    def command(self, argv: Arguments, reply: Reply, now: int) -> None:
        """Run a command. What it does wrong ends the command, never the node."""
        name = argv[0] if argv else ""
        known = self.commands.get(name)
        if known is None:
            reply.err(f"{name[:60]}: no such command; this node ({self.name}) has: {', '.join(self.commands)}\n")
            reply.exit(NOT_FOUND)
            return
        try:
            known.run(argv[1:], reply, now)
        except (Usage, ValueError) as error:
            reply.err(f"{name}: {error or 'wrong arguments'}; usage: {known.usage}\n")
            reply.exit(USAGE)

    def _stats(self, arguments: Arguments, reply: Reply, now: int) -> None:
        no_arguments(arguments)
        reply.out(json.dumps(self.stats(), indent=2) + "\n")
        reply.exit()

    def _reset(self, arguments: Arguments, reply: Reply, now: int) -> None:
        no_arguments(arguments)
        self.reset()
        reply.exit()

    def _help(self, arguments: Arguments, reply: Reply, now: int) -> None:
        width = max(len(command.usage) for command in self.commands.values())
        for command in self.commands.values():
            reply.out(f"{command.usage:<{width}}  {command.help}\n")
        reply.exit()


def no_arguments(arguments: Arguments) -> None:
    """Raise Usage if there are any."""
    if arguments:
        raise Usage(f"{arguments[0][:60]!r} is too much")
