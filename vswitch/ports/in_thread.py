"""Calls that may block for good, such as a look at a path that somebody else has chosen."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


class Threads:
    """Runs calls in threads of their own, `limit` at most at a time; one that hangs takes its place for as long.

    They are daemons: the end of the process waits for none, as it would for those of an executor.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit

    async def run(self, call: Callable[[], None]) -> None:
        """Make a call, and raise what it raises. Raises BlockingIOError when `limit` calls are under way."""
        if not self._free:
            raise BlockingIOError(11, "too many look-ups of paths hang")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish(error: Exception | None) -> None:
            self._free += 1
            if done.done():  # nobody waits any more
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def work() -> None:
            error = None
            try:
                call()
            except Exception as raised:  # noqa: BLE001  whoever waits gets it
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(finish, error)

        self._free -= 1
        threading.Thread(target=work, daemon=True).start()
        await done
