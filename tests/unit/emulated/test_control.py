"""The node's side of the agent protocol, spoken to by the coordinator's own side of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.emulated.control import MAX_OUTPUT, Control, ControlError
from vswitch.emulated.role import Reply
from vswitch.nodes.agent import WINDOW_OUT, AgentChannel
from vswitch.nodes.driver import ExecRequest, Exit, run_to_end

Run = Callable[[Sequence[str], Reply], None]


async def _pump(control: Control, sock: socket.socket) -> None:
    """What the node's loop does."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    while True:
        while control.output:
            data = bytes(control.output)
            control.output.clear()
            await loop.sock_sendall(sock, data)
        data = await loop.sock_recv(sock, 65536)
        if not data:
            return
        control.received(data)


def talk(run: Run, work: Callable[[AgentChannel], Awaitable[None]]) -> None:
    """Have `work` talk to a node that runs commands with `run`."""

    async def both() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            pump = asyncio.ensure_future(_pump(Control(run), theirs))  # may still be answering when the other side goes
            channel = AgentChannel()
            await channel.open(ours)
            await channel.wait_hello()
            await work(channel)
            await channel.close()
            with contextlib.suppress(ConnectionError):
                await pump

    asyncio.run(asyncio.wait_for(both(), 20))


def test_command_says_its_piece_and_ends_with_its_code() -> None:
    def run(argv: Sequence[str], reply: Reply) -> None:
        reply.out(" ".join(argv))
        reply.err("grief\n")
        reply.exit(3)
        reply.out("too late")

    async def work(channel: AgentChannel) -> None:
        request = ExecRequest(argv=("a", "b c"), env={"X": "1"}, cwd="/")
        assert await run_to_end(channel.exec(request), stdin=b"nobody reads this" * 10_000) == (3, b"a b c", b"grief\n")

    talk(run, work)


def test_line_given_to_a_shell_is_the_command_itself() -> None:
    def run(argv: Sequence[str], reply: Reply) -> None:
        reply.out("|".join(argv))
        reply.exit()

    async def work(channel: AgentChannel) -> None:
        assert (await run_to_end(channel.exec(ExecRequest(argv=("sh", "-c", "expect 'a b' c")))))[1] == b"expect|a b|c"
        code, _, err = await run_to_end(channel.exec(ExecRequest(argv=("sh", "-c", "it's"))))
        assert (code, b"No closing quotation" in err) == (2, True)

    talk(run, work)


def test_more_output_than_the_window_arrives_whole_and_in_order() -> None:
    text = "".join(f"{number}\n" for number in range(100_000))
    assert len(text) > 2 * WINDOW_OUT

    def run(argv: Sequence[str], reply: Reply) -> None:
        reply.out(text)
        reply.exit()

    async def work(channel: AgentChannel) -> None:
        assert (await run_to_end(channel.exec(ExecRequest(argv=("x",)))))[:2] == (0, text.encode())

    talk(run, work)


@pytest.mark.parametrize("how", ["signal", "terminal"])
def test_interrupt_cancels_a_command_that_goes_on(how: str) -> None:
    cancelled = []

    def run(argv: Sequence[str], reply: Reply) -> None:
        def end() -> None:
            cancelled.append(True)
            reply.out("last words\n")
            reply.exit(130)

        reply.cancelled = end
        reply.out("going\n")

    async def work(channel: AgentChannel) -> None:
        session = await channel.exec(ExecRequest(argv=("x",), tty=(24, 80) if how == "terminal" else None))
        said = b""
        async for event in session:
            if isinstance(event, Exit):
                assert event.code == 130
                break
            said += event.data
            if how == "signal":
                await session.signal(2)
            else:
                await session.write(b"\x03")
        assert cancelled == [True]
        assert said == (b"going\r\nlast words\r\n" if how == "terminal" else b"going\nlast words\n")

    talk(run, work)


def test_hanging_up_cancels_a_command_once() -> None:
    cancelled = []

    def run(argv: Sequence[str], reply: Reply) -> None:
        if argv[0] == "long":
            reply.cancelled = lambda: cancelled.append(True)
        else:
            reply.exit()

    async def work(channel: AgentChannel) -> None:
        session = await channel.exec(ExecRequest(argv=("long",)))
        await session.close()
        await run_to_end(channel.exec(ExecRequest(argv=("short",))))
        assert cancelled == [True]

    talk(run, work)


def test_output_nobody_takes_ends_the_command_instead_of_filling_memory() -> None:
    replies: list[Reply] = []
    control = Control(lambda argv, reply: replies.append(reply))
    exec_payload = struct.pack("<BHHHH", 0, 0, 0, 1, 0) + b"\0x\0"
    control.received(struct.pack("<IIB", len(exec_payload), 1, 2) + exec_payload)
    cancelled = []
    replies[0].cancelled = lambda: cancelled.append(True)
    for _ in range(MAX_OUTPUT // 1000 + 400):
        replies[0].out("x" * 1000)
    assert cancelled == [True]
    assert len(control.output) <= WINDOW_OUT + 100_000


def test_input_to_a_command_that_goes_on_is_taken_and_thrown_away() -> None:
    async def work(channel: AgentChannel) -> None:
        session = await channel.exec(ExecRequest(argv=("x",)))
        await session.write(b"x" * 300_000)

    talk(lambda argv, reply: None, work)


def test_frame_of_an_absurd_length_is_refused_at_once() -> None:
    with pytest.raises(ControlError, match="65537 bytes"):
        Control(lambda argv, reply: None).received(struct.pack("<IIB", 65537, 1, 2))


@given(st.binary(max_size=60))
def test_any_bytes_at_all_are_survived_or_refused(data: bytes) -> None:
    control = Control(lambda argv, reply: reply.exit())
    try:
        control.received(data)
        control.received(struct.pack("<IIB", len(data), 1, 2) + data)
    except ControlError:
        pass
