"""Clients are accepted one by one, and none is lost or noticed twice."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from vswitch.ports.accept import accept


def test_accept_that_is_cancelled_as_a_client_comes_leaves_it_waiting(runtime_dir: Path) -> None:
    """The client may be noticed in the same turn of the loop, after the cancellation."""
    path = str(runtime_dir / "s")
    mistakes: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: mistakes.append(context))
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.setblocking(False)
            listener.bind(path)
            listener.listen()
            accepting = asyncio.ensure_future(accept(listener))
            await asyncio.sleep(0)
            client.connect(path)
            await asyncio.sleep(0)  # the loop has seen it, and has us run before what it makes of it
            accepting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await accepting
            async with asyncio.timeout(20):
                (await accept(listener)).close()

    asyncio.run(main())
    assert mistakes == []
