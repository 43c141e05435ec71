"""The schedule keeps to absolute times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vswitch.emulated.pacing import MAX_BEHIND, SECOND, Schedule

RATES = st.floats(1, 5e6, allow_nan=False)


@given(RATES, st.integers(1, 64), st.lists(st.integers(0, MAX_BEHIND // 4), min_size=1, max_size=60))
def test_frames_sent_follow_the_clock_however_irregularly_it_is_looked_at(
    rate: float, burst: int, steps: list[int]
) -> None:
    """At any time t, 1 + t * rate frames have been due, rounded to whole bursts: no error adds up."""
    start = 10**15
    schedule = Schedule(start, rate, burst)
    now, total = start, 0
    for step in steps:
        now += step
        allowed = schedule.allowed(now, 1 << 40)
        schedule.sent(allowed)
        total += allowed
        assert total % burst == 0
        assert abs(total - (now - start) * rate / SECOND) <= burst + 1e-6 * total
    assert schedule.given_up == 0


@given(RATES, st.integers(1, 64), st.integers(0, 10**9))
def test_burst_is_allowed_when_it_is_due_and_not_a_microsecond_before(rate: float, burst: int, late: int) -> None:
    start = 10**15
    schedule = Schedule(start, rate, burst)
    schedule.sent(schedule.allowed(start + late % MAX_BEHIND, 1 << 40))
    due = schedule.due()
    assert schedule.allowed(due - 1000, 1 << 40) == 0
    assert schedule.allowed(due + 1, 1 << 40) == burst


def test_long_standstill_is_given_up_and_counted() -> None:
    schedule = Schedule(0, 1000.0)
    schedule.sent(schedule.allowed(0, 1000))
    backlog = schedule.allowed(10 * SECOND, 1 << 40)
    assert backlog == 1000 * MAX_BEHIND // SECOND
    assert schedule.given_up == 10_000 - backlog


def test_frames_that_found_no_room_stay_due() -> None:
    schedule = Schedule(0, 1000.0)
    assert schedule.allowed(10_000_000, 256) == 11
    schedule.sent(4)
    assert schedule.allowed(10_000_000, 256) == 7


def test_without_a_rate_everything_is_allowed_at_once() -> None:
    schedule = Schedule(5, None)
    assert (schedule.allowed(5, 256), schedule.due()) == (256, 5)
