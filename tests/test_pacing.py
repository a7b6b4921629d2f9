"""What runs behind the replies gives way to them."""

from __future__ import annotations

from afterword.pacing import GATHER, GATHER_MOST, LATE, Gathering


def test_looks_for_work_become_rare_while_the_loop_is_late_and_frequent_again_when_it_is_not() -> None:
    gathering = Gathering()
    for _ in range(20):
        gathering.noted(10 * LATE)
    assert gathering.seconds == GATHER_MOST
    gathering.noted(0.0)
    assert GATHER < gathering.seconds < GATHER_MOST
    for _ in range(20):
        gathering.noted(0.0)
    assert gathering.seconds == GATHER
