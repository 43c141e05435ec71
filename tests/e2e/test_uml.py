"""The User-Mode Linux driver with real machines, without the coordinator or the fabric between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from vswitch.errors import NodeError
from vswitch.model.lab import Interface
from vswitch.nodes.driver import ExecRequest, run_to_end
from vswitch.nodes.uml import UmlDriver

from .machines import Machine, bounded, nic, open_descriptors

pytestmark = [pytest.mark.uml, pytest.mark.timeout(120)]


def machine(path: Path, name: str, *interfaces: Interface, **settings: Any) -> Machine:
    return Machine(path, name, interfaces, driver=UmlDriver, **settings)


@asynccontextmanager
async def plugged_together(a: Machine, b: Machine) -> AsyncIterator[None]:
    """Join the first interfaces of two machines, and pass frames between them as the fabric would."""
    ends = [await each.driver.open_port(each.driver.node.interfaces[0]) for each in (a, b)]
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=ends[0].fds[0]) as one, socket.socket(fileno=ends[1].fds[0]) as other:

        def forward(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                target.send(source.recv(70_000))

        for source, target in ((one, other), (other, one)):
            source.setblocking(False)
            loop.add_reader(source, forward, source, target)
        try:
            yield
        finally:
            loop.remove_reader(one)
            loop.remove_reader(other)


def processes_in(directory: Path) -> list[int]:
    """Processes with `directory` on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.fsencode(directory) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


async def gone(directory: Path) -> None:
    """Wait until no process with `directory` on its command line is left."""
    for pid in processes_in(directory):
        with contextlib.suppress(ProcessLookupError):
            ended = asyncio.Event()
            pidfd = os.pidfd_open(pid)
            asyncio.get_running_loop().add_reader(pidfd, ended.set)
            await ended.wait()
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
    assert processes_in(directory) == []


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.root  # a PID namespace of its own, which users have in labs only
def test_two_uml_machines_ping_by_name_after_start_and_leave_nothing(tmp_path: Path) -> None:
    """Everything `start` promises: names, addresses, MTU; then exec, terminals, the console and a clean stop."""

    async def main() -> None:
        a = machine(tmp_path / "1", "vm1", nic("lan", 1, "10.0.0.1/24", "fd00::1/64", mtu=9000))
        b = machine(tmp_path / "2", "vm2", nic("eth7", 2, "10.0.0.2/24", "fd00::2/64", mtu=9000))
        async with plugged_together(a, b), bounded(a, b):
            await asyncio.gather(a.driver.start(), b.driver.start())
            code, out, _ = await a.run("ping -c2 -W5 vm2 && ping -6 -c1 -W5 fd00::2; hostname; ip addr show lan")
            assert code == 0, out
            assert b"2 packets received" in out
            assert b"1 packets received" in out
            assert b"\nvm1\n" in out
            assert b"mtu 9000" in out
            assert b"52:54:00:00:00:01" in out
            assert (await a.run("ping -c1 -s 8972 -W5 vm2"))[0] == 0
            assert (await a.run("ping -c1 -W1 10.0.0.77"))[0] != 0

            data = bytes(range(256)) * 400
            code, out, err = await run_to_end(
                a.driver.exec(ExecRequest(argv=("sh", "-c", "cat; echo e >&2; exit 9"))), data
            )
            assert (code, out, err) == (9, data, b"e\n")
            code, out, _ = await run_to_end(a.driver.exec(ExecRequest(argv=("stty", "size"), tty=(33, 77))))
            assert out == b"33 77\r\n"

            await a.driver.console_write(b"\n")
            await a.driver.console_write(b"echo answer $((6*7))\n")
            await a.printed(b"answer 42")
        assert (a.ends, b.ends) == ([], [])
        assert processes_in(tmp_path) == []

    before = open_descriptors()
    asyncio.run(main())
    assert open_descriptors() == before
    assert [*tmp_path.rglob("mconsole"), *tmp_path.rglob("vm_file*")] == []


def test_interface_comes_back_after_it_was_set_down(tmp_path: Path) -> None:
    """User-Mode Linux closes the descriptor of an interface set down; it must be there when it is set up again."""

    async def main() -> None:
        a = machine(tmp_path / "1", "vm1", nic("eth0", 1, "10.0.0.1/24"))
        b = machine(tmp_path / "2", "vm2", nic("eth0", 2, "10.0.0.2/24"))
        async with plugged_together(a, b), bounded(a, b):
            await asyncio.gather(a.driver.start(), b.driver.start())
            code, out, err = await a.run(
                "for i in 1 2 3; do ip link set eth0 down && ip link set eth0 up && ping -c1 -W5 vm2 || exit 1; done"
            )
            assert code == 0, (out, err)

    asyncio.run(main())


def test_guest_finds_its_modules_and_nothing_else_of_the_host(tmp_path: Path) -> None:
    """`modprobe` works; mounting hostfs anywhere shows the modules only."""

    async def main() -> None:
        vm = machine(tmp_path / "1", "vm1")
        async with bounded(vm):
            await vm.driver.start()
            code, out, err = await vm.run(
                "modprobe bridge && modprobe 8021q && lsmod && mount -t hostfs none /mnt -o /"
            )
            assert code == 0, err
            assert b"bridge" in out
            code, out, _ = await vm.run("ls /mnt /mnt/.. /mnt/../..; cat /mnt/etc/passwd")
            assert b"bin\n" in out  # of the guest's own root, which lies above the mount
            assert code != 0
            code, out, _ = await vm.run("ls /mnt; env")
            assert all(name.startswith(b"6.") for name in out.partition(b"\n")[0].split())
            assert b"hostfs=" not in out

    asyncio.run(main())


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("poweroff", "the guest powered off"),
        ("reboot", "the guest rebooted"),
        ("echo c >/proc/sysrq-trigger", "the guest's kernel panicked: sysrq triggered crash"),
    ],
)
def test_end_of_the_guest_is_told_with_its_cause(tmp_path: Path, command: str, reason: str) -> None:
    """A guest that ends by itself is reported once, in words, and nothing of it is left."""

    async def main() -> None:
        vm = machine(tmp_path / "1", "vm1")
        async with bounded(vm):
            await vm.driver.start()
            await vm.driver.exec(ExecRequest(argv=("sh", "-c", command)))
            await vm.ended.wait()
            assert vm.ends == [reason]
            assert vm.driver.pid is None
            await gone(tmp_path)

    asyncio.run(main())


@pytest.mark.root  # the same
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_killing_any_of_its_processes_ends_them_all(tmp_path: Path, victim: int) -> None:
    """The waiting process, PID 1 of its namespace and User-Mode Linux's own: whichever is killed, none survives."""

    async def main() -> None:
        vm = machine(tmp_path / "1", "vm1")
        async with bounded(vm):
            await vm.driver.start()
            await vm.driver.exec(ExecRequest(argv=("sh", "-c", "while :; do :; done")))
            pid = vm.driver.pid
            assert pid is not None
            for _ in range(victim):
                pid = child_of(pid)
            assert len(processes_in(tmp_path)) > 3
            os.kill(pid, signal.SIGKILL)
            await vm.ended.wait()
            assert len(vm.ends) == 1
            assert "killed by SIGKILL" in vm.ends[0]
            await gone(tmp_path)

    asyncio.run(main())


def test_machine_that_cannot_boot_says_why(tmp_path: Path) -> None:
    """Too little memory is not a silent time-out: the end is reported while starting."""

    async def main() -> None:
        vm = machine(tmp_path / "1", "vm1", memory="16M")
        async with bounded(vm):
            with pytest.raises(NodeError, match=r"the guest's kernel panicked|User-Mode Linux: "):
                await vm.driver.start()

    asyncio.run(main())


def test_machine_stopped_while_it_boots_is_gone(tmp_path: Path) -> None:
    """`stop` may come at any moment."""

    async def main() -> None:
        vm = machine(tmp_path / "1", "vm1", nic("eth0", 1))
        async with bounded(vm):
            end = await vm.driver.open_port(vm.driver.node.interfaces[0])
            os.close(end.fds[0])
            starting = asyncio.ensure_future(vm.driver.start())
            await vm.printed(b"SELinux")  # its kernel is under way
            starting.cancel()
            await asyncio.wait({starting})
        assert processes_in(tmp_path) == []

    asyncio.run(main())
