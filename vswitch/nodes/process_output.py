"""What a node's process prints, read through a pipe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import IO

_TAIL = 1024  # bytes
_LOG_LIMIT = 1024 * 1024  # bytes


class ProcessOutput(asyncio.Protocol):
    """Passes all of it on to `output(bytes)`, and keeps the last line: where a process fails, that says why."""

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output
        self._transport: asyncio.BaseTransport | None = None
        self._tail = b""
        self.ended = asyncio.Event()

    @property
    def last_line(self) -> str:
        """The last line so far, "" when there is none."""
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """Read no more. Idempotent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._tail = (self._tail + data)[-_TAIL:]
        self._output(data)

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.ended.set()


class LoggedOutput(ProcessOutput):
    """Writes it to a file, up to 1 MiB."""

    def __init__(self, path: Path) -> None:
        super().__init__(self._log)
        self._path = path
        self._file: IO[bytes] | None = None
        self._left = _LOG_LIMIT

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._file = self._path.open("wb", buffering=0)

    def _log(self, data: bytes) -> None:
        if self._file is not None and self._left > 0:
            self._file.write(data[: self._left])
            self._left -= len(data)

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._file is not None:
            self._file.close()
        super().connection_lost(error)
