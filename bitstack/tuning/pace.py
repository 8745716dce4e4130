"""Fits the number of tuning steps to the time that is left, by the seconds that steps really take.

A forecast of a step is wrong by up to half on a machine that nobody has measured. So the first
steps of every phase are timed, and the steps that follow are as many as fit. Does not take a step;
see `tuning.tuner`.
"""

import math
import time
from collections.abc import Callable, Sequence

TIMED = 4  # steps of a phase by which its further ones are planned; one more before is not timed


def no_limit() -> float:
    """Returns the seconds that are left where there is no clock: endless."""
    return math.inf


class Pace:
    """The steps of every phase: as planned, and with a clock as many as fit."""

    def __init__(
        self, planned: Sequence[int], seconds_left: Callable[[], float] = no_limit, most: int = 0
    ) -> None:
        """Begins before the first step.

        Args:
            planned: Steps of each phase.
            seconds_left: Time for all steps that are left; endless without a clock.
            most: Steps of all phases together that time to spare may add up to; those planned, if
                they are more.
        """
        self.steps, self._planned = list(planned), sum(planned)
        self._seconds_left, self._most = seconds_left, max(most, self._planned)
        self._since = 0.0

    @property
    def is_over(self) -> bool:
        """Whether no time is left for a further step."""
        return self._seconds_left() <= 0

    @property
    def added(self) -> int:
        """Returns how many steps there are beyond those planned; below zero, how many fewer."""
        return sum(self.steps) - self._planned

    def finished(self, phase: int, done: int) -> None:
        """Takes notice that `done` steps of a phase are finished, and plans the following anew."""
        now = time.monotonic()
        if done == 1:
            self._since = now
        elif done == TIMED + 1 and math.isfinite(left := self._seconds_left()):
            self._fit(phase, done, max(0.0, left) * TIMED / max(now - self._since, 1e-9))

    def stop(self, phase: int, done: int) -> None:
        """Leaves out the further steps of a phase."""
        self.steps[phase] = done

    def _fit(self, phase: int, done: int, fitting: float) -> None:
        """Shares `fitting` further steps among this phase and the later ones, as was planned."""
        further = [self.steps[phase] - done, *self.steps[phase + 1 :]]
        fitting = min(fitting, self._most - sum(self.steps[:phase]) - done)
        share = fitting / max(1, sum(further))
        self.steps[phase:] = [round(share * steps) for steps in further]
        self.steps[phase] += done
