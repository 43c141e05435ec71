"""The QEMU driver with real machines, without the coordinator or the fabric between."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from vswitch.errors import NodeError
from vswitch.nodes.driver import ExecRequest, run_to_end
from vswitch.nodes.image import default_image
from vswitch.ports.bus import Bus

from .machines import Machine, bounded, nic, open_descriptors

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]


def test_two_machines_on_a_socket_pair_ping_by_name_after_start(tmp_path: Path) -> None:
    """Everything `start` promises: names, addresses, MTU, order of interfaces; then exec, console and a clean stop."""

    async def main() -> None:
        before = open_descriptors()
        # Names against the bus order, so that each has to be found by its MAC and renamed out of the other's way.
        vm1 = Machine(
            tmp_path / "1",
            "vm1",
            (nic("eth1", 1, "10.0.0.1/24", "fd00::1/64"), nic("eth0", 2, "10.9.0.1/24", mtu=9000)),
        )
        vm2 = Machine(tmp_path / "2", "vm2", (nic("lan", 3, "10.0.0.2/24", "fd00::2/64", model="vmxnet3"),))
        async with bounded(vm1, vm2):
            pair = socket.socketpair()
            await vm1.driver.join_socket(vm1.driver.node.interfaces[0], pair[0])
            await vm2.driver.join_socket(vm2.driver.node.interfaces[0], pair[1])
            end = await vm1.driver.open_port(vm1.driver.node.interfaces[1])
            assert end.port_type == "stream"
            await vm1.driver.set_carrier(vm1.driver.node.interfaces[1], False)
            await asyncio.gather(vm1.driver.start(), vm2.driver.start())
            assert vm1.driver.facts()["accel"] in ("tcg", "kvm")

            code, out, _ = await vm1.run("ping -c2 -W5 vm2 && ping -6 -c1 -W5 fd00::2; hostname; ip addr")
            assert code == 0, out
            assert b"2 packets received" in out
            assert b"1 packets received" in out
            assert b"\nvm1\n" in out
            assert b"mtu 9000" in out
            code, out, _ = await vm1.run("cat /sys/class/net/eth1/address /sys/class/net/eth0/address")
            assert out == b"52:54:00:00:00:01\n52:54:00:00:00:02\n"
            assert (await vm1.run("ping -c1 -W1 10.0.0.77"))[0] != 0

            # What was told before the guest was there holds, and what is told later does as well.
            for up in (None, True, False, True):
                if up is not None:
                    await vm1.driver.set_carrier(vm1.driver.node.interfaces[1], up)
                _, out, _ = await vm1.run("cat /sys/class/net/eth0/carrier /sys/class/net/eth1/carrier")
                assert out == (b"1\n1\n" if up else b"0\n1\n")

            # A frame the guest sends out of its port has QEMU's length before it.
            await vm1.run("arping -c1 -w1 -I eth0 10.9.0.2 || true")
            received = os.read(end.fds[0], 65536)
            assert int.from_bytes(received[:4], "big") in (42, 60, 70, 86, 90)
            os.close(end.fds[0])

            code, out, err = await run_to_end(
                vm1.driver.exec(ExecRequest(argv=("sh", "-c", "cat; echo e >&2; exit 9"))), b"in\0\xff" * 30_000
            )
            assert (code, out, err) == (9, b"in\0\xff" * 30_000, b"e\n")
            code, out, _ = await run_to_end(vm1.driver.exec(ExecRequest(argv=("stty", "size"), tty=(33, 77))))
            assert out == b"33 77\r\n"

            await vm1.driver.console_write(b"\n")
            await vm1.driver.console_write(b"echo answer $((6*7))\n")
            await vm1.printed(b"answer 42")
        assert (vm1.ends, vm2.ends) == ([], [])
        await asyncio.sleep(0)  # closing a transport takes effect on the loop's next round
        assert open_descriptors() <= before + 1  # the event loop's own thread pool may have come
        await vm1.driver.stop()

    asyncio.run(main())


def test_machines_on_a_multicast_bus_hear_each_other(tmp_path: Path) -> None:
    async def main() -> None:
        vm1 = Machine(tmp_path / "1", "vm1", (nic("eth0", 1, "10.0.0.1/24"),))
        vm2 = Machine(tmp_path / "2", "vm2", (nic("eth0", 2, "10.0.0.2/24"),))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            bus = Bus("230.0.0.77", free.getsockname()[1])
        async with bounded(vm1, vm2):
            for machine in (vm1, vm2):
                await machine.driver.join_bus(machine.driver.node.interfaces[0], bus)
            await asyncio.gather(vm1.driver.start(), vm2.driver.start())
            code, out, _ = await vm1.run("ping -c1 -W5 vm2")
            assert code == 0, out

    asyncio.run(main())


def test_machine_with_its_own_kernel_disk_and_no_agent_is_ready_by_its_console(tmp_path: Path) -> None:
    """A user's kernel, initrd and qcow2: writes reach only the overlay, the console tells when it is ready."""
    image = default_image()
    disk = tmp_path / "data, with comma.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    before = hashlib.sha256(disk.read_bytes()).digest()

    async def main() -> None:
        vm = Machine(
            tmp_path / "run",
            "own",
            kernel=str(shutil.copy(image.kernel, tmp_path / "kernel")),
            initrd=str(shutil.copy(image.initrd, tmp_path / "initrd")),
            disk=str(disk),
            ready={"console": r"Press (Enter|Return) for a shell"},
            append="quiet random.trust_cpu=on",
        )
        async with bounded(vm):
            await vm.driver.start()
            with pytest.raises(NodeError, match="lab console own"):
                await vm.driver.exec(ExecRequest(argv=("true",)))
            # No modules are loaded for a disk by itself; what is written must not show in the file behind.
            await vm.driver.console_write(b"\n")
            await vm.driver.console_write(
                b"modprobe virtio_blk && echo written-by-guest | dd of=/dev/vda conv=fsync && echo done-$((1+1))\n"
            )
            await vm.printed(b"done-2")
        assert hashlib.sha256(disk.read_bytes()).digest() == before
        assert b"written-by-guest" in (tmp_path / "run" / "disk.qcow2").read_bytes()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("poweroff -f", "the guest powered off"),
        ("poweroff", "the guest powered off"),
        ("reboot -f", "the guest rebooted, or its kernel panicked"),
        ("echo c >/proc/sysrq-trigger", "the guest rebooted, or its kernel panicked"),
    ],
)
def test_guest_that_ends_itself_is_reported_once_with_the_cause(tmp_path: Path, command: str, reason: str) -> None:
    async def main() -> None:
        vm = Machine(tmp_path / "run", "vm1")
        async with bounded(vm):
            await vm.driver.start()
            with pytest.raises(NodeError, match="agent is gone"):
                await vm.run(f"{command}; sleep 60")
            await vm.ended.wait()
        assert vm.ends == [reason]

    asyncio.run(main())


def test_killed_qemu_is_reported_with_the_signal(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Machine(tmp_path / "run", "vm1")
        async with bounded(vm):
            await vm.driver.start()
            pid = vm.driver.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await vm.ended.wait()
        assert vm.ends == ["QEMU: killed by SIGKILL"]

    asyncio.run(main())


def test_qemu_that_refuses_its_command_line_fails_the_start_in_its_own_words(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Machine(tmp_path / "run", "vm1", args=["-device", "no-such-device"])
        async with bounded(vm):
            with pytest.raises(NodeError, match="'no-such-device' is not a valid device model name"):
                await vm.driver.start()
        assert len(vm.ends) == 1
        assert "no-such-device" in (tmp_path / "run" / "qemu.log").read_text()

    asyncio.run(main())


def test_start_that_is_cancelled_leaves_a_machine_that_stops(tmp_path: Path) -> None:
    async def main() -> None:
        vm = Machine(tmp_path / "run", "vm1", append="rdinit=/bin/cat")
        async with bounded(vm):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):  # long enough to have started QEMU; this guest never answers
                    await vm.driver.start()
            assert vm.driver.pid is not None
        assert vm.ends == []

    asyncio.run(main())
