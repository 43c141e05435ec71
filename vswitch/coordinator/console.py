"""A node's console output: logged to a bounded file, kept as a tail, and shown to whoever is attached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

TAIL_SIZE = 16 * 1024
LOG_SIZE = 16 << 20
_QUEUE = 256


class ConsoleLog:
    """Takes what a node prints. The file stops growing at LOG_SIZE bytes (a guest may print for ever) and says so."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()
        self._tail = bytearray()
        self._watchers: set[asyncio.Queue[bytes]] = set()

    def write(self, data: bytes) -> None:
        """Add output."""
        self._tail = (self._tail + data)[-TAIL_SIZE:]
        if self._size < LOG_SIZE:
            self._file.write(data[: LOG_SIZE - self._size])
            self._size += len(data)
            if self._size >= LOG_SIZE:
                self._file.write(b"\n[vswitch: console log full, what follows is shown only live]\n")
        for queue in self._watchers:
            if queue.full():  # an attached terminal that does not read loses output, the node is never held up
                queue.get_nowait()
            queue.put_nowait(data)

    def tail(self, lines: int) -> list[str]:
        """The last `lines` lines printed, without control characters."""
        text = self._tail.decode(errors="replace").replace("\r", "")
        clean = "".join(char for char in text if char == "\n" or char == "\t" or char.isprintable())
        return [line for line in clean.split("\n") if line.strip()][-lines:]

    async def attach(self) -> AsyncIterator[bytes]:
        """Yield the tail, then output as it comes, until the iterator is closed."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUE)
        if self._tail:
            queue.put_nowait(bytes(self._tail))
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
