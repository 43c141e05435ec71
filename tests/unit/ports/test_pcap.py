"""Pcap ports: tcpdump, tshark and editcap read what is written and write what is played."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from vswitch.emulated.captures import Captured, CaptureError, read_capture
from vswitch.errors import FabricError, LabFileError
from vswitch.fabric.client import PortStats
from vswitch.model import load
from vswitch.ports.pcap import PcapSpec

from ..fabric.peers import BROADCAST, SIZES, exchange, frame, mac
from ..fabric.running import Fabric, run, within

needs_tcpdump = pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs tcpdump")
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark (package tshark)")

FRAMES = [frame(BROADCAST, mac(number), bytes([number]), size=size) for number, size in enumerate(SIZES, 1)]


def write_capture(path: Path, frames: Iterable[tuple[float, bytes]], *, link_type: int = 1) -> None:
    """A classic capture of (seconds, frame)."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link_type)
    for time, content in frames:
        data += struct.pack("<IIII", int(time), round(time % 1 * 1e6), len(content), len(content)) + content
    path.write_bytes(data)


def captured(path: Path) -> list[Captured]:
    """All that is in a capture."""
    with path.open("rb") as file:
        return list(read_capture(file))


async def record(fabric: Fabric, path: Path, name: str = "rec", **settings: object) -> None:
    """Add a port that writes to `path`, and wait until it does."""
    await fabric.client.add_outside_port("lan", name, {"type": "pcap", "write": str(path), **settings})
    assert (await within(fabric.events.get())).state == "up"


async def counters(fabric: Fabric, port: str) -> PortStats:
    """What a port has counted."""
    return next(row for row in await fabric.client.stats() if row.port == port)


async def written(fabric: Fabric, path: Path, count: int) -> list[Captured]:
    """Wait until `count` frames are in the file, and no part of another."""

    async def look() -> list[Captured]:
        while True:
            with contextlib.suppress(CaptureError):  # we looked while it was being written to
                if len(found := captured(path)) >= count:
                    return found
            await fabric.client.stats()

    return await within(look())


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (PcapSpec(read="/a"), None),
        (PcapSpec(write="/a", snaplen=96), None),
        (PcapSpec(read="/a", write="/b", speed=2.0, loop=True), None),
        (PcapSpec(), "give read, write, or both"),
        (PcapSpec(write="/a", loop=2), "loop is for a port that plays"),
        (PcapSpec(read="/a", snaplen=96), "snaplen is for a port that writes"),
        (PcapSpec(read="/a", speed=2.0, rate="1kpps"), "two ways"),
        (PcapSpec(read="/a", rate="0pps"), "is not a rate"),
        (PcapSpec(read="/a", delay=3601.0), "at most 1h"),
        (PcapSpec(read="/a", write="/a"), "the same file"),
    ],
)
def test_pcap_spec_says_what_is_wrong(spec: PcapSpec, problem: str | None) -> None:
    """What is said must be about what the port does."""
    problems = spec.problems()
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])


@needs_tcpdump
@needs_tshark
def test_tcpdump_and_tshark_read_what_a_port_writes(tmp_path: Path) -> None:
    """Every frame, whole and in order, with times to the nanosecond; also while the port goes on writing."""
    path = tmp_path / "out.pcap"

    async def body(fabric: Fabric) -> None:
        await record(fabric, path)
        peer = await fabric.peer("lan", "a")
        for data in FRAMES:
            peer.send(data)
        found = await written(fabric, path, len(FRAMES))
        assert [one.frame for one in found] == FRAMES
        assert [one.size for one in found] == [len(data) for data in FRAMES]
        assert any(one.time % 1000 for one in found)
        assert sorted(one.time for one in found) == [one.time for one in found]
        assert printed("tcpdump", "--count", "-nr", str(path)) == [f"{len(FRAMES)} packets"]
        assert printed("tshark", "-nr", str(path), "-Tfields", "-eframe.len") == [str(len(data)) for data in FRAMES]
        row = await counters(fabric, "rec")
        assert (row.tx_frames, row.tx_bytes) == (len(FRAMES), sum(map(len, FRAMES)))
        peer.send(FRAMES[0])
        await written(fabric, path, len(FRAMES) + 1)
        peer.close()

    run(body)
    assert printed("tcpdump", "--count", "-nr", str(path)) == [f"{len(FRAMES) + 1} packets"]


def printed(*command: str) -> list[str]:
    """The lines a command prints; it must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return result.stdout.splitlines()


def descriptors(fabric: Fabric) -> int:
    """How many the fabric has open."""
    return len(list(Path(f"/proc/{fabric.process.pid}/fd").iterdir()))


@needs_tcpdump
@needs_tshark
@pytest.mark.parametrize("tool", ["tcpdump", "editcap"])
def test_port_plays_what_tcpdump_and_editcap_have_made_of_a_capture(tool: str, tmp_path: Path) -> None:
    """Cut out with tcpdump -w, or turned into pcapng by editcap: each frame is sent once, as it was."""
    made, edited = tmp_path / "made.pcap", tmp_path / "edited"
    write_capture(made, [(1 + number / 1000, data) for number, data in enumerate(FRAMES)])
    command = {
        "tcpdump": ["tcpdump", "-r", str(made), "-w", str(edited), "not ether src 52:54:00:00:00:03"],
        "editcap": ["editcap", "-F", "pcapng", str(made), str(edited), "3"],
    }[tool]
    subprocess.run(command, capture_output=True, timeout=30, check=True)

    async def body(fabric: Fabric) -> None:
        inside = await fabric.peer("lan", "a")
        await fabric.client.add_outside_port("lan", "play", {"type": "pcap", "read": str(edited)})
        assert (await counters(fabric, "play")).state in ("waiting", "up")
        await fabric.client.lab_up()
        for data in FRAMES[:2] + FRAMES[3:]:
            assert inside.receive() == data
        events = [await within(fabric.events.get()) for _ in range(3)]
        assert [event.state for event in events] == ["up", "closed", "closed"]
        assert events[-1].reason == "the capture has been played"
        row = await counters(fabric, "play")
        assert (row.state, row.reason) == ("closed", "the capture has been played")
        inside.close()

    run(body)


def test_playing_waits_for_the_lab_and_keeps_the_recorded_distances(tmp_path: Path) -> None:
    """Nothing is early. At sixty times the speed a minute takes a second; `loop` plays it again."""
    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    write_capture(source, [(100.0, FRAMES[2]), (106.0, FRAMES[3]), (124.0, FRAMES[2])])

    async def body(fabric: Fabric) -> None:
        await record(fabric, out)
        inside = await fabric.peer("lan", "a")
        spec = {"type": "pcap", "read": str(source), "speed": 60.0, "loop": 2, "delay": 0.1}
        await fabric.client.add_outside_port("lan", "play", spec)
        assert (await within(fabric.events.get())).state == "up"
        inside.send(FRAMES[0])
        (marker,) = await written(fabric, out, 1)  # nothing has been played so far
        assert (await counters(fabric, "play")).drops == {"unwanted": 1}
        await fabric.client.lab_up()
        found = (await written(fabric, out, 7))[1:]
        assert [one.frame for one in found] == [FRAMES[2], FRAMES[3], FRAMES[2]] * 2
        assert found[0].time - marker.time >= 100_000_000
        times = [(one.time - found[0].time) / 1e6 for one in found]
        for actual, due in zip(times, (0, 100, 400, 400, 500, 800), strict=True):
            assert due - 5 < actual < due + 5000  # the first may itself be late, by as much as the others are early
        inside.close()

    run(body)


def test_what_was_written_before_the_end_is_in_the_file(tmp_path: Path) -> None:
    """However the port ends: removed, with its network, or with the fabric."""
    paths = [tmp_path / name for name in ("port", "network", "fabric")]

    async def body(fabric: Fabric) -> None:
        for path in paths:
            await fabric.client.add_network(path.name, "switch")
            await fabric.client.add_outside_port(path.name, "rec", {"type": "pcap", "write": str(path)})
            a, b = await fabric.peer(path.name, "a"), await fabric.peer(path.name, "b")
            for _ in range(20):
                a.send(frame(BROADCAST, mac(1), size=16000))
                b.receive()
            a.close()
            b.close()
        await fabric.client.remove_port("port", "rec")
        assert len(captured(paths[0])) == 20
        await fabric.client.remove_network("network")
        assert len(captured(paths[1])) == 20

    run(body)
    assert len(captured(paths[2])) == 20


def test_rate_takes_the_place_of_recorded_times(tmp_path: Path) -> None:
    """Of frames, of bits, or as fast as it goes; a capture is played for ever if that is asked for."""
    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    write_capture(source, [(0.0, FRAMES[2]), (3600.0, FRAMES[3])])

    async def body(fabric: Fabric) -> None:
        await record(fabric, out)
        await fabric.client.lab_up()
        took: list[float] = []
        for rate in ("100pps", "49.6kbit", "max"):
            name = f"play-{len(took)}"
            spec = {"type": "pcap", "read": str(source), "rate": rate, "loop": 10}
            await fabric.client.add_outside_port("lan", name, spec)
            found = (await written(fabric, out, 20 * (len(took) + 1)))[-20:]
            took.append((found[-1].time - found[0].time) / 1e9)
        assert 0.185 < took[0] < 5
        assert 0.185 < took[1] < 5
        assert took[2] < 0.185
        spec = {"type": "pcap", "read": str(source), "rate": "max", "loop": True}
        await fabric.client.add_outside_port("lan", "ever", spec)

        async def many() -> None:
            while (await counters(fabric, "ever")).rx_frames < 100_000:
                pass

        await within(many())
        await fabric.client.remove_port("lan", "ever")

    run(body)


def test_one_port_plays_questions_and_writes_the_answers(tmp_path: Path) -> None:
    """It stays when all has been played."""
    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    write_capture(source, [(0.0, frame(mac(2), mac(1), b"question"))])

    async def body(fabric: Fabric) -> None:
        inside = await fabric.peer("lan", "a")
        inside.send(frame(BROADCAST, mac(2)))
        await fabric.client.lab_up()
        spec = {"type": "pcap", "read": str(source), "write": str(out), "snaplen": 20}
        await fabric.client.add_outside_port("lan", "both", spec)
        assert inside.receive() == frame(mac(2), mac(1), b"question")
        answer = frame(mac(1), mac(2), b"answer")
        inside.send(answer)
        (found,) = await written(fabric, out, 1)
        assert (found.frame, found.size) == (answer[:20], 60)
        assert (await counters(fabric, "both")).state == "up"
        inside.close()

    run(body)


def test_capture_that_cannot_be_played_is_refused_with_a_reason(tmp_path: Path) -> None:
    """Whatever a file holds, it is an error of that port alone."""
    good = tmp_path / "good.pcap"
    write_capture(good, [(0.0, FRAMES[2])])
    whole = good.read_bytes()
    files = {
        "no capture": (b"garbage, and more of it", "neither a pcap nor a pcapng"),
        "empty": (b"", "neither a pcap nor a pcapng"),
        "no frames": (whole[:24], "no frame in it can be sent"),
        "truncated": (whole[:-1], "in the middle of a frame"),
        "half header": (whole[:30], "in the middle of a frame's header"),
        "huge": (whole[:32] + struct.pack("<II", 1 << 31, 60), "a frame of 2147483648 bytes"),
        "cut short": (whole[:36] + struct.pack("<I", 61) + whole[40:], r"left out: 1 cut short"),
        "runt": (whole[:32] + struct.pack("<II", 13, 13) + bytes(13), "left out: 1 too short"),
    }

    cases = {tmp_path / f"{name}.pcap": reason for name, (_, reason) in files.items()}
    for path, (data, _) in zip(cases, files.values(), strict=True):
        path.write_bytes(data)

    async def body(fabric: Fabric) -> None:
        open_before = descriptors(fabric)
        for path, reason in cases.items():
            with pytest.raises(FabricError, match=f"network lan, port p: {path}: .*{reason}"):
                await fabric.client.add_outside_port("lan", "p", {"type": "pcap", "read": str(path)})
        wrong = tmp_path / "wrong.pcap"
        write_capture(wrong, [(0.0, FRAMES[2])], link_type=113)
        with pytest.raises(FabricError, match="not Ethernet's"):
            await fabric.client.add_outside_port("lan", "p", {"type": "pcap", "read": str(wrong)})
        with pytest.raises(FabricError, match="No such file"):
            await fabric.client.add_outside_port("lan", "p", {"type": "pcap", "read": str(tmp_path / "none")})
        with pytest.raises(FabricError, match="Is a directory"):
            await fabric.client.add_outside_port("lan", "p", {"type": "pcap", "write": str(tmp_path)})
        assert descriptors(fabric) == open_before

    run(body)


def test_disk_that_is_full_ends_that_port_alone() -> None:
    """The reason is told; frames between others move on."""

    async def body(fabric: Fabric) -> None:
        a, b = await fabric.peer("lan", "a"), await fabric.peer("lan", "b")
        await fabric.client.add_outside_port("lan", "rec", {"type": "pcap", "write": "/dev/full"})
        while (event := await within(fabric.events.get())).state != "error":
            pass
        assert event.reason == "writing /dev/full: No space left on device"
        exchange(a, b)
        assert (await counters(fabric, "rec")).reason == "writing /dev/full: No space left on device"
        a.close()
        b.close()

    run(body)


def test_reader_of_a_fifo_that_stops_reading_costs_only_its_copies(tmp_path: Path) -> None:
    """What does not fit is dropped whole and counted; what arrives is in order. The fabric ends all the same."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def body(fabric: Fabric) -> None:
        await fabric.client.add_outside_port("lan", "rec", {"type": "pcap", "write": str(fifo)})
        row = await counters(fabric, "rec")
        assert (row.state, row.reason) == ("waiting", f"nobody reads {fifo} yet")
        reader = os.open(fifo, os.O_RDONLY)
        while (await within(fabric.events.get())).state != "up":
            pass
        a, b = await fabric.peer("lan", "a"), await fabric.peer("lan", "b")
        exchange(a, b, [60])
        for _ in range(400):
            a.send(frame(BROADCAST, mac(1), size=16000))
            assert b.receive() == frame(BROADCAST, mac(1), size=16000)
        row = await counters(fabric, "rec")
        assert row.drops["overflow"] > 0
        assert row.tx_frames + row.drops["overflow"] == 401
        sizes = await asyncio.to_thread(sizes_read, reader, row.tx_frames)
        assert sizes == [60] + [16000] * (row.tx_frames - 1)
        exchange(a, b)
        a.send(frame(BROADCAST, mac(1)))
        await within(end_of(fabric))
        a.close()
        b.close()

    def sizes_read(reader: int, count: int) -> list[int]:
        with os.fdopen(reader, "rb") as file:
            return [one.size for one in itertools.islice(read_capture(file), count)]

    async def end_of(fabric: Fabric) -> None:
        """The reader has gone, which the next frame has shown."""
        while (event := await fabric.events.get()).state != "error":
            pass
        assert event.reason == f"nobody reads {fifo} any more"

    run(body)


def test_files_are_relative_to_the_lab_file(tmp_path: Path) -> None:
    """The one to be read must be there, of the one to be written its directory."""
    write_capture(tmp_path / "in.pcap", [(0.0, FRAMES[2])])
    lab_file = tmp_path / "lab.yaml"

    def ports(text: str) -> str:
        return f"{{networks: {{lan0: {{ports: {text}}}}}, nodes: {{a: {{kind: netns}}}}, links: [[a:eth0, lan0]]}}"

    lab_file.write_text(ports("{p: {type: pcap, read: in.pcap, write: out.pcap}}"))
    spec = load(lab_file, env={}).networks["lan0"].ports["p"].spec
    assert (spec["read"], spec["write"]) == (f"{tmp_path}/in.pcap", f"{tmp_path}/out.pcap")
    lab_file.write_text(ports("{p: {type: pcap, read: none.pcap}, q: {type: pcap, write: none/out.pcap}}"))
    with pytest.raises(LabFileError) as caught:
        load(lab_file, env={})
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        f"networks.lan0.ports.p.read: no such file: {tmp_path}/none.pcap",
        f"networks.lan0.ports.q.write: no such directory: {tmp_path}/none",
    ]
