"""An emulated node's process: `python -m vswitch.emulated`, started by the driver and never by hand.

It prints what belongs on the node's console; the commands it answers come over the control socket.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import sys
import threading
import traceback
from collections.abc import Mapping

import msgspec

from ..errors import LabError
from ..namespace import die_with_parent
from ..ring import Ring
from .assignment import Assignment, make_role
from .loop import MAX_FRAME, Loop
from .python_role import Python
from .role import Arguments, Reply, Role
from .settings import EmulatedSpec

_PR_SET_TIMERSLACK = 29
_MICROSECOND = 1000  # ns; the kernel's default of 50 us would be most of a fast generator's interval


def main() -> int:
    """Run the node until its control socket closes; return the exit code."""
    parser = argparse.ArgumentParser(prog="vswitch-emulated")
    parser.add_argument("--assignment-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _MICROSECOND, 0, 0, 0)
    control = socket.socket(fileno=arguments.control_fd)
    control.set_inheritable(False)
    with os.fdopen(arguments.assignment_fd, "rb") as file:
        assignment = msgspec.json.decode(file.read(), type=Assignment)
    try:
        _serve(assignment, control)
    except (LabError, ValueError) as error:
        _print(str(error))
        return 1
    except Exception:  # noqa: BLE001 - a user's class, most likely; its console shows where
        _print(traceback.format_exc().rstrip())
        return 1
    return 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _serve(assignment: Assignment, control: socket.socket) -> None:
    spec = msgspec.convert(assignment.settings, EmulatedSpec)
    role = make_role(assignment, spec)
    role.log = _print
    # In the order of the interfaces, which is how roles number their ports.
    names = [interface.name for interface in assignment.interfaces if interface.name in assignment.rings]
    rings = [Ring.from_fd(assignment.rings[name]) for name in names]
    role.ports_attached([MAX_FRAME] * len(rings))
    if isinstance(role, Python):
        role.setup()
        if role.own_loop is not None:
            _run_own_loop(role, dict(zip(names, rings, strict=True)), control)
            return
    Loop(role, rings, control).run()


def _run_own_loop(role: Python, rings: dict[str, Ring], control: socket.socket) -> None:
    """The user's loop has the rings and this thread; commands are served by another one, which ends the process."""

    def serve() -> None:
        Loop(_Commands(role), [], control).run()
        os._exit(0)

    role.node.rings.update(rings)
    threading.Thread(target=serve, name="commands", daemon=True).start()
    assert role.own_loop is not None
    role.own_loop(role.node)
    _print("run() has returned: the node ends")


class _Commands(Role):
    """The commands of another role, and none of its frames."""

    name = "python"

    def __init__(self, role: Role) -> None:
        super().__init__()
        self._role = role

    def stats(self) -> Mapping[str, object]:
        """The other role's."""
        return self._role.stats()

    def command(self, argv: Arguments, reply: Reply, now: int) -> None:
        """Have the other role run it."""
        self._role.command(argv, reply, now)


if __name__ == "__main__":
    sys.exit(main())
