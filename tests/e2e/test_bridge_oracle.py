"""Our switch does with every frame what Linux's bridge does: the same random scripts go through both.

Where this machine's kernel has no VLANs in its bridge (CONFIG_BRIDGE_VLAN_FILTERING), that of the guest image is asked.

    VSWITCH_ORACLE_SECONDS=600 VSWITCH_ORACLE_SEED=1 pytest tests/e2e/test_bridge_oracle.py    # longer, other scripts

A script that fails is cut down and printed as Python: it belongs into KEPT.

Where the two differ on purpose:

- A frame whose source has a static entry on another port: Linux forwards it (and moves the entry, unless that is
  sticky, as it is here), we drop it. (State.is_pinned_elsewhere)
- A frame from 00:00:00:00:00:00: Linux drops it, we take that for an address like any other. (never sent)
- Linux learns from reserved frames that it keeps to itself, unless told not to, as it is here; we never do.
- Linux forwards some reserved groups whatever it is told, and drops others; we do as we are told. (forced_forwards)
- Static entries of a port that has lost its link: Linux keeps them, we do until the port is removed or replaced, which
  for a ring is at once. (effective)
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import LabCommand
from vswitch.namespace import probe

from .bridge_oracle import (
    DOT1AD,
    DOT1Q,
    Configure,
    Frame,
    Inventor,
    Pin,
    Received,
    Script,
    Send,
    Settings,
    State,
    effective,
    shrink,
)
from .bridge_oracle_linux import LinuxBridge, build, commands
from .bridge_oracle_ours import OurSwitch, RingEnd, StreamEnd

End = type[StreamEnd] | type[RingEnd]

SECONDS = float(os.environ.get("VSWITCH_ORACLE_SECONDS", "2"))
SEED = int(os.environ.get("VSWITCH_ORACLE_SEED", "0"))

SHRINKING = 40.0  # s

pytestmark = pytest.mark.timeout(200 + 2 * SECONDS)

KEPT = {
    "a static entry's port leaves its VLAN": Script(
        True,
        DOT1Q,
        0x0001,
        300.0,
        (
            Pin("020000000104", 1, 1),
            Configure(1, Settings((10,), 10)),
            Send(3, (Frame("020000000104", "020000000100"),)),
        ),
    ),
    "a burst in two VLANs": Script(
        True,
        DOT1Q,
        0x0001,
        300.0,
        (
            Configure(3, Settings((1, 10, 20), 0)),
            Configure(4, Settings((10,), 10)),
            Send(
                3,
                (
                    Frame("020000000101", "020000000107", ((DOT1Q, 20),)),
                    Frame("020000000104", "020000000107", ((DOT1Q, 10),)),
                ),
            ),
        ),
    ),
    "priority tags, into an access port and a trunk": Script(
        True,
        DOT1Q,
        0x0001,
        300.0,
        (
            Configure(1, Settings((1, 10), 10)),
            Configure(2, Settings((1, 10), 0)),
            Send(0, (Frame("ffffffffffff", "020000000100", ((DOT1Q, 0x6000),)),)),
            Send(2, (Frame("ffffffffffff", "020000000102", ((DOT1Q, 0x6000),)),)),
            Send(1, (Frame("ffffffffffff", "020000000101", ((DOT1Q, 0xE000), (DOT1Q, 10))),)),
        ),
    ),
}

every_end = pytest.mark.parametrize("end", [StreamEnd, RingEnd], ids=["stream", "ring"])


# --- running ----------------------------------------------------------------------------------------------------------


def expected_of(state: State, step: Send, frames: list[Received]) -> Received:
    """What must come out of our switch, given what came out of Linux's bridge for each frame."""
    expected: Received = {}
    for frame, received in zip(step.frames, frames, strict=True):
        if not state.is_pinned_elsewhere(step.port, frame):
            for port, copies in received.items():
                expected.setdefault(port, []).extend(copies)
    return expected


def describe(received: Received) -> str:
    return "; ".join(
        f"port {port}: " + ", ".join(f"{len(data)} bytes {data[:26].hex()}.." for data in frames)
        for port, frames in sorted(received.items())
    )


def difference(linux: LinuxBridge, end: End, script: Script) -> str | None:
    """Put both switches through a script; say what they do differently, at the first step where they do."""
    told = [commands(state, step) for state, step in effective(script, pins_outlive_links=end.outlives_link)]
    answers = linux.run(script, told)
    with OurSwitch(script, end) as ours:
        steps = effective(script, pins_outlive_links=end.outlives_link)
        for number, ((state, step), answer) in enumerate(zip(steps, answers, strict=True)):
            try:
                got = ours.do(state, step)
            except (AssertionError, KeyError, OSError, ValueError) as error:
                return f"step {number}, {step}\n  ours: {error!r}"
            expected = expected_of(state, step, answer) if isinstance(step, Send) else {}
            if got != expected:
                return f"step {number}, {step}\n  Linux: {describe(expected)}\n  ours:  {describe(got)}"
    return None


def check(linux: LinuxBridge, end: End, script: Script, hint: str) -> int:
    """Fail, with a script as short as can be found, if the switches differ; return how many frames were sent."""
    found = difference(linux, end, script)
    if found is not None:
        until = time.monotonic() + SHRINKING
        short = shrink(script, lambda less: time.monotonic() < until and difference(linux, end, less) is not None)
        again = difference(linux, end, short)
        if again is None:  # it takes luck, too
            short, again = script, f"not every time; once\n{found}"
        pytest.fail(f"{hint}\n{again}\n{short}", pytrace=False)
    return sum(len(step.frames) for step in script.steps if isinstance(step, Send))


def compare(linux: LinuxBridge, end: End, invent: Callable[[int], Script]) -> None:
    """Compare the switches for as long as this run is to take."""
    until = time.monotonic() + SECONDS
    seed, frames = SEED * 1_000_000, 0
    while time.monotonic() < until or not frames:
        frames += check(linux, end, invent(seed), f"seed {seed}, after {frames} frames that agreed:")
        seed += 1
    print(f"{frames} frames in {seed - SEED * 1_000_000} scripts")


# --- Linux ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("oracle"))


@pytest.fixture(scope="module")
def here(program: Path) -> Iterator[LinuxBridge]:
    """The kernel of the machine we are on."""
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield LinuxBridge(process.stdin, process.stdout)
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.fixture(scope="module")
def in_guest(program: Path) -> Iterator[LinuxBridge]:
    """The kernel of the guest image."""
    with tempfile.TemporaryDirectory(prefix="vst-") as directory:
        lab = LabCommand(Path(directory), Path(directory))
        Path(directory, "lab.yaml").write_text(
            "name: oracle\nkinds: {micro: {driver: qemu, memory: 128M}}\nnodes: {vm: {kind: micro}}\n"
        )
        lab.ok("up", "-q", timeout=150)
        try:
            install = "modprobe bridge && modprobe veth && modprobe 8021q && cat >oracle && chmod +x oracle"
            lab.ok("exec", "vm", "--", "sh", "-c", install, stdin=program.read_bytes())
            process = subprocess.Popen(
                lab.argv("exec", "vm", "--", "./oracle"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=lab.environment,
                cwd=lab.cwd,
            )
            with process:
                assert process.stdin is not None
                assert process.stdout is not None
                yield LinuxBridge(process.stdin, process.stdout)
                process.stdin.close()
                assert process.wait(10) == 0
        finally:
            lab.ok("down", "--all")


@pytest.fixture(scope="module")
def vlan_aware(request: pytest.FixtureRequest) -> LinuxBridge:
    """A kernel whose bridge filters VLANs: this machine's, or, if it does not or may not be asked, the guest's."""
    if probe() is None:
        here: LinuxBridge = request.getfixturevalue("here")
        if here.filters_vlans():
            return here
    in_guest: LinuxBridge = request.getfixturevalue("in_guest")
    return in_guest


# --- tests ------------------------------------------------------------------------------------------------------------


@every_end
@pytest.mark.namespaces
def test_switch_does_what_the_bridge_does(here: LinuxBridge, end: End) -> None:
    """Without VLANs: learning, moving, flooding, isolation, static entries, flushing, links that come and go."""
    compare(here, end, lambda seed: Inventor(seed, filtering=False).script())


@pytest.mark.namespaces
def test_switch_forgets_when_the_bridge_does(here: LinuxBridge) -> None:
    """Addresses not heard for the ageing time are flooded to again, those heard in between are not."""
    compare(here, StreamEnd, lambda seed: Inventor(seed, filtering=False).ageing_script())


@every_end
@pytest.mark.qemu
@pytest.mark.parametrize("protocol", [DOT1Q, DOT1AD], ids=["802.1Q", "802.1ad"])
def test_switch_filters_vlans_as_the_bridge_does(vlan_aware: LinuxBridge, end: End, protocol: int) -> None:
    """Access ports, trunks with and without a native VLAN, tags of either protocol, several of them, of VLAN 0."""
    compare(vlan_aware, end, lambda seed: Inventor(seed, filtering=True, protocol=protocol).script())


@every_end
@pytest.mark.qemu
@pytest.mark.parametrize("script", KEPT.values(), ids=KEPT)
def test_kept_script_agrees(vlan_aware: LinuxBridge, end: End, script: Script) -> None:
    """What a planted or a real mistake was found by once."""
    check(vlan_aware, end, script, "a kept script:")
