"""A flow's accounting, against a model that remembers everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vswitch.emulated.flow import Flow
from vswitch.emulated.probe import SEQUENCE_MODULUS, STAMP_MODULUS

WINDOW = 64
WIDE = 4096


def take(sequences: list[int], window: int) -> Flow:
    flow = Flow(window)
    for sequence in sequences:
        flow.arrived(sequence % SEQUENCE_MODULUS, 0, 60, 1000)
    return flow


def naive(sequences: list[int]) -> dict[str, int]:
    """The definitions, word for word, with unlimited memory."""
    seen: set[int] = set()
    reordered = duplicates = distance = 0
    for sequence in sequences:
        if sequence in seen:
            duplicates += 1
        elif seen and sequence < max(seen):
            reordered += 1
            distance = max(distance, max(seen) - sequence)
        seen.add(sequence)
    span = max(seen) - min(seen) + 1
    return {
        "lost": span - len(seen),
        "reordered": reordered,
        "duplicates": duplicates,
        "greatest_distance": distance,
        "received": len(sequences),
        "missed_before": min(seen),
    }


def counted(flow: Flow) -> dict[str, object]:
    report = flow.report()
    return {
        key: report[key]
        for key in ("lost", "reordered", "duplicates", "greatest_distance", "received", "missed_before")
    }


@given(st.lists(st.integers(0, WIDE - 1), min_size=1, max_size=200))
def test_flow_agrees_with_the_definitions_while_everything_is_within_the_window(sequences: list[int]) -> None:
    assert counted(take(sequences, WIDE)) == naive(sequences)


@st.composite
def shuffled_locally(draw: st.DrawFn) -> list[int]:
    """A long run with packets lost, doubled and displaced by less than a window."""
    start = draw(st.integers(0, 2**41))
    places: list[tuple[int, int]] = []
    for number in range(draw(st.integers(1, 400))):
        for _ in range(draw(st.sampled_from([1, 1, 1, 1, 0, 2]))):
            places.append((number + draw(st.sampled_from([0, 0, 0, 5, WINDOW // 2])), start + number))
    return [sequence for _, sequence in sorted(places, key=lambda place: place[0])] or [start]


@given(shuffled_locally())
def test_flow_agrees_with_the_definitions_over_many_windows_and_past_the_modulus(sequences: list[int]) -> None:
    start = min(sequences)
    expected = naive([sequence - start for sequence in sequences])
    flow = take(sequences, WINDOW)
    report = counted(flow)
    assert {**report, "missed_before": 0} == {**expected, "missed_before": 0}
    assert flow.outside == 0


def test_packet_too_far_behind_to_judge_is_counted_apart() -> None:
    flow = take([0, WINDOW + 1, 0], WINDOW)
    assert (flow.outside, flow.duplicates, flow.reordered, flow.lost, flow.received) == (1, 0, 0, WINDOW, 3)


def test_gap_longer_than_the_window_forgets_what_was_seen_before() -> None:
    flow = take([5, 5 + 10 * WINDOW, 5 + 10 * WINDOW - 3], WINDOW)
    assert (flow.reordered, flow.duplicates, flow.lost) == (1, 0, 10 * WINDOW - 2)


def test_latency_survives_the_stamps_wrap_and_the_future_is_refused() -> None:
    flow = Flow(WINDOW)
    flow.arrived(0, 100, 60, STAMP_MODULUS + 1100)
    flow.arrived(1, 5000, 60, 4000)
    assert (flow.latency.count, flow.latency.largest, flow.bad_stamps) == (1, 1000, 1)
