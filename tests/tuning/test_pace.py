"""As many steps as fit: the time of a step is what it really takes."""

import time

import pytest

from bitstack.tuning.pace import TIMED, Pace


class Machine:
    """Takes steps of so many seconds each, of a time that runs out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: float, given: float) -> None:
        self.now, self.each, self.end = 0.0, each, given
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def left(self) -> float:
        return self.end - self.now

    def run(self, pace: Pace) -> list[int]:
        """Returns the steps that each phase took."""
        taken = []
        for phase in range(len(pace.steps)):
            done = 0
            while done < pace.steps[phase]:
                if pace.is_over:
                    pace.stop(phase, done)
                    break
                self.now += self.each
                done += 1
                pace.finished(phase, done)
            taken.append(done)
        return taken


def test_without_a_clock_steps_are_as_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace([10, 6, 4])
    assert Machine(monkeypatch, 1.0, 0.0).run(pace) == [10, 6, 4]
    assert pace.added == 0


@pytest.mark.parametrize("each", [0.5, 0.8, 1.0, 1.3, 2.0, 4.0])
def test_the_time_is_used_and_kept(monkeypatch: pytest.MonkeyPatch, each: float) -> None:
    """Planned at a second a step; the phases keep their shares."""
    machine = Machine(monkeypatch, each, 200.0)
    pace = Pace([100, 60, 40], machine.left, most=1000)
    taken = machine.run(pace)
    assert 200 - 3 * each <= machine.now < 200 + each  # a step that has begun ends
    assert taken == pytest.approx([share * 200 / each for share in (0.5, 0.3, 0.2)], abs=4)
    assert pace.added == sum(taken) - 200


def test_no_more_steps_than_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 0.1, 200.0)
    assert sum(machine.run(Pace([50, 50], machine.left, most=120))) == pytest.approx(120, abs=1)
    machine = Machine(monkeypatch, 0.1, 200.0)
    assert machine.run(Pace([50, 50], machine.left)) == [50, 50]


def test_a_machine_that_becomes_slow_leaves_steps_out(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1.0, 100.0)
    slow = TIMED + 6

    def left() -> float:
        machine.each = 20.0 if machine.now >= slow else 1.0
        return machine.end - machine.now

    pace = Pace([50, 50], left)
    assert sum(machine.run(pace)) < 20
    assert machine.now <= 120
    assert pace.added == sum(pace.steps) - 100


@pytest.mark.parametrize("left", [0.0, -5.0])
def test_when_the_time_is_over_no_step_is_taken(
    monkeypatch: pytest.MonkeyPatch, left: float
) -> None:
    machine = Machine(monkeypatch, 1.0, left)
    pace = Pace([5, 5], machine.left)
    assert machine.run(pace) == [0, 0]
    assert pace.steps == [0, 0]
    assert pace.added == -10
