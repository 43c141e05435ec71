"""How long a port waits before it tries again to reach a peer that was not there, or went."""

from __future__ import annotations

import asyncio
import random

_FIRST, LONGEST = 0.1, 5.0  # s


async def pause(seconds: float) -> None:
    """Let `seconds` pass, or somewhat less: jitter keeps those that lost the same peer from coming back in step."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1))


class Backoff:
    """Waits that grow from `first` to `longest` seconds; after what lasted they begin anew."""

    def __init__(self, first: float = _FIRST, longest: float = LONGEST) -> None:
        self._first = self._delay = min(first, longest)
        self._longest = longest

    def lasted(self, seconds: float) -> None:
        """What was reached stayed for so long: if that was long enough, the next wait is the first again."""
        if seconds > self._longest:
            self._delay = self._first

    async def wait(self) -> None:
        """Wait."""
        await pause(self._delay)
        self._delay = min(self._delay * 2, self._longest)
