"""Raw-pipe ports: a command as the cable, with vde_plug, dpipe and socat as commands."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from vswitch.errors import FabricError
from vswitch.ports.raw_pipe import RawPipeSpec
from vswitch.ports.vde import VdeSpec

from ..fabric.lan import Lan
from ..fabric.peers import BROADCAST, Peer, frame, mac
from ..fabric.running import Fabric
from .served import Served, eventually
from .vde_peers import SIZES

needs_vde = pytest.mark.skipif(shutil.which("vde_plug") is None, reason="needs VDE (package vde2)")
needs_socat = pytest.mark.skipif(shutil.which("socat") is None, reason="needs socat (package socat)")
LARGE = (16000, 65535)


def exchange(outer: Peer, inner: Peer, sizes: tuple[int, ...]) -> None:
    """Frames of all sizes arrive unchanged, both ways, once the ways are there."""
    outer.send(frame(BROADCAST, mac(1), b"hello"))
    while inner.receive() != frame(BROADCAST, mac(1), b"hello"):
        pass
    for size in sizes:
        inner.send(frame(mac(1), mac(2), b"in", size=size)[:size])
        assert outer.receive() == frame(mac(1), mac(2), b"in", size=size)[:size]
        outer.send(frame(mac(2), mac(1), b"out", size=size)[:size])
        assert inner.receive() == frame(mac(2), mac(1), b"out", size=size)[:size]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (RawPipeSpec(command="ssh host vde_plug /run/vde.ctl", framing="vde"), None),
        (RawPipeSpec(command=["socat", "-", "UNIX:/a b"]), None),
        (RawPipeSpec(command=["", "x"]), "names a program"),
        (RawPipeSpec(command="a\0b"), "NUL"),
    ],
)
def test_raw_pipe_spec_says_what_is_wrong(spec: RawPipeSpec, problem: str | None) -> None:
    problems = spec.problems()
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])


@needs_vde
def test_vde_plug_as_the_command_joins_a_vde_switch(lan: Lan, runtime_dir: Path) -> None:
    """Our own is at the other end, as it carries more than vde_switch does."""
    inner, _ = lan.peer()
    directory = runtime_dir / "c"
    with (
        Lan() as away,
        Served(away, VdeSpec(listen=str(directory))) as switch,
        Served(lan, RawPipeSpec(command=["vde_plug", str(directory)], framing="vde")),
    ):
        switch.wait_for("p#1", "up")
        outer, _ = away.peer()
        exchange(outer, inner, SIZES)


@needs_vde
def test_vde_plug_loses_no_frame_whose_length_is_where_its_read_ends(lan: Lan, runtime_dir: Path) -> None:
    """It reads 9234 bytes at a time. Of a plain stream it would read the first byte of a length last, and forget it."""
    inner, _ = lan.peer()
    directory = runtime_dir / "c"
    sizes = [59] * 150 + [81] + [60] * 100
    assert sum(size + 2 for size in sizes[:151]) == 9233
    with (
        Lan() as away,
        Served(away, VdeSpec(listen=str(directory))) as switch,
        Served(lan, RawPipeSpec(command=["vde_plug", str(directory)], framing="vde")) as served,
    ):
        switch.wait_for("p#1", "up")
        outer, _ = away.peer()
        exchange(outer, inner, (60,))
        (plug,) = children("vde_plug")
        os.kill(plug, signal.SIGSTOP)
        eventually(lambda: state(plug) == "T")
        for number, size in enumerate(sizes):
            inner.send(frame(mac(1), mac(2), bytes([number]), size=size))
        eventually(lambda: lan.counters(served.ports["p"]).tx_frames > 151)
        os.kill(plug, signal.SIGCONT)
        for number, size in enumerate(sizes):
            assert outer.receive() == frame(mac(1), mac(2), bytes([number]), size=size)


def children(name: str) -> list[int]:
    """Pids of our children that run the program `name`."""
    pids = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    return [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == name]


def test_a_command_dies_with_a_killed_fabric(tmp_path: Path) -> None:
    """Even one that does not care that its input has ended."""

    async def main() -> None:
        pid_file = tmp_path / "pid"
        fabric = Fabric()
        await fabric.client.open()
        await fabric.client.add_network("lan", "switch")
        command = f"echo $$ >{pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 1000"
        await fabric.client.add_outside_port("lan", "r", {"type": "raw-pipe", "command": command})
        await asyncio.to_thread(eventually, pid_file.exists)
        pid = int(pid_file.read_text())
        assert state(pid) in ("S", "R")
        fabric.process.kill()
        await asyncio.to_thread(fabric.process.wait, 20)
        await asyncio.to_thread(eventually, lambda: state(pid) in ("", "Z"))
        await fabric.client.close()

    asyncio.run(main())


def state(pid: int) -> str:
    """What process `pid` does, in one letter; "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return ""


@needs_vde
def test_dpipe_of_two_plugs_and_our_pipe_are_alike(lan: Lan, runtime_dir: Path) -> None:
    """`dpipe vde_plug A = vde_plug B` is what a raw-pipe port replaces one half of."""
    inner, _ = lan.peer()
    near, far = runtime_dir / "near", runtime_dir / "far"
    with (
        Lan() as away,
        Served(away, VdeSpec(listen=str(far))) as beyond,
        Lan() as between,
        Served(between, VdeSpec(listen=str(near))) as middle,
        subprocess.Popen(["dpipe", "vde_plug", str(near), "=", "vde_plug", str(far)]) as dpipe,
    ):
        try:
            middle.wait_for("p#1", "up")
            beyond.wait_for("p#1", "up")
            with Served(lan, RawPipeSpec(command=f"exec vde_plug {near}", framing="vde")):
                middle.wait_for("p#2", "up")
                outer, _ = away.peer()
                exchange(outer, inner, SIZES)
        finally:
            os.killpg(dpipe.pid, signal.SIGKILL)  # it makes itself one


@needs_socat
@pytest.mark.parametrize("framing", ["qemu", "vde"])
def test_socat_joins_two_switches(lan: Lan, runtime_dir: Path, framing: Literal["qemu", "vde"]) -> None:
    """One listens, one connects; whichever comes first, they find each other."""
    inner, _ = lan.peer()
    path = runtime_dir / "s"
    listening = RawPipeSpec(command=["socat", "-b70000", "-", f"UNIX-LISTEN:{path},unlink-early"], framing=framing)
    connecting = RawPipeSpec(command=f"socat -b70000 - UNIX-CONNECT:{path}", framing=framing)
    with Lan() as away:
        outer, _ = away.peer()
        with Served(lan, connecting) as near:
            near.wait_for("p", "restarting", "exit code 1: ")  # its last words follow
            with Served(away, listening):
                eventually(path.exists)
                seen = near.wait_for("p", "up", after=near.wait_for("p", "restarting"))
                assert seen
                say_hello_until_heard(outer, inner)
                exchange(outer, inner, (*SIZES, *LARGE, *((69632,) if framing == "qemu" else ())))


def say_hello_until_heard(outer: Peer, inner: Peer) -> None:
    """The far side may still be on its way when the near one is up."""

    def heard() -> bool:
        outer.send(frame(BROADCAST, mac(1), b"anybody?"))
        return not inner.silent()

    eventually(heard)


def test_a_command_that_ends_says_why_once_and_is_started_again(lan: Lan, tmp_path: Path) -> None:
    """It never was up, and the same failure again is no news."""
    tries = tmp_path / "tries"
    command = f"echo >>{tries}; echo first >&2; echo 'no such host' >&2; exit 3"
    with Served(lan, RawPipeSpec(command=command)) as served:
        served.wait_for("p", "restarting", "exit code 3: no such host")
        eventually(lambda: tries.stat().st_size > 3)
        assert served.events == [("p", "restarting", "exit code 3: no such host")]


def test_a_command_that_worked_before_it_ended_was_up(lan: Lan) -> None:
    """Also one that has not said anything: vde_plug has nothing to say before others have."""
    with Served(lan, RawPipeSpec(command="sleep 0.7; exit 3")) as served:
        served.wait_for("p", "restarting", "exit code 3")
        assert [state for _, state, _ in served.events][:3] == ["up", "closed", "restarting"]
        assert served.events[0][2].startswith("pid ")


def test_a_command_that_may_not_restart_ends_its_port(lan: Lan) -> None:
    with Served(lan, RawPipeSpec(command="echo gone >&2; exit 4", restart=False)) as served:
        served.wait_for("p", "error", "exit code 4: gone")
    with Served(lan, RawPipeSpec(command=["true"], restart=False)) as served:
        served.wait_for("p", "closed")


def test_a_program_there_is_none_of_is_named(lan: Lan) -> None:
    with (
        pytest.raises(FabricError, match="no program nosuchprogram"),
        Served(lan, RawPipeSpec(command=["nosuchprogram"])),
    ):
        pass


def test_a_command_that_sends_garbage_is_ended_and_started_again(lan: Lan) -> None:
    """Its port fails with the reason; a length of 4 GiB is none."""
    with Served(lan, RawPipeSpec(command="printf '\\377\\377\\377\\377'; exec sleep 1000")) as served:
        served.wait_for("p", "error", "at most 69632 are allowed")
        served.wait_for("p", "restarting", "killed by SIGKILL")


def test_what_a_command_sends_last_arrives(lan: Lan) -> None:
    inner, _ = lan.peer()
    script = f"import os; os.write(1, bytes([0, 0, 0, 60]) + {frame(BROADCAST, mac(1))!r})"
    with Served(lan, RawPipeSpec(command=[sys.executable, "-c", script], restart=False)) as served:
        served.wait_for("p", "closed")
        assert inner.receive() == frame(BROADCAST, mac(1))


def test_a_command_goes_with_its_port_and_takes_what_it_started_along(lan: Lan, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"sleep 1000 <&- >&- & echo $! $$ >{pids}.new; mv {pids}.new {pids}; wait"
    with Served(lan, RawPipeSpec(command=command)):
        eventually(pids.exists)
        started = [int(pid) for pid in pids.read_text().split()]
        assert all(state(pid) in ("S", "R") for pid in started)
    eventually(lambda: all(state(pid) in ("", "Z") for pid in started))


def test_a_command_that_stops_reading_holds_up_nobody_else(lan: Lan) -> None:
    inner, _ = lan.peer()
    other, _ = lan.peer()
    with Served(lan, RawPipeSpec(command="exec sleep 1000")) as served:
        served.wait_for("p", "up")
        for _ in range(3000):  # floods, which nobody waits for
            inner.send(frame(BROADCAST, mac(1), size=1514))
            assert len(other.receive()) == 1514
        port = served.ports["p"]
        assert lan.counters(port).drops["overflow"] > 0
        assert lan.counters(port).state == "up"
