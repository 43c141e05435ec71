"""A generator's frames, as scapy reads them, and its pace."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from vswitch.emulated import probe
from vswitch.emulated.frames import FramePool
from vswitch.emulated.pktgen import Pktgen
from vswitch.emulated.settings import EmulatedSpec

from .asking import ask

MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
SECOND = 10**9


def spec(**settings: Any) -> EmulatedSpec:
    return EmulatedSpec(**{"role": "pktgen", "dst": MAC_B, "src": MAC_A, "size": "60", "rate": "max", **settings})


def drain(generator: Pktgen, now: int, room: int = 256) -> list[bytes]:
    """Everything it wants to send at `now`."""
    out: list[bytes] = []
    while (due := generator.due()) is not None and due <= now:
        _, frames = generator.emit(now, room)
        if not frames:
            break
        out += [bytes(frame) for frame in frames]
        generator.sent(len(frames), now)
    return out


def probes(frames: list[bytes]) -> list[probe.Probe]:
    return [probe.unpack(frame, probe.find(frame)) for frame in frames]


@given(
    st.integers(0, 2**40) | st.integers(2**40, 2**41),
    st.integers(0, 2**56) | st.integers(2**56, 2**57),
    st.integers(0, probe.MAX_FLOW),
)
def test_probe_survives_the_way_there(sequence: int, stamp: int, flow: int) -> None:
    packed = probe.pack(flow, sequence, stamp)
    assert len(packed) == probe.SIZE
    expected = probe.Probe(flow, sequence % probe.SEQUENCE_MODULUS, stamp % probe.STAMP_MODULUS, echoed=False)
    assert probe.unpack(packed, 0) == expected


def test_shortest_frames_have_room_as_documented() -> None:
    sizes = [probe.room(tagged=tagged, version=version) for version in (None, 4, 6) for tagged in (False, True)]
    assert sizes == [32, 36, 60, 64, 80, 84]


@pytest.mark.parametrize("vlan", [None, "7"])
@pytest.mark.parametrize(("src", "dst"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2"), (None, None)])
def test_frame_is_what_scapy_makes_of_it_checksums_included(src: str | None, dst: str | None, vlan: str | None) -> None:
    ports = {} if src is None else {"src_port": "1000", "dst_port": "2000"}
    pool = FramePool(spec(src_ip=src, dst_ip=dst, vlan=vlan, size="100", **ports), 5)
    frames = pool.take(8)
    pool.stamp(frames, 2**32 - 4, 123456789)  # over the boundary of the two numbers, too
    for number, raw in enumerate(frames):
        frame = Ether(bytes(raw))
        assert (len(raw), frame.dst, frame.src) == (100, MAC_B, MAC_A)
        assert (Dot1Q in frame) == (vlan is not None)
        found = probe.unpack(bytes(raw), probe.find(bytes(raw)))
        assert found == probe.Probe(5, 2**32 - 4 + number, 123456789, echoed=False)
        if src is None:
            continue
        kind = IP if "." in src else IPv6
        assert (frame[kind].src, frame[kind].dst) == (src, dst)
        assert (frame[UDP].sport, frame[UDP].dport) == (1000, 2000)
        rebuilt = frame.copy()
        if kind is IP:
            del rebuilt[IP].chksum
        else:
            del rebuilt[UDP].chksum
        del rebuilt[UDP].len
        assert bytes(rebuilt) == bytes(raw)


def test_patterns_run_side_by_side_each_from_its_beginning() -> None:
    pool = FramePool(
        spec(dst="02:00:00:00:00:{00-03}", src="02:00:00:00:01:{00-01}", size="64", vlan="{10-12}"), flow=0
    )
    seen = [Ether(bytes(frame)) for frame in pool.frames[:24]]
    assert [frame.dst[-2:] for frame in seen[:6]] == ["00", "01", "02", "03", "00", "01"]
    assert [frame.src[-2:] for frame in seen[:4]] == ["00", "01", "00", "01"]
    assert [frame[Dot1Q].vlan for frame in seen[:4]] == [10, 11, 12, 10]
    assert len(pool.frames) % 12 == 0


def test_batch_never_holds_one_buffer_twice() -> None:
    pool = FramePool(spec(), flow=0)
    assert len({id(frame) for frame in pool.take(256)}) == 256


def test_too_many_combinations_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"patterns of 256, 255 values go together in 65280 ways|more than 64 MiB"):
        FramePool(spec(dst="02:00:00:00:00:{00-ff}", src="02:00:00:00:00:{01-ff}", size="1514"), 0)
    with pytest.raises(ValueError, match="256, 257, 3"):
        FramePool(
            spec(
                dst="02:00:00:00:00:{00-ff}",
                src="02:00:00:00:{00-00}:{00-ff}",
                vlan="{1-257}",
                size="64",
                src_ip="10.0.0.{1-3}",
                dst_ip="10.0.0.9",
            ),
            0,
        )


def test_generator_sends_at_its_rate_with_consecutive_numbers_and_true_stamps() -> None:
    generator = Pktgen(spec(rate="1kpps"), flow=3)
    generator.begin(SECOND)
    frames = [frame for now in range(SECOND, 2 * SECOND, SECOND // 100) for frame in drain(generator, now)]
    found = probes(frames)
    assert len(found) == 991  # 990 ms of 1000 a second, and the first at once
    assert [one.sequence for one in found] == list(range(991))
    assert {one.flow for one in found} == {3}
    assert found[-1].stamp == SECOND + 99 * SECOND // 100


def test_patterns_go_on_where_the_last_batch_ended() -> None:
    generator = Pktgen(spec(dst="02:00:00:00:00:{00-ff}", rate="1kpps"), flow=0)
    generator.begin(0)
    frames = [frame for now in range(0, SECOND, SECOND // 50) for frame in drain(generator, now)]
    assert [frame[5] for frame in frames] == [number % 256 for number in range(len(frames))]
    assert len(frames) > 900


def test_mix_keeps_its_proportions_and_a_bit_rate_counts_its_bytes() -> None:
    generator = Pktgen(spec(size="imix", rate="10mbit"), flow=0)
    generator.begin(0)
    frames = [frame for now in range(0, SECOND, SECOND // 1000) for frame in drain(generator, now)]
    assert sum(map(len, frames)) * 8 == pytest.approx(10e6, rel=0.01)
    sizes = Counter(map(len, frames))
    assert sizes[60] / len(frames) == pytest.approx(7 / 12, rel=0.01)
    assert sizes[1514] / len(frames) == pytest.approx(1 / 12, rel=0.02)


@given(st.lists(st.tuples(st.integers(0, 5_000_000), st.integers(0, 300), st.integers(0, 300)), max_size=50))
def test_no_number_is_skipped_or_doubled_whatever_the_ring_takes(steps: list[tuple[int, int, int]]) -> None:
    generator = Pktgen(spec(rate="100kpps", count=2000), flow=0)
    generator.begin(0)
    now, left = 0, []
    for wait, room, taken in steps:
        now += wait
        _, frames = generator.emit(now, room)
        assert len(frames) <= min(room, 256)
        left += [bytes(frame) for frame in frames[:taken]]
        generator.sent(min(taken, len(frames)), now)
    assert [one.sequence for one in probes(left)] == list(range(len(left)))
    assert generator.stats()["sent"] == len(left) <= 2000


def test_generator_ends_after_its_count_and_starts_again_with_numbers_going_on() -> None:
    generator = Pktgen(spec(count=300), flow=0)
    generator.begin(0)
    assert len(drain(generator, 0)) == 300
    assert (generator.running, generator.due()) == (False, None)
    assert ask(generator, "start")[0] == 0
    assert [one.sequence for one in probes(drain(generator, 0))] == list(range(300, 600))


def test_generator_whose_count_is_set_below_what_it_has_sent_ends() -> None:
    generator = Pktgen(spec(rate="1kpps"), flow=0)
    generator.begin(0)
    assert len(drain(generator, 100_000_000)) > 50
    assert ask(generator, "set", "count=5")[0] == 0
    assert drain(generator, 200_000_000) == []
    assert (generator.running, generator.due()) == (False, None)


def test_generator_ends_after_its_duration_with_all_that_was_due() -> None:
    generator = Pktgen(spec(rate="1kpps", duration=0.05), flow=0)
    generator.begin(0)
    assert len(drain(generator, 40_000_000)) == 41
    assert len(drain(generator, 90_000_000)) == 9
    assert not generator.running


def test_manual_generator_waits_for_the_command() -> None:
    generator = Pktgen(spec(start="manual", count=1), flow=0)
    generator.begin(0)
    assert generator.due() is None
    ask(generator, "start")
    assert len(drain(generator, 0)) == 1


def test_rate_is_changed_while_running_and_nonsense_changes_nothing() -> None:
    generator = Pktgen(spec(rate="10pps"), flow=0)
    generator.begin(0)
    drain(generator, 0)
    assert ask(generator, "set", "rate=1kpps", "burst=4")[0] == 0
    assert len(drain(generator, SECOND // 100)) == 12
    for wrong in ("rate=fast", "burst=0", "colour=red", "rate"):
        code, _, err = ask(generator, "set", "count=1", wrong)
        assert code == 2
        assert re.search("usage: set rate=RATE", err)
    assert generator.running
    drain(generator, SECOND // 50)
    assert generator.running, "count=1 beside a mistake was taken"


def test_generator_measures_what_an_echo_returns() -> None:
    generator = Pktgen(spec(count=10), flow=16)
    generator.begin(0)
    generator.handle(0, drain(generator, 0)[:9], 5000)
    stats = json.loads(ask(generator, "stats")[1])
    assert stats["total"]["received"] == 9
    assert stats["flows"]["16"]["latency_us"]["max"] == 5.0
