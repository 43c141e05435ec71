"""Capture files as scapy writes them, damaged ones, and when their frames leave."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import PcapNgWriter, PcapWriter

from vswitch.emulated.captures import Captured, CaptureError, read_capture
from vswitch.emulated.replay import Replay
from vswitch.emulated.settings import EmulatedSpec

from .asking import ask

MS = 1_000_000
FRAMES = [bytes([number]) * size for number, size in enumerate((60, 61, 1514, 14, 9000))]


def pcap(frames: list[tuple[int, bytes]], *, order: str = "<", nano: bool = False, network: int = 1) -> bytes:
    units = 1 if nano else 1000
    out = struct.pack(f"{order}IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 65535, network)
    for time, frame in frames:
        out += struct.pack(f"{order}IIII", time // 10**9, time % 10**9 // units, len(frame), len(frame)) + frame
    return out


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def enhanced(time: int, frame: bytes, interface: int = 0, order: str = "<") -> bytes:
    head = struct.pack(f"{order}IIIII", interface, time >> 32, time & 0xFFFFFFFF, len(frame), len(frame))
    return block(6, head + frame, order)


def read(data: bytes) -> list[Captured]:
    return list(read_capture(io.BytesIO(data)))


@pytest.mark.parametrize("writer", [PcapWriter, PcapNgWriter])
def test_files_scapy_writes_are_read_frame_by_frame(writer: Any, tmp_path: Path) -> None:
    from scapy.layers.l2 import Ether

    path = tmp_path / "file"
    packets = []
    for number, frame in enumerate(FRAMES):
        packet = Ether(frame)
        packet.time = 1000 + number / 4
        packets.append(packet)
    with writer(str(path)) as file:
        file.write(packets)
    found = read(path.read_bytes())
    assert [one.frame for one in found] == FRAMES
    assert [one.time for one in found] == [10**12 + number * 250 * MS for number in range(len(FRAMES))]


@given(
    st.lists(st.tuples(st.integers(0, 2**32 * 10**9 - 1), st.binary(min_size=1, max_size=80)), max_size=8), st.data()
)
def test_pcap_of_either_byte_order_and_resolution_round_trips(
    frames: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    order, nano = data.draw(st.sampled_from("<>")), data.draw(st.booleans())
    unit = 1 if nano else 1000
    expected = [(time // unit * unit, frame) for time, frame in frames]
    assert [(one.time, one.frame) for one in read(pcap(frames, order=order, nano=nano))] == expected


def test_pcapng_resolution_offset_sections_and_unknown_blocks_are_heeded() -> None:
    options = struct.pack("<HHB3xHHqHH", 9, 1, 9, 14, 8, 5, 0, 0)  # nanoseconds, 5 s later
    little = section() + block(1, struct.pack("<HHI", 1, 0, 0) + options) + block(0xBAD, b"whatever")
    little += enhanced(7, b"a" * 60) + block(3, struct.pack("<I", 60) + b"b" * 60)
    big = section(">") + block(1, struct.pack(">HHI", 1, 0, 0), ">") + enhanced(9, b"c" * 61, order=">")
    found = read(little + big)
    assert [(one.time, one.frame[:1], len(one.frame)) for one in found] == [
        (5 * 10**9 + 7, b"a", 60),
        (5 * 10**9 + 7, b"b", 60),
        (9000, b"c", 61),
    ]


GOOD_PCAP = pcap([(0, b"x" * 60), (MS, b"y" * 60)])
GOOD_NG = section() + block(1, struct.pack("<HHI", 1, 0, 0)) + enhanced(0, b"x" * 60) + enhanced(1, b"y" * 60)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "neither"),
        (b"GIF89a", "neither"),
        (GOOD_PCAP[:30], "middle of a frame's header"),
        (GOOD_PCAP[:-1], "middle of a frame"),
        (pcap([], network=101), "link type 101"),
        (GOOD_PCAP[:24] + struct.pack("<IIII", 0, 0, 1 << 30, 60), "a frame of 1073741824 bytes"),
        (GOOD_NG[:-1], "middle of a block"),
        (section() + enhanced(0, b"x" * 60), "interface 0"),
        (section() + block(1, struct.pack("<HHI", 113, 0, 0)) + enhanced(0, b"x" * 60), "link type 113"),
        (section() + struct.pack("<II", 1, 0xFFFFFFF0), "a block of 4294967280 bytes"),
        (section() + struct.pack("<II", 1, 4), "a block of 4 bytes"),
        (section()[:-4] + b"\0\0\0\0", "lengths differ"),
        (
            section() + block(1, struct.pack("<HHI", 1, 0, 0)) + block(6, struct.pack("<IIIII", 0, 0, 0, 99, 99)),
            "99 bytes",
        ),
        (section() + block(1, b""), "too short"),
    ],
)
def test_broken_file_is_refused_with_the_reason(data: bytes, what: str) -> None:
    with pytest.raises(CaptureError) as caught:
        read(data)
    assert what in str(caught.value)


@given(st.sampled_from([GOOD_PCAP, GOOD_NG]), st.data())
def test_damaged_file_gives_frames_or_an_error_of_ours(good: bytes, data: st.DataObject) -> None:
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(damaged))
    except CaptureError:
        return
    assert len(found) <= 4


# --- the role -------------------------------------------------------------------------------------------------------


def replay(captured: list[Captured], **settings: Any) -> tuple[Replay, list[str]]:
    said: list[str] = []

    def source() -> Iterator[Captured]:
        for one in captured:
            if one.size < 0:
                raise CaptureError("torn")
            yield one

    role = Replay(EmulatedSpec(replay="x.pcap", **settings), source)
    role.log = said.append
    return role, said


def captured(*milliseconds: int, size: int = 100) -> list[Captured]:
    return [Captured(10**18 + at * MS, bytes([number]) * size, size) for number, at in enumerate(milliseconds)]


def leaves(role: Replay, until: int, step: int = MS, room: int = 256) -> list[tuple[int, int]]:
    """(millisecond, number) of each frame that leaves."""
    out = []
    for now in range(0, until, step):
        while (due := role.due()) is not None and due <= now:
            _, frames = role.emit(now, room)
            if not frames:
                break
            out += [(now // MS, frame[0]) for frame in frames]
            role.sent(len(frames), now)
    return out


def test_frames_leave_at_their_recorded_distances_sped_up_or_not() -> None:
    role, said = replay(captured(0, 10, 10, 30))
    role.begin(0)
    assert leaves(role, 50 * MS) == [(0, 0), (10, 1), (10, 2), (30, 3)]
    assert said == ["read the whole capture"]
    assert not role.running
    role, _ = replay(captured(0, 10, 10, 30), speed=10)
    role.begin(0)
    assert leaves(role, 50 * MS) == [(0, 0), (1, 1), (1, 2), (3, 3)]


def test_time_going_backwards_in_a_capture_holds_nothing_up() -> None:
    role, _ = replay(captured(10, 5, 20))
    role.begin(0)
    assert leaves(role, 50 * MS) == [(0, 0), (0, 1), (10, 2)]


def test_next_loop_begins_when_the_latest_frame_has_left() -> None:
    role, _ = replay(captured(0, 10, 5), loop=2)
    role.begin(0)
    assert leaves(role, 50 * MS) == [(0, 0), (10, 1), (10, 2), (10, 0), (20, 1), (20, 2)]


@pytest.mark.parametrize(("loop", "times"), [(3, 3), (True, 5), (False, 1)])
def test_capture_is_looped_as_often_as_asked(loop: bool | int, times: int) -> None:
    role, _ = replay(captured(0, 10), loop=loop)
    role.begin(0)
    assert len(leaves(role, 50 * MS)) == min(2 * times, 9)  # the tenth frame is due after 50 ms
    assert role.running == (loop is True)


def test_fixed_rate_replaces_recorded_times() -> None:
    role, _ = replay(captured(*range(0, 100_000, 1000)), rate="1kpps")
    role.begin(0)
    assert [now for now, _ in leaves(role, 100 * MS)] == list(range(100))


def test_rate_in_bits_counts_the_bytes_of_the_frames() -> None:
    role, _ = replay(captured(0, 1, 2, size=1000), rate="8mbit", loop=True)  # 1000 bytes a millisecond
    role.begin(0)
    assert len(leaves(role, 500 * MS)) == pytest.approx(500, abs=2)


def test_frames_the_ring_has_no_room_for_wait_in_order() -> None:
    role, _ = replay(captured(*[0] * 200))
    role.begin(0)
    role.emit(0, 256)
    role.sent(3, 0)
    assert [number for _, number in leaves(role, 1, room=7)] == list(range(3, 200))


def test_frames_that_cannot_be_sent_as_they_were_are_counted_and_left_out() -> None:
    odd = [Captured(0, b"a" * 60, 61), Captured(0, b"b" * 2000, 2000), Captured(0, b"c" * 13, 13), *captured(0)]
    role, _ = replay(odd)
    role.ports_attached([1514])
    role.begin(0)
    assert len(leaves(role, 1)) == 1
    stats = role.stats()
    assert (stats["cut_short"], stats["too_long"], stats["too_short"], stats["sent"]) == (1, 1, 1, 1)


def test_capture_torn_in_the_middle_is_sent_so_far_and_said() -> None:
    role, said = replay([*captured(0, 1), Captured(0, b"", -1)], loop=True)
    role.begin(0)
    assert len(leaves(role, 10 * MS)) == 2
    assert said == ["the capture cannot be read: torn"]
    assert role.stats()["error"] == "torn"
    assert ask(role, "start")[0] == 1


def test_capture_with_nothing_to_send_is_not_looped_for_ever() -> None:
    role, said = replay([], loop=True)
    role.begin(0)
    assert role.due() is None
    assert said == ["the capture cannot be read: no frame in it can be sent"]


def test_manual_start_and_stop() -> None:
    role, _ = replay(captured(0, 10), start="manual")
    role.begin(0)
    assert role.due() is None
    ask(role, "start")
    assert len(leaves(role, MS)) == 1
    ask(role, "stop")
    assert (role.due(), role.running) == (None, False)
