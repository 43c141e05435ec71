"""Clients of ring ports that scribble, stop, die or outlive their fabric, and what others notice of it: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import LabCommand
from tests.ring_fabric import TIMEOUT, Holdings, Pair, RingFabric, mac, numbered, ring_fabric
from vswitch.fabric.client import FabricEvent
from vswitch.model.lab import PortSettings
from vswitch.ring import Ring, RingError

ROOT = Path(__file__).parents[2]
CALLER, VICTIM = 3, 9
STEPS = [
    "opened",
    "armed",
    "asleep",
    "woken",
    "received",
    "copied",
    "slots-written",
    "half-a-frame-published",
    "published",
    "kicked",
    "released",
]


@pytest.fixture(scope="session")
def hostile_ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program hostile_ring.c."""
    program = tmp_path_factory.mktemp("hostile") / "hostile_ring"
    sources = [str(Path(__file__).with_name("hostile_ring.c")), str(ROOT / "vswitch/netmap_ring.c")]
    flags = ["-O2", "-D_GNU_SOURCE", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["cc", *flags, f"-I{ROOT / 'vswitch'}", "-o", str(program), *sources], check=True)
    return program


@pytest.fixture(scope="module")
def fabric() -> Iterator[RingFabric]:
    """A fabric with the ports of two innocents."""
    with ring_fabric() as fabric:
        yield fabric


@pytest.fixture(scope="module")
def innocents(fabric: RingFabric) -> Iterator[Pair]:
    """Two stations that are to lose nothing."""
    pair = Pair(fabric)
    pair.exchange()
    yield pair
    pair.close()


@pytest.fixture
def left_as_found(fabric: RingFabric, innocents: Pair) -> Iterator[Holdings]:
    """Whatever happens in a test, the fabric holds afterwards what it held before."""
    ports = set(fabric.ports())
    before = fabric.holdings()
    yield before
    fabric.wait_until(lambda: set(fabric.ports()) == ports and fabric.holdings()[:3] == before[:3])
    innocents.exchange()
    while not fabric.events.empty():
        fabric.events.get()


@contextlib.contextmanager
def running(program: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the block."""
    with subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_from(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def wait_stopped(process: subprocess.Popen[str]) -> None:
    assert os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT | os.WEXITED) is not None


# --- scribbling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_client_that_scribbles_over_its_memory_hurts_only_itself(
    fabric: RingFabric, innocents: Pair, left_as_found: Holdings, hostile_ring: Path, seed: int
) -> None:
    """Its port ends with a reason, again and again; two others lose none of the frames they exchange meanwhile."""
    name = f"scribbler{seed}"
    fabric.declare(name, PortSettings(storm_limit=2000))
    exchanges = 0
    with (
        fabric.open(f"crier{seed}") as crier,
        running(hostile_ring, "scribble", str(fabric.path), f"lan:{name}", str(seed), "1500") as process,
    ):
        while process.poll() is None:
            crier.send([numbered(0x99, 4, number) for number in range(20)])  # to nobody, so to everybody
            innocents.exchange(50)
            exchanges += 1
        assert process.returncode == 0
        ended = int(line_from(process))
    assert ended > 3, "the client broke too few rules"
    assert exchanges > 3
    fabric.ports()  # what it answers comes after the events
    events: list[FabricEvent] = []
    while not fabric.events.empty():
        events.append(fabric.events.get())
    reasons = [event.reason for event in events if event.port == name and event.state == "error"]
    assert ended <= len(reasons) <= ended + 1, "the last may have ended just when its time was up"
    assert {reason for reason in reasons if not reason.startswith("the client")} == set()
    fabric.ask(fabric.client.remove_port("lan", name))


# --- dying and stopping at every step ---------------------------------------------------------------------------------


@pytest.fixture
def caller(fabric: RingFabric, left_as_found: Holdings) -> Iterator[Ring]:
    """A third station, that sends to the one that stops."""
    with fabric.open("caller", slots=1024) as ring:
        yield ring
    fabric.expect("caller", "closed")


def echoed(caller: Ring, number: int, timeout: float = TIMEOUT) -> bool:
    """Send one frame; return whether it comes back within `timeout` seconds."""
    end = time.monotonic() + timeout
    want = numbered(CALLER, VICTIM, number, 200)
    assert caller.send_all([numbered(VICTIM, CALLER, number, 200)], TIMEOUT) == 1
    while (left := end - time.monotonic()) > 0 and caller.wait(timeout=left):
        if want in caller.receive():
            return True
    return False


def reach(process: subprocess.Popen[str], caller: Ring, step: str) -> None:
    """Have the program get to where it stops itself."""
    if step != "opened":
        assert line_from(process) == "open"
        echoed(caller, 1, 0.5 if step == "half-a-frame-published" else TIMEOUT)
        caller.send([numbered(VICTIM, CALLER, 2, 200)])
    assert line_from(process) == step
    wait_stopped(process)


@pytest.mark.parametrize("step", STEPS)
def test_client_killed_at_any_step_leaves_nothing(
    fabric: RingFabric, innocents: Pair, hostile_ring: Path, caller: Ring, step: str
) -> None:
    """Its port goes; the names and everything else are free again."""
    with running(hostile_ring, "echo", str(fabric.path), "lan:victim", step) as process:
        fabric.expect("victim", "up")
        reach(process, caller, step)
        innocents.exchange(20)
        process.kill()
        assert fabric.expect("victim", "closed").reason == "the client closed it"
    innocents.exchange(20)
    with fabric.open("victim"):
        pass
    fabric.expect("victim", "closed")


@pytest.mark.parametrize("step", STEPS)
def test_client_stopped_at_any_step_holds_its_sender_for_a_moment_and_goes_on_when_continued(
    fabric: RingFabric, innocents: Pair, hostile_ring: Path, caller: Ring, step: str
) -> None:
    """What does not fit is dropped and counted; nobody else waits; continued, it is a station like any other."""
    with running(hostile_ring, "echo", str(fabric.path), "lan:victim", step) as process:
        fabric.expect("victim", "up")
        reach(process, caller, step)
        known = step != "opened"  # before, nobody knows where it is: its frames are flooded
        frames = [numbered(VICTIM, CALLER, 1000 + number, 1000) for number in range(4000 if known else 100)]
        alone = innocents.exchange(20)
        sending = threading.Thread(target=caller.send_all, args=(frames, TIMEOUT))
        begun = time.monotonic()
        sending.start()
        beside = innocents.exchange(20)
        sending.join()
        assert time.monotonic() - begun < 5
        assert beside < alone + 2
        victim = fabric.ports()["victim"]
        assert victim.state == "up"
        if known:
            assert victim.drops["overflow"] > 500
        process.send_signal(signal.SIGCONT)
        if step == "opened":
            assert line_from(process) == "open"
        assert any(echoed(caller, number, 2) for number in range(2, 12))
    fabric.expect("victim", "closed")


# --- a fabric that goes -----------------------------------------------------------------------------------------------


def test_client_goes_on_when_its_fabric_is_started_anew(tmp_path: Path) -> None:
    """With reconnect; without it is told."""
    path = tmp_path / "ring"
    with RingFabric(path) as first:
        lasting = Ring.open(first.name("a"), reconnect=TIMEOUT)
        brief = Ring.open(first.name("b"))
        first.process.kill()
        first.process.wait()
        with pytest.raises(RingError, match="the other side has gone"):
            brief.wait(timeout=TIMEOUT)
        waited: list[bool] = []
        waiting = threading.Thread(target=lambda: waited.append(lasting.wait(timeout=TIMEOUT)))
        waiting.start()
    with RingFabric(path) as second:
        second.expect("a", "up")
        with second.open("c") as other:
            other.send([numbered(1, 2, 3)])
            waiting.join()
            assert waited == [True]
            assert lasting.receive() == [numbered(1, 2, 3)]
            lasting.send([numbered(2, 1, 4)])
            assert other.wait(timeout=TIMEOUT)
            assert other.receive() == [numbered(2, 1, 4)]
        lasting.close()
        brief.close()


def test_client_gives_up_on_a_fabric_that_does_not_come_back(tmp_path: Path) -> None:
    with RingFabric(tmp_path / "ring") as fabric, Ring.open(fabric.name("a"), reconnect=0.3) as ring:
        fabric.process.kill()
        fabric.process.wait()
        begun = time.monotonic()
        with pytest.raises(RingError, match="no fabric serves rings"):
            ring.wait(timeout=TIMEOUT)
        assert 0.2 < time.monotonic() - begun < 5
        with pytest.raises(RingError):
            ring.send([numbered(1, 2, 3)])


# --- in a lab ---------------------------------------------------------------------------------------------------------

LAB = """\
name: ringlab
networks:
  vale0:
    subnet: 10.0.0.0/24
    ports:
      door: {type: ring, slots: 128}
nodes:
  h1: {kind: netns}
links:
  - [h1:eth0, vale0]
"""
ARP = bytes.fromhex("0806 0001 0800 06 04")


@pytest.mark.namespaces
def test_ring_port_of_a_lab_talks_to_its_hosts(
    lab_command: LabCommand, lab_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened by the lab's name: a host answers ARP over it. A declared port waits, is up, waits again."""
    lab_file(LAB)
    lab_command.ok("up", "-q")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(lab_command.runtime))

    def state() -> str:
        rows = json.loads(lab_command.ok("stats", "-f", "json"))
        return str({row["port"]: row["state"] for row in rows}["door"])

    assert state() == "waiting"
    with Ring.open("ringlab/vale0:door") as ring:
        assert ring.slots == 128
        assert state() == "up"
        request = ARP + b"\0\1" + mac(7) + bytes([10, 0, 0, 77]) + bytes(6) + bytes([10, 0, 0, 1])
        ring.send([(b"\xff" * 6 + mac(7) + request).ljust(60, b"\0")])
        while True:
            assert ring.wait(timeout=TIMEOUT), "the host did not answer"
            replies = [frame for frame in ring.receive() if frame[:6] == mac(7) and frame[12:14] == b"\x08\x06"]
            if replies:
                break
        assert replies[0][28:32] == bytes([10, 0, 0, 1])
    while state() != "waiting":
        pass
    monkeypatch.setenv("VSWITCH_LAB", "ringlab")
    with Ring.open("vale0:mine") as ring, pytest.raises(RingError, match="somebody has this port open already"):
        Ring.open("ringlab/vale0:mine")
    with pytest.raises(RingError, match="no lab of that name is up"):
        Ring.open("nolab/vale0:mine")
    lab_command.ok("down")


def test_program_is_compiled_with_the_flags_that_are_printed(fabric: RingFabric, tmp_path: Path) -> None:
    """What `python3 -m vswitch.ring --cflags --libs` says is enough to build and run a C client."""
    source = tmp_path / "client.c"
    source.write_text(
        "#include <libvswitch.h>\n#include <stdio.h>\n"
        "int main(int argc, char **argv)\n{\n"
        "\tchar error[VSW_ERROR_SIZE];\n"
        "\tstruct vsw_ring *ring = vsw_ring_open(argv[argc - 1], NULL, error);\n\n"
        '\tputs(ring ? "open" : error);\n\tvsw_ring_close(ring);\n\treturn !ring;\n}\n'
    )
    command = [sys.executable, "-m", "vswitch.ring", "--cflags", "--libs"]
    flags = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    program = tmp_path / "client"
    subprocess.run(["cc", "-Wall", "-Werror", "-o", str(program), str(source), *flags], check=True)
    result = subprocess.run([program, fabric.name("c1")], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "open\n")
    result = subprocess.run([program, "nonsense"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "LAB/NETWORK:PORT" in result.stdout
