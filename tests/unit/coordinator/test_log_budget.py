"""The log of a port whose peer comes and goes is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vswitch.coordinator.log_budget import LINES, PERIOD, LogBudget


@given(st.lists(st.floats(0, 5), max_size=200))
def test_no_more_lines_than_so_many_are_written_in_a_period(pauses: list[float]) -> None:
    """The first ones always are, another subject's count for themselves, and a new period begins anew."""
    budget, now = LogBudget(), 0.0
    written: list[float] = []
    for number, pause in enumerate(pauses):
        now += pause
        allowed = budget.allows("lan/a", now)
        assert allowed or number >= LINES
        if allowed:
            written.append(now)
    # Twice as many may meet where a period ends, never more.
    assert all(later - early >= PERIOD for early, later in zip(written, written[2 * LINES :], strict=False))
    assert budget.allows("lan/b", now)
    assert budget.allows("lan/a", now + PERIOD)


def test_one_period_has_its_lines_and_no_more() -> None:
    budget = LogBudget()
    assert sum(budget.allows("lan/a", number / 1000) for number in range(1000)) == LINES
