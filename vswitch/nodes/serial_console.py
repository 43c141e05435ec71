"""A machine's serial console, over our end of a socket pair."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from ..errors import NodeError

_READY_TAIL = 4096  # bytes of console output a readiness pattern may span


class SerialConsole(asyncio.Protocol):
    """Our end: passes what the machine prints on to `output(bytes)`, and what is typed on to the machine."""

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output
        self.ended = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._pattern: re.Pattern[bytes] | None = None
        self._matched: asyncio.Future[None] | None = None
        self._tail = b""

    def expect(self, pattern: str) -> asyncio.Future[None]:
        """A future that is done once the output matches. Raises NodeError for a bad pattern."""
        try:
            self._pattern = re.compile(pattern.encode())
        except re.error as error:
            raise NodeError(f"ready: {pattern!r} is not a regular expression: {error}") from None
        self._matched = asyncio.get_running_loop().create_future()
        return self._matched

    async def write(self, data: bytes) -> None:
        """Type `data`; waits while the machine does not take it. Raises NodeError when it is not running."""
        await self._writable.wait()
        if self._transport is None or self._transport.is_closing():
            raise NodeError("the machine is not running")
        self._transport.write(data)

    def close(self) -> None:
        """Hang up. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._output(data)
        if self._pattern is not None and self._matched is not None and not self._matched.done():
            self._tail = (self._tail + data)[-_READY_TAIL:]
            if self._pattern.search(self._tail):
                self._matched.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._writable.set()
        self.ended.set()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.set()
