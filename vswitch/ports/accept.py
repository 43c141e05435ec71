"""Waiting for the next client of a listening socket."""

from __future__ import annotations

import asyncio
import socket


async def accept(listener: socket.socket) -> socket.socket:
    """Return the next client of `listener`, which does not block, nor does what is returned. Raises OSError.

    Cancelled, it has taken none. asyncio's own sock_accept() may have, and raises InvalidStateError out of the loop
    when a client comes in the very moment in which it is cancelled.
    """
    loop = asyncio.get_running_loop()
    while True:
        readable = asyncio.Event()
        loop.add_reader(listener.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(listener.fileno())
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it went, or another process has it
            continue
        client.setblocking(False)
        return client
