"""A client of one running lab: blocking, one request at a time, streams for exec and console."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import msgspec
import zmq

from ..errors import LabError, NoAnswerError, NoSuchLabError
from ..rundir import RunDir
from . import protocol
from .protocol import Answer, Event, LabStatus, Operation, Reply, Request

_MAX_OUTPUT = 64 * 1024


class Client:
    """A connection to a lab's coordinator; a context manager. Not for several threads at once."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        run_dir.run()  # there must be such a lab
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        # The coordinator may still be binding; keep trying quickly, and let request() notice if it died.
        self.socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self.socket.connect(f"ipc://{run_dir.control_socket}")
        self._numbers = itertools.count(1)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; streams still open end."""
        self._context.destroy(linger=0)

    def send(self, operation: Operation, number: int | None = None) -> int:
        """Send a request, or with `number` a message on that open stream; return the request's number."""
        if number is None:
            number = next(self._numbers)
        self.socket.send_multipart(protocol.pack(Request(number, operation)))
        return number

    def receive(self, timeout: float | None = None) -> Reply:
        """Wait for the next reply. Raises NoAnswerError after `timeout` seconds, NoSuchLabError if the lab dies."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.socket.poll(250 if end is None else max(0, min(250, int((end - time.monotonic()) * 1000)))):
            self.check_alive()
            if end is not None and time.monotonic() >= end:
                raise self.no_answer(timeout or 0)
        return protocol.unpack_reply(self.socket.recv_multipart())

    def no_answer(self, seconds: float) -> NoAnswerError:
        """The error to raise when nothing has been heard for `seconds`."""
        pid = self.run_dir.run().owner.pid
        return NoAnswerError(
            f"the coordinator of lab {self.run_dir.name!r} (pid {pid}) has not answered for {seconds:g} s; "
            "if it never will, kill it, then: lab gc"
        )

    def check_alive(self) -> None:
        """Raise NoSuchLabError when the coordinator has died or its lab was taken down."""
        owner = self.run_dir.run().owner  # changes once, from the CLI that claimed the name to the coordinator
        if not owner.alive():
            raise NoSuchLabError(f"the coordinator of lab {self.run_dir.name!r} has died; see: lab ls, lab gc")

    def request(self, operation: Operation, timeout: float | None = None) -> Answer:
        """Send a request and wait for its one reply. Raises LabError with the coordinator's message if it failed."""
        number = self.send(operation)
        while True:
            reply = self.receive(timeout)
            if reply.number == number or (reply.number == 0 and isinstance(reply.answer, protocol.Failed)):
                if isinstance(reply.answer, protocol.Failed):
                    raise LabError(reply.answer.message)
                return reply.answer

    def table(self, operation: Operation, timeout: float | None = 10) -> list[dict[str, Any]]:
        """Ask for a table and return all its rows. `timeout` is for each part of it; raises like `request`."""
        number = self.send(operation)
        rows: list[dict[str, Any]] = []
        while True:
            reply = self.receive(timeout)
            if isinstance(reply.answer, protocol.Failed) and reply.number in (0, number):
                raise LabError(reply.answer.message)
            if reply.number == number and isinstance(reply.answer, protocol.Table):
                rows += reply.answer.rows
                if not reply.answer.more:
                    return rows

    def status(self, timeout: float | None = 10) -> LabStatus:
        """The lab as it is now."""
        answer = self.request(protocol.Status(), timeout)
        assert isinstance(answer, LabStatus)
        return answer

    def run(self, node: str, argv: tuple[str, ...], timeout: float) -> tuple[int | None, bytes]:
        """Run a command in `node` without input; return (exit code or None after `timeout` seconds, its output).

        Of long output only the end is kept. Raises LabError when the command cannot be started.
        """
        number = self.send(protocol.Exec(node, argv))
        self.send(protocol.Input(b""), number)
        output = bytearray()
        end = time.monotonic() + timeout
        while True:
            try:
                reply = self.receive(max(0.0, end - time.monotonic()))
            except NoAnswerError:
                self.send(protocol.Hangup(), number)
                return None, bytes(output)
            if reply.number != number:
                continue
            match reply.answer:
                case protocol.Output(_, data):
                    output = (output + data)[-_MAX_OUTPUT:]
                    self.send(protocol.Ack(protocol.cost(data)), number)
                case protocol.Exited(code):
                    return code, bytes(output)
                case protocol.Failed(message):
                    raise LabError(message)

    def pause(self, seconds: float) -> None:
        """Let `seconds` pass before asking again; late replies to abandoned requests are thrown away."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.socket.poll(int(left * 1000) + 1):
                self.socket.recv_multipart()

    def follow(self) -> Iterator[LabStatus | Event | None]:
        """Yield the status now, then every event after it; None about every 0.1 s of quiet.

        Should events have been lost, because they came faster than we took them, the status is yielded anew in their
        place. Raises NoSuchLabError when the lab goes away.
        """
        events = self._context.socket(zmq.SUB)
        events.setsockopt(zmq.SUBSCRIBE, b"")
        events.setsockopt(zmq.RCVHWM, 0)
        events.setsockopt(zmq.RECONNECT_IVL, 10)
        events.connect(f"ipc://{self.run_dir.events_socket}")
        try:
            while not events.poll(100):
                self.check_alive()
            events.recv_multipart()  # the welcome message: from here on nothing is missed
            status = self.status(timeout=None)
            yield status
            while True:
                if not events.poll(100):
                    self.check_alive()
                    yield None
                    continue
                event = protocol.unpack_event(events.recv_multipart())
                if event.sequence == status.sequence + 1:
                    status = msgspec.structs.replace(status, sequence=event.sequence)
                    yield event
                elif event.sequence > status.sequence:
                    status = self.status(timeout=None)
                    yield status
        finally:
            events.close(linger=0)
