"""Fixtures of the node tests: a real agent in real namespaces, at the other end of a socket pair."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from vswitch.nodes.agent import AgentChannel, agent_program


class Host(NamedTuple):
    """A running netns host: the connected channel, and the process the coordinator would have started."""

    channel: AgentChannel
    process: subprocess.Popen[bytes]


@asynccontextmanager
async def running_host(
    *options: str, before: Sequence[str] = (), environment: dict[str, str] | None = None
) -> AsyncIterator[Host]:
    """Start the agent as a netns host, `before` in front of its command line; killed at the end."""
    ours, theirs = socket.socketpair()
    argv = [*before, os.fspath(agent_program()), "--fd", str(theirs.fileno()), "--hostname", "tester", *options]
    with theirs:
        process = _start(argv, theirs.fileno(), environment or {})
    channel = AgentChannel()
    try:
        await channel.open(ours)
        async with asyncio.timeout(20):
            await channel.wait_hello()
        yield Host(channel, process)
    finally:
        await channel.close()
        process.kill()
        process.wait()


def _start(argv: Sequence[str], fd: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, pass_fds=[fd], stdin=subprocess.DEVNULL, env={**os.environ, **environment})


def descendants(pid: int) -> set[int]:
    """Pids of all processes below `pid`."""
    found: set[int] = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found |= {int(child)} | descendants(int(child))
    return found
