"""Silence of an engine, by a clock that the test turns."""

from __future__ import annotations

from llmarking.engines.pulse import Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_only_silence_over_work_counts() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    clock.now += 1000
    assert (pulse.silent_seconds, pulse.running) == (0, 0)
    pulse.begin("a")
    assert (pulse.silent_seconds, pulse.running) == (0, 1)
    clock.now += 5
    pulse.begin("b")  # more work is no sign of life
    assert (pulse.silent_seconds, pulse.running) == (5, 2)
    pulse.beat()
    assert pulse.silent_seconds == 0
    clock.now += 7
    pulse.end("a")  # nor is a request that was given up
    assert pulse.silent_seconds == 7
    pulse.end("b")
    assert (pulse.silent_seconds, pulse.running) == (0, 0)


def test_after_a_pause_silence_begins_anew() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.begin("a")
    clock.now += 50
    pulse.end("a")
    clock.now += 50
    pulse.begin("b")
    assert pulse.silent_seconds == 0
    pulse.clear()
    clock.now += 50
    assert (pulse.silent_seconds, pulse.running) == (0, 0)
