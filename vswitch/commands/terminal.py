"""Joining this process's stdin, stdout, stderr and terminal to an open stream of the coordinator's."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator

import click
import zmq

from ..coordinator import protocol
from ..coordinator.client import Client
from ..errors import LabError, ProtocolError

_READ = 32 * 1024
_SILENCE = 10.0  # s
_GRACE = 1.0  # s the command has to end by itself once we are told to
_DETACH = b"\x1d"  # Ctrl-], telnet's


def terminal_size() -> tuple[int, int]:
    """(rows, columns) of the terminal on stdin or stdout; 24 x 80 without one."""
    for fd in (0, 1):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(fd)
            return size.lines, size.columns
    return 24, 80


def terminal_environment() -> dict[str, str]:
    """What a command on this terminal must know of it."""
    return {"TERM": os.environ.get("TERM", "dumb")}


def join(
    client: Client, operation: protocol.Operation, *, raw: bool, detachable: bool = False, greeting: str = ""
) -> int:
    """Open a stream with `operation`, carry input and output until it ends, return the exit code.

    With `raw` the terminal passes every key on; otherwise Ctrl-C is sent as a signal (a second one gives up).
    With `detachable`, Ctrl-] ends the stream from this side. `greeting` is said once it is open. Raises LabError when
    it cannot be opened.
    """
    number = client.send(operation)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    session = _Session(client, number, detachable, greeting)
    with _signals(wake_write, raw), _raw_terminal(raw):
        try:
            return session.run(wake_read)
        finally:
            os.close(wake_read)
            os.close(wake_write)


class _Session:
    def __init__(self, client: Client, number: int, detachable: bool, greeting: str) -> None:
        self._client = client
        self._number = number
        self._detachable = detachable
        self._greeting = greeting
        self._credit = protocol.WINDOW
        self._input_open = True
        self._interrupts = 0
        self._ended_by = 0  # a signal that ends us, too
        self._end = math.inf  # when, by the monotonic clock
        self._heard = time.monotonic()

    def _send(self, operation: protocol.Operation) -> None:
        self._client.send(operation, self._number)

    def run(self, wake: int) -> int:
        poller = zmq.Poller()
        poller.register(self._client.socket, zmq.POLLIN)
        poller.register(wake, zmq.POLLIN)
        while True:
            reading = self._input_open and self._credit > 0
            if reading:
                poller.register(0, zmq.POLLIN)
            elif 0 in poller:
                poller.unregister(0)
            ready = dict(poller.poll(200))
            now = time.monotonic()
            if not ready:
                self._client.check_alive()
            if wake in ready:
                self._signalled(os.read(wake, 64))
            if self._interrupts > 1 or now > self._end:
                self._send(protocol.Hangup())
                return 128 + (self._ended_by or signal.SIGINT)
            if self._client.socket in ready:
                self._heard = now
            elif now - self._heard > _SILENCE:  # open streams are told every second that they are alive
                raise self._client.no_answer(_SILENCE)
            if self._client.socket in ready:
                code = self._replies()
                if code is not None:
                    return code
            if ready.get(0) and not self._type():
                self._send(protocol.Hangup())
                return 0

    def _replies(self) -> int | None:
        while self._client.socket.poll(0):
            try:
                reply = protocol.unpack_reply(self._client.socket.recv_multipart())
            except ProtocolError as error:
                raise LabError(str(error)) from None
            match reply.answer:
                case protocol.Started():
                    if self._greeting:
                        click.echo(self._greeting + ("\r" if sys.stdin.isatty() else ""), err=True)
                case protocol.Output(stream, data):
                    self._print(1 if stream == "stdout" else 2, data)
                    self._send(protocol.Ack(protocol.cost(data)))
                case protocol.Ack(size):
                    self._credit += size
                case protocol.Exited(code):
                    return code
                case protocol.Failed(message):
                    raise LabError(message)
                case _:
                    pass
        return None

    def _print(self, fd: int, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            self._send(protocol.Hangup())
            raise

    def _type(self) -> bool:
        """Pass on what was typed; return False when the user detaches."""
        try:
            data = os.read(0, min(_READ, self._credit))
        except OSError:
            data = b""
        if self._detachable and _DETACH in data:
            return False
        if data:
            self._credit -= protocol.cost(data)
        else:
            self._input_open = False
        self._send(protocol.Input(data))
        return bool(data) or not self._detachable

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._send(protocol.Resize(*terminal_size()))
            else:
                self._interrupts += number == signal.SIGINT
                self._send(protocol.Signal(number))
                if number in (signal.SIGTERM, signal.SIGHUP):
                    self._ended_by, self._end = number, time.monotonic() + _GRACE


@contextlib.contextmanager
def _signals(wake: int, raw: bool) -> Iterator[None]:
    """Deliver the signals we pass on as bytes on `wake`."""
    passed = [signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, *([] if raw else [signal.SIGINT])]
    before = {number: signal.signal(number, lambda *_: None) for number in passed}
    old = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _raw_terminal(raw: bool) -> Iterator[None]:
    if not raw or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        click.echo("\r", nl=False)
