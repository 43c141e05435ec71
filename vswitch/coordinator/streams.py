"""Open streams between a client and a node: a running command, or an attached console.

Both directions are bounded by acknowledged bytes, so neither a fast command nor a slow terminal fills our memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from ..errors import LabError
from ..nodes.driver import Driver, ExecSession, Exit
from . import protocol
from .console import ConsoleLog
from .protocol import Ack, Answer, Exited, Failed, Input, Output, Resize, Signal, Started

_KEEPALIVE = 1.0
_MAX_PIECE = 64 * 1024
_MAX_QUEUED = 10_000

Send = Callable[[Answer], Awaitable[None]]
"""Sends one reply of the stream; raises ConnectionError once the client is gone."""


class Stream:
    """One open stream. `run()` ends when it is over; `handle()` takes the client's messages for it meanwhile."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._inbox: asyncio.Queue[Input | Resize | Signal] = asyncio.Queue()
        self._queued = 0
        self._credit = protocol.WINDOW
        self._acknowledged = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._hung_up = False

    def handle(self, operation: Input | Resize | Signal | Ack) -> None:
        """Take a message of the client's. One that sends more input than its window allows loses the stream."""
        if isinstance(operation, Ack):
            self._credit += max(0, operation.size)
            self._acknowledged.set()
            return
        if isinstance(operation, Input):
            self._queued += protocol.cost(operation.data)
        if self._queued > 2 * protocol.WINDOW or self._inbox.qsize() > _MAX_QUEUED:
            self.hang_up()
        else:
            self._inbox.put_nowait(operation)

    def hang_up(self) -> None:
        """End the stream, also one that has not begun yet."""
        self._hung_up = True
        if self._task is not None:
            self._task.cancel()

    async def run(self, work: Callable[[], Awaitable[int]]) -> None:
        """Run `work` (which returns the exit code), telling the client how it began and ended."""
        if self._hung_up:
            return
        self._task = asyncio.current_task()
        try:
            async with asyncio.TaskGroup() as group:
                alive = group.create_task(self._stay_alive())
                try:
                    await self._send(Exited(await work()))
                except LabError as error:
                    await self._send(Failed(str(error)))
                finally:
                    alive.cancel()
        except* ConnectionError:
            pass  # the client is gone, and with it the stream

    async def _stay_alive(self) -> None:
        while True:
            await asyncio.sleep(_KEEPALIVE)
            await self._send(protocol.Alive())

    async def command(self, start: Callable[[], Awaitable[ExecSession]]) -> int:
        """Carry a command's input and output until it ends; return its exit code."""
        session = await start()
        feeder = asyncio.ensure_future(self._feed(session))
        try:
            await self._send(Started())
            async for event in session:
                if isinstance(event, Exit):
                    return event.code
                await self._output(event.stream, event.data)
            return 255
        finally:
            feeder.cancel()
            with contextlib.suppress(asyncio.CancelledError, LabError):
                await feeder
            await session.close()

    async def _feed(self, session: ExecSession) -> None:
        while True:
            operation = await self._inbox.get()
            with contextlib.suppress(LabError):  # the command may have closed its stdin or ended
                match operation:
                    case Input(data):
                        await session.write(data)
                    case Resize(rows, columns):
                        await session.resize(rows, columns)
                    case Signal(number):
                        await session.signal(number)
            if isinstance(operation, Input) and operation.data:
                self._queued -= protocol.cost(operation.data)
                await self._send(Ack(protocol.cost(operation.data)))

    async def console(self, driver: Driver, console: ConsoleLog) -> int:
        """Show a console and type on it until the client hangs up."""
        if not driver.has_console:
            await driver.console_write(b"")  # raises, saying what to do instead
        typist = asyncio.ensure_future(self._type(driver))
        watcher: AsyncIterator[bytes] = console.attach()
        try:
            await self._send(Started())
            async for data in watcher:
                await self._output("stdout", data)
            return 0
        finally:
            typist.cancel()
            with contextlib.suppress(asyncio.CancelledError, LabError):
                await typist

    async def _type(self, driver: Driver) -> None:
        while True:
            operation = await self._inbox.get()
            if isinstance(operation, Input) and operation.data:
                self._queued -= protocol.cost(operation.data)
                await driver.console_write(operation.data)
                await self._send(Ack(protocol.cost(operation.data)))

    async def _output(self, stream: str, data: bytes) -> None:
        for start in range(0, len(data), _MAX_PIECE):
            piece = data[start : start + _MAX_PIECE]
            while self._credit <= 0:
                self._acknowledged.clear()
                await self._acknowledged.wait()
            self._credit -= protocol.cost(piece)
            await self._send(Output(stream, piece))
