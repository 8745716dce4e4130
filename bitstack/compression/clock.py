"""Fits a recipe to a time: plans what this machine can do in it, and says when it runs out.

The plan is made from predicted seconds (see `compression.speeds`). It takes the richest rung of a
short ladder that leaves most of the time to tuning; where that is too little to tune in, the
richest that fits. During the run the stages ask whether they are late, and tuning takes as many
steps as fit. Does not run a stage.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitstack.compression.inputs import Inputs
from bitstack.compression.speeds import Speeds, measure_speed, predict_seconds
from bitstack.errors import UserError
from bitstack.machine.durations import format_duration
from bitstack.machine.files import disk_errors, publish
from bitstack.recipe import NO_TEXT, Recipe

PLANNED = 0.85  # share of the time that is planned; the forecast is not exact
_FEWEST_STEPS = 100  # of tuning: fewer move next to nothing
_UNTUNED = 1 / 3  # share of the planned time that all before tuning may take
_FILE = "clock.json"  # in the journal: an interrupted run goes on with its plan
# From rich to poor: the largest values of some fields. `tokens` is num_samples times seq_len.
_RUNGS: tuple[dict[str, Any], ...] = (
    {"order": "predicted"},
    {"order": "predicted", "tokens": 65536},
    {"order": "predicted", "refit_rounds": 1, "joint_passes": 2, "tokens": 32768},
    {"order": "predicted", "refit_rounds": 1, "joint_passes": 1, "search_sweeps": 1}
    | {"tokens": 16384},
    {"order": "predicted", "refit_rounds": 1, "joint_passes": 0, "search_sweeps": 1}
    | {"tokens": 8192},
)


@dataclass
class Clock:
    """The time of one run, from when it is made."""

    seconds: float
    plan: Recipe  # what the run does
    wanted: Recipe  # what it would do with all time
    planned_seconds: float
    wanted_seconds: float
    changes: list[str] = field(default_factory=list)  # of the plan during the run, as sentences
    _start: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Returns the seconds left, below zero when the time is over."""
        return self.seconds - (time.monotonic() - self._start)

    def cut(self, what: str) -> None:
        """Notes what the run leaves out because it is late."""
        self.change(f"it was late; {what}")

    def change(self, what: str) -> None:
        """Notes in which way the run departs from its plan."""
        if what not in self.changes:
            self.changes.append(what)

    def lines(self) -> list[str]:
        """Returns what is said before the run: the plan, in one line."""
        return [
            f"clock: {format_duration(self.seconds)}; planned: {describe(self.plan)}, about "
            f"{format_duration(self.planned_seconds)}"
        ]

    def closing_lines(self) -> list[str]:
        """Returns what is said after it: the time it took, what was changed, what more would
        buy."""
        took = format_duration(self.seconds - self.left())
        lines = [f"clock: took {took} of {format_duration(self.seconds)}"]
        lines += [f"clock: {change}" for change in self.changes]
        if self.plan != self.wanted:
            more = format_duration(self.wanted_seconds)
            lines.append(f"clock: about {more} would have bought {describe(self.wanted)}")
        return lines

    def write(self, journal: Path) -> None:
        """Keeps the plan in the journal's folder."""
        plan, wanted = (recipe.model_dump(mode="json") for recipe in (self.plan, self.wanted))
        record = {"plan": plan, "wanted": wanted, "seconds": self.seconds}
        partial = journal / f"{_FILE}.partial"
        with disk_errors(partial):
            partial.write_text(json.dumps(record))
            publish(partial, journal / _FILE)


def describe(recipe: Recipe) -> str:
    """Returns the settings of a recipe that take time, in words."""
    parts = [
        f"{recipe.num_samples * recipe.seq_len} tokens",
        f"{recipe.search_sweeps} search sweeps",
        f"{recipe.joint_passes} joint passes",
        f"{recipe.tune_steps} tuning steps",
        f"order {recipe.order}",
    ]
    return ", ".join(parts)


def start_clock(inputs: Inputs, seconds: float, journal: Path) -> Clock:
    """Fits the recipe of `inputs` to `seconds`, or takes the plan of the run that goes on.

    Raises:
        UserError: The least run takes longer; the message says how long.
    """
    speeds = measure_speed(inputs.recipe, inputs.device, text=inputs.text is not None)

    def predicted(recipe: Recipe) -> float:
        return predict(inputs, recipe, speeds)

    wanted = inputs.recipe
    plan = _kept_plan(journal, wanted, seconds) or fit(wanted, seconds, predicted)
    return Clock(seconds, plan, wanted, predicted(plan), predicted(wanted))


def predict(inputs: Inputs, recipe: Recipe, speeds: Speeds) -> float:
    """Returns the seconds of a run of `recipe` on opened inputs."""
    tokens = min(inputs.tokens, recipe.num_samples * recipe.seq_len)
    parts = predict_seconds(
        inputs.source, inputs.matrices, recipe, tokens, inputs.batch_tokens, speeds
    )
    return sum(parts)


def fit(wanted: Recipe, seconds: float, predicted: Callable[[Recipe], float]) -> Recipe:
    """Returns the richest recipe, up to `wanted`, whose predicted seconds fit into `seconds`.

    Raises:
        UserError: None does; the message says how long the least takes.
    """
    room = PLANNED * seconds
    if predicted(wanted) <= room:
        return wanted
    untuned = [limited(wanted, rung).model_copy(update={"tune_steps": 0}) for rung in _RUNGS]
    fitting = [(plan, time) for plan in untuned if (time := predicted(plan)) <= room]
    if not fitting:
        raise UserError(
            f"--time {format_duration(seconds)}: the least run of this model takes about "
            f"{format_duration(predicted(untuned[-1]) / PLANNED)} on this machine; give at least "
            "that"
        )
    if wanted.tunes and wanted.calibration != NO_TEXT:
        for plan in (plan for plan, time in fitting if time <= _UNTUNED * room):
            if steps := _steps(wanted, plan, room, predicted):
                return plan.model_copy(update={"tune_steps": steps})
    return fitting[0][0]


def _steps(wanted: Recipe, plan: Recipe, room: float, predicted: Callable[[Recipe], float]) -> int:
    """Returns how many steps of tuning fit into the time that is left; 0 if too few do."""
    low, high = 0, wanted.tune_steps
    while low < high:  # the largest number of steps that fits
        steps = (low + high + 1) // 2
        tuned = plan.model_copy(update={"tune_steps": steps})
        low, high = (steps, high) if predicted(tuned) <= room else (low, steps - 1)
    return low if low >= min(_FEWEST_STEPS, wanted.tune_steps) else 0


def limited(recipe: Recipe, rung: dict[str, Any]) -> Recipe:
    """Returns `recipe` with fields no larger than those of `rung`."""
    changes: dict[str, Any] = {}
    for name in ("refit_rounds", "joint_passes", "search_sweeps"):
        changes[name] = min(getattr(recipe, name), rung.get(name, getattr(recipe, name)))
    if tokens := rung.get("tokens"):
        changes["num_samples"] = max(1, min(recipe.num_samples, tokens // recipe.seq_len))
    if recipe.order == "loss":
        changes["order"] = rung["order"]
    return recipe.model_copy(update=changes)


def poorest(recipe: Recipe) -> Recipe:
    """Returns what a run that is late does with the matrices that are left."""
    return limited(recipe, _RUNGS[-1])


def _kept_plan(journal: Path, wanted: Recipe, seconds: float) -> Recipe | None:
    """The plan of the interrupted run in `journal`, if it was asked for the same."""
    try:
        record = json.loads((journal / _FILE).read_text())
    except (OSError, ValueError):
        return None
    same = record["wanted"] == wanted.model_dump(mode="json") and record["seconds"] == seconds
    return Recipe.model_validate(record["plan"]) if same else None
