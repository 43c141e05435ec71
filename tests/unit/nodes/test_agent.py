"""The agent as a netns host, through its real client: what commands see, flow control, and what dies with what."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from vswitch.errors import AgentError
from vswitch.nodes.agent import WINDOW_OUT, AgentChannel, AgentSession
from vswitch.nodes.driver import ExecRequest, Exit, Output, run_to_end

from .conftest import Host, descendants, running_host

AS_ROOT = os.geteuid() == 0
BEFORE = () if AS_ROOT else ("unshare", "--user", "--map-root-user")
needs_namespaces = pytest.mark.namespaces


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(bounded())


async def shell(host: Host, command: str, stdin: bytes = b"", **options: Any) -> tuple[int, bytes, bytes]:
    return await run_to_end(host.channel.exec(ExecRequest(argv=("sh", "-c", command), **options)), stdin)


async def start(host: Host, command: str, **options: Any) -> AgentSession:
    return await host.channel.exec(ExecRequest(argv=("sh", "-c", command), **options))


async def read_until(session: AgentSession, text: bytes) -> bytes:
    """Read output up to and with `text`."""
    seen = b""
    async for event in session:
        assert isinstance(event, Output), f"ended before {text!r}: {seen!r}"
        seen += event.data
        if text in seen:
            break
    return seen


def gone(pids: set[int]) -> bool:
    """Wait until every one of these processes has ended (as far as anybody but a parent can tell: zombies count)."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with os.fdopen(fd):
            if not select.select([fd], [], [], 10)[0]:
                return False
    return True


# --- what a host is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before",
    [
        pytest.param((), marks=pytest.mark.root, id="root"),
        pytest.param(
            ("unshare", "--user", "--map-root-user", "--net"), marks=pytest.mark.namespaces, id="user-namespace"
        ),
    ],
)
def test_host_has_its_own_name_hosts_processes_and_interfaces(tmp_path: Path, before: tuple[str, ...]) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("10.1.2.3 somebody\n")
    outside = Path("/etc/hosts").read_text()

    async def test() -> None:
        async with running_host("--hosts", str(hosts), before=before) as host:
            assert host.channel.hello is not None
            assert host.channel.hello.warnings == ()
            code, out, _ = await shell(host, "hostname; cat /etc/hosts; getent hosts somebody; ls /sys/class/net")
            assert code == 0
            assert out == b"tester\n10.1.2.3 somebody\n10.1.2.3        somebody\nlo\n"
            assert (await shell(host, "cat /sys/class/net/lo/flags"))[1] == b"0x9\n"  # IFF_LOOPBACK | IFF_UP
            assert (await shell(host, "ls -d /proc/[0-9]*"))[1].split()[0] == b"/proc/1"
            # What the coordinator uses to reach the host's network: the process it started itself is in it.
            inside = (await shell(host, "readlink /proc/self/ns/net"))[1].decode().strip()
            assert os.readlink(f"/proc/{host.process.pid}/ns/net") == inside  # noqa: PTH115
            assert os.readlink("/proc/self/ns/net") != inside  # noqa: PTH115

    run(test())
    assert Path("/etc/hosts").read_text() == outside


# --- what a command sees ---------------------------------------------------------------------------------------------


@needs_namespaces
def test_exec_carries_stdin_stdout_stderr_environment_directory_and_exit_code() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            data = bytes(range(256)) * 4000
            assert await shell(host, "cat; echo problem >&2; exit 42", data) == (42, data, b"problem\n")
            said = await shell(host, 'echo "$A|$LANG"; pwd', env={"A": "x  y=z", "LANG": "none"}, cwd="/usr")
            assert said == (0, b"x  y=z|none\n/usr\n", b"")
            assert (await shell(host, "kill -KILL $$"))[0] == 128 + signal.SIGKILL
            assert await shell(host, "") == (0, b"", b"")

    run(test())


@needs_namespaces
def test_program_that_cannot_be_started_ends_as_in_a_shell(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            for request, code, reason in (
                (ExecRequest(argv=("no-such-program",)), 127, b"no-such-program: No such file"),
                (ExecRequest(argv=("/etc/passwd",)), 126, b"/etc/passwd: Permission denied"),
                (ExecRequest(argv=("true",), cwd="/nowhere"), 126, b"/nowhere: No such file"),
                (ExecRequest(argv=("true",), cwd="/etc/passwd"), 126, b"/etc/passwd: Not a directory"),
                (ExecRequest(argv=("true",), env={"PATH": str(tmp_path)}), 127, b"true: No such file"),
            ):
                ended, out, err = await run_to_end(host.channel.exec(request))
                assert (ended, out) == (code, b"")
                assert reason in err
            with pytest.raises(AgentError, match="at most 65536"):
                await host.channel.exec(ExecRequest(argv=("true", "x" * 70_000)))
            with pytest.raises(AgentError, match="NUL"):
                await host.channel.exec(ExecRequest(argv=("true", "\0")))
            assert (await shell(host, "true"))[0] == 0

    run(test())


@needs_namespaces
def test_terminal_has_a_size_that_changes_and_delivers_interrupts() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            # With a trap, and nothing left to start: a shell forgets an interrupt that meets it between two commands.
            script = "trap 'exit 130' INT; tty; stty size; read x; stty size; read y"
            session = await start(host, script, tty=(33, 77))
            assert b"33 77\r\n" in await read_until(session, b"33 77\r\n")
            await session.resize(50, 132)
            await session.write(b"\n")
            await read_until(session, b"50 132\r\n")
            await session.write(b"\x03")
            assert [event async for event in session][-1] == Exit(128 + signal.SIGINT)
            # The end of input ends a program that reads a terminal, too.
            code, out, _ = await shell(host, "cat; echo end", b"line\n", tty=(24, 80))
            assert (code, out.replace(b"^D\b\b", b"")) == (0, b"line\r\nline\r\nend\r\n")

    run(test())


@needs_namespaces
def test_signal_reaches_the_whole_process_group() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            session = await start(host, "(trap 'echo child; exit' TERM; echo up; while :; do sleep 0.01; done) & wait")
            await read_until(session, b"up\n")
            await session.signal(signal.SIGTERM)
            events = [event async for event in session]
            assert events[-1] == Exit(128 + signal.SIGTERM)
            assert Output("stdout", b"child\n") in events

    run(test())


@needs_namespaces
def test_sixty_four_commands_run_at_once_without_mixing() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            sessions = [await start(host, "read word; echo $word; exit $word") for _ in range(64)]
            for number, session in reversed(list(enumerate(sessions))):
                await session.write(b"%d\n" % number)
            for number, session in enumerate(sessions):
                assert [event async for event in session] == [Output("stdout", b"%d\n" % number), Exit(number)]

    run(test())


@needs_namespaces
def test_too_many_commands_are_refused_one_by_one() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            sessions = [await start(host, "read word") for _ in range(256)]
            code, _, err = await shell(host, "true")
            assert (code, b"too many commands" in err) == (126, True)
            await sessions[0].write(b"\n")
            assert [event async for event in sessions[0]] == [Exit(0)]
            assert (await shell(host, "true"))[0] == 0

    run(test())


# --- flow control ----------------------------------------------------------------------------------------------------


def resident(pid: int) -> int:
    """Resident memory in KiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


@needs_namespaces
def test_unread_output_stops_the_command_and_nobody_else() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            flood = await start(host, "exec cat /dev/zero")
            size = 50_000_000
            finite = await start(host, f"head -c {size} /dev/zero; echo end")
            for _ in range(20):
                assert (await shell(host, "echo ok"))[1] == b"ok\n"
            held = sum(len(event.data) for event in flood._events if isinstance(event, Output))
            assert held == WINDOW_OUT
            (agent,) = (pid for pid in descendants(host.process.pid) if b"agent" in cmdline(pid))
            assert resident(agent) < 4096
            got = 0
            async for event in finite:
                got += len(event.data) if isinstance(event, Output) else 0
            assert got == size + len("end\n")
            await flood.close()

    run(test())


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@needs_namespaces
def test_unread_input_makes_the_writer_wait_until_it_is_read() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            reader = await start(host, "kill -STOP $$; exec wc -c")
            writing = asyncio.ensure_future(reader.write(bytes(5_000_000)))
            for _ in range(20):
                await shell(host, "true")
            assert not writing.done()
            (agent,) = (pid for pid in descendants(host.process.pid) if b"agent" in cmdline(pid))
            assert resident(agent) < 4096
            await reader.signal(signal.SIGCONT)
            await writing
            await reader.write(b"")
            assert [event async for event in reader] == [Output("stdout", b"5000000\n"), Exit(0)]

    run(test())


@needs_namespaces
def test_input_for_a_command_that_does_not_want_it_is_dropped_without_blocking() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            assert await shell(host, "exec <&-; echo done; exit 3", bytes(1_000_000)) == (3, b"done\n", b"")

    run(test())


# --- ends ------------------------------------------------------------------------------------------------------------


@needs_namespaces
def test_exit_comes_after_all_output_and_does_not_wait_for_background_children() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            begun = asyncio.get_running_loop().time()
            assert await shell(host, "sleep 1000 & echo hi") == (0, b"hi\n", b"")
            code, out, _ = await shell(host, "yes & head -c 60000 /dev/zero >&2; exit 5")
            assert code == 5
            assert set(out) <= set(b"y\n")
            assert asyncio.get_running_loop().time() - begun < 5
            # A reader slower than the linger time still gets everything the command itself wrote.
            session = await start(host, "sleep 1000 & head -c 300000 /dev/zero")
            for _ in range(30):
                await shell(host, "sleep 0.01")
            total = sum([len(event.data) async for event in session if isinstance(event, Output)])
            assert total == 300_000

    run(test())


@needs_namespaces
def test_close_hangs_up_and_then_kills_what_ignores_it() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            polite = await start(host, "echo ready; exec sleep 1234")
            stubborn = await start(host, "trap '' HUP; echo ready; exec sleep 1234")
            for session in (polite, stubborn):
                await read_until(session, b"ready\n")
            pids = {pid for pid in descendants(host.process.pid) if b"1234" in cmdline(pid)}
            assert len(pids) == 2
            for session in (polite, stubborn):
                await session.close()
                await session.close()
                assert [event async for event in session] == []
            assert await asyncio.to_thread(gone, pids)
            assert (await shell(host, "true"))[0] == 0

    run(test())


@needs_namespaces
@pytest.mark.parametrize("end", ["kill-the-stub", "kill-pid-1", "hang-up"])
def test_end_of_a_host_takes_everything_in_it_along(end: str) -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            session = await start(
                host, "setsid sh -c 'trap \"\" HUP TERM; echo up; while :; do sleep 0.01; done' & wait"
            )
            await read_until(session, b"up\n")
            everything = descendants(host.process.pid) | {host.process.pid}
            assert len(everything) >= 4
            pid_1 = next(pid for pid in everything - {host.process.pid} if b"agent" in cmdline(pid))
            if end == "kill-the-stub":
                host.process.kill()
            elif end == "kill-pid-1":
                os.kill(pid_1, signal.SIGKILL)
            else:
                await host.channel.close()
            assert await asyncio.to_thread(gone, everything)
            with pytest.raises(AgentError, match=r"gone|closed"):
                [event async for event in session]

    run(test())


@needs_namespaces
def test_lost_agent_is_told_once_and_fails_all_that_wait() -> None:
    async def test() -> None:
        async with running_host(before=BEFORE) as host:
            told: list[str] = []
            host.channel._on_lost = told.append
            session = await start(host, "sleep 100")
            host.process.kill()
            with pytest.raises(AgentError, match="the node's agent is gone"):
                [event async for event in session]
            with pytest.raises(AgentError, match="gone"):
                await host.channel.exec(ExecRequest(argv=("true",)))
            with pytest.raises(AgentError, match="gone"):
                await session.write(b"x")
            assert told == ["the node's agent is gone"]

    run(test())


# --- a hostile node --------------------------------------------------------------------------------------------------


def frame(kind: int, payload: bytes = b"", session: int = 1) -> bytes:
    return struct.pack("<IIB", len(payload), session, kind) + payload


HELLO = frame(1, struct.pack("<I", 1) + b"a warning\0", session=0)
U32 = struct.Struct("<I").pack


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (frame(9, b"x"), "instead of a greeting"),
        (frame(1, b"", session=0), "instead of a greeting"),
        (frame(1, U32(99), session=0), "version 99"),
        (HELLO + struct.pack("<IIB", 65537, 1, 9), "65537 bytes"),
        (HELLO + struct.pack("<IIB", 0xFFFFFFFF, 1, 9), "4294967295 bytes"),
        (HELLO + frame(9, b"x", session=7), "session 7, which does not exist"),
        (HELLO + frame(11, U32(0)) + frame(11, U32(0)), "session 1, which does not exist"),
        (HELLO + frame(200), "type 200"),
        (HELLO + HELLO, "session 0, which does not exist"),
        (HELLO + frame(2, b"x"), "type 2"),
        (HELLO + frame(9, b""), "empty piece"),
        (HELLO + frame(11, b"\0"), "means nothing"),
        (HELLO + frame(11, U32(256)), "exit code of 256"),
        (HELLO + frame(8, U32(1)), "acknowledged more input"),
        (HELLO + frame(9, bytes(65536)) * 4 + frame(10, b"x"), "262144 bytes of output"),
        (HELLO + frame(9, b"x")[:-1], None),
    ],
)
def test_frame_that_breaks_a_rule_ends_that_channel_with_the_reason(sent: bytes, complaint: str | None) -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        told: list[str] = []
        lost = asyncio.Event()

        def on_lost(reason: str) -> None:
            told.append(reason)
            lost.set()

        channel = AgentChannel(on_lost)
        await channel.open(ours)
        session = await channel.exec(ExecRequest(argv=("x",)))
        theirs.setblocking(False)
        for at in range(0, len(sent), 1000):  # in pieces, as a stream may come
            await asyncio.get_running_loop().sock_sendall(theirs, sent[at : at + 1000])
        theirs.shutdown(socket.SHUT_WR)
        await lost.wait()
        with pytest.raises(AgentError, match=complaint or "the node's agent is gone"):
            [event async for event in session]
            await channel.wait_hello()
            await channel.exec(ExecRequest(argv=("true",)))
        assert len(told) == 1
        await channel.close()
        theirs.close()

    run(test())


def test_tiny_pieces_of_unread_output_are_few_objects() -> None:
    """A node that sends one byte a frame costs little more memory than one that sends large frames."""

    async def test() -> None:
        ours, theirs = socket.socketpair()
        channel = AgentChannel()
        await channel.open(ours)
        session = await channel.exec(ExecRequest(argv=("x",)))
        theirs.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(theirs, HELLO + frame(9, b"x") * 100_000 + frame(11, U32(0)))
        hello = await channel.wait_hello()
        assert hello.warnings == ("a warning",)
        async with asyncio.timeout(10):
            await session.write(bytes(100_000))  # more than its window, so it returns once EXIT has come
        assert len(session._events) <= 2 + 100_000 // 4096
        assert sum([len(event.data) async for event in session if isinstance(event, Output)]) == 100_000
        await channel.close()
        theirs.close()

    run(test())
