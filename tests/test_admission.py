"""The bounded queue: what is in is counted until it is out, the rest hears when to return."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmarking.errors import Overloaded
from llmarking.server.admission import Gate


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_work_is_counted_while_its_block_runs() -> None:
    gate = Gate(3)
    with gate.admit(), gate.admit(2):
        assert gate.held == 3
    assert gate.held == 0


def test_a_block_that_fails_gives_its_place_back() -> None:
    gate = Gate(1)
    with contextlib.suppress(ZeroDivisionError), gate.admit():
        raise ZeroDivisionError
    assert gate.held == 0


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    gate = Gate(2)
    with gate.admit(2):
        with pytest.raises(Overloaded, match="try again in 5 s"), gate.admit():
            pytest.fail("it was let in")
        assert gate.held == 2
    with gate.admit():
        assert gate.held == 1


def test_a_request_larger_than_the_queue_gets_in_when_nothing_else_is_there() -> None:
    gate = Gate(4)
    with gate.admit(10), pytest.raises(Overloaded), gate.admit():
        pytest.fail("it was let in")
    with gate.admit(), pytest.raises(Overloaded), gate.admit(10):
        pytest.fail("it was let in")


@pytest.mark.parametrize(
    ("finished", "units", "expected"),
    [
        (10, 1, 1),  # ten a second drain: one place is free at once
        (1, 5, 5),  # one a second: five places take five
        (0, 1, 5),  # nobody knows: a guess
        (1, 1000, 60),  # never more than a minute
    ],
)
def test_the_time_to_come_back_follows_from_how_fast_the_queue_drains(
    finished: int, units: int, expected: int
) -> None:
    clock = Clock()
    gate = Gate(10, clock)
    for _ in range(finished):
        with gate.admit():
            pass
    clock.now += 1.0
    with gate.admit(10), pytest.raises(Overloaded) as refused, gate.admit(units):
        pytest.fail("it was let in")
    assert refused.value.retry_after == expected


def test_what_finished_more_than_a_minute_ago_says_nothing_about_now() -> None:
    clock = Clock()
    gate = Gate(1, clock)
    for _ in range(100):
        with gate.admit():
            pass
    clock.now += 61
    with gate.admit(), pytest.raises(Overloaded) as refused, gate.admit():
        pytest.fail("it was let in")
    assert refused.value.retry_after == 5


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(1, 20), st.floats(0, 90))))
def test_the_time_to_come_back_is_always_between_a_second_and_a_minute(
    limit: int, past: list[tuple[int, float]]
) -> None:
    clock = Clock()
    gate = Gate(limit, clock)
    for units, seconds in past:
        with gate.admit(units):
            clock.now += seconds
    with gate.admit(limit), pytest.raises(Overloaded) as refused, gate.admit():
        pytest.fail("it was let in")
    assert 1 <= refused.value.retry_after <= 60


class GateMachine(RuleBasedStateMachine):
    """Any order of coming and going: held is what is inside, and never above the limit for long."""

    LIMIT = 7

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(self.LIMIT)
        self.inside: list[tuple[contextlib.AbstractContextManager[None], int]] = []

    @rule(units=st.integers(1, 10))
    def come(self, units: int) -> None:
        held = sum(u for _, u in self.inside)
        place = self.gate.admit(units)
        if held and held + units > self.LIMIT:
            with pytest.raises(Overloaded):
                place.__enter__()
        else:
            place.__enter__()
            self.inside.append((place, units))

    @precondition(lambda self: self.inside)
    @rule(which=st.integers(0, 100))
    def go(self, which: int) -> None:
        place, _ = self.inside.pop(which % len(self.inside))
        place.__exit__(None, None, None)

    @invariant()
    def held_is_what_is_inside(self) -> None:
        assert self.gate.held == sum(u for _, u in self.inside)
        assert self.gate.held <= self.LIMIT or len(self.inside) == 1


TestGateMachine = GateMachine.TestCase
