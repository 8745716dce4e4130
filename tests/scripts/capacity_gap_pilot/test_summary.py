"""The table of a pilot: best teachers, inside or at an edge, beyond doubt or not."""

import json

import numpy as np
import pytest
from capacity_gap_pilot.summary import summarise, table, verdict

TEACHERS = {"small": 3.5, "middle": 3.2, "large": 3.0}
SIZES = {"small": 2_000, "middle": 5_000, "large": 10_000}


def run(student: int, teacher: str, loss: float, seed: int = 0, noise: float = 0.0) -> dict:
    # Not hash(): that of a string is another one in every process.
    rng = np.random.default_rng([student, SIZES[teacher], seed])
    passages = 3 + np.linspace(-1, 1, 40) + (loss - 3) + noise * rng.standard_normal(40)
    return {
        "seed": seed, "student": student, "teacher": teacher, "tokens": 1000, "window": 256,
        "learning_rate": 0.01, "passages": 40, "teacher_parameters": SIZES[teacher],
        "student_parameters": student, "student_total": 2 * student, "shape": {"hidden": 8},
        "pruned_loss": 6.0, "losses": passages.tolist(), "cpu_seconds": 1.5,
    }  # fmt: skip


def runs(losses: tuple[float, float, float], student: int = 1000, noise: float = 0.0) -> list[dict]:
    return [run(student, n, x, noise=noise) for n, x in zip(TEACHERS, losses, strict=True)]


def test_an_optimum_inside() -> None:
    summary = summarise(runs((4.2, 4.0, 4.3)), TEACHERS)
    part = summary["students"][0]
    assert (part["best"], part["interior"], summary["interior_optimum"]) == ("middle", True, True)
    assert [one["loss"] for one in part["teachers"]] == pytest.approx([4.2, 4.0, 4.3])
    # Passages differ by 2 nats, students by 0.2 on every one of them: the difference is certain.
    assert part["teachers"][0]["behind_best"]["low"] == pytest.approx(0.2)
    assert part["teachers"][0]["interval"]["high"] > 4.3
    json.dumps(summary, allow_nan=False)


def test_an_optimum_within_the_noise_is_none() -> None:
    summary = summarise(runs((4.01, 4.0, 4.3), noise=0.5), TEACHERS)
    assert not summary["students"][0]["interior"]


def test_an_edge_is_no_optimum() -> None:
    summary = summarise(runs((4.0, 4.1, 4.2)), TEACHERS)
    assert (summary["students"][0]["best"], summary["interior_optimum"]) == ("small", False)
    assert summary["lines"]["1000"]["optima"][0]["edge"] == "smallest"


def test_seeds_are_averaged_and_shown() -> None:
    summary = summarise([*runs((4.2, 4.0, 4.3)), run(1000, "middle", 4.1, seed=1)], TEACHERS)
    middle = summary["students"][0]["teachers"][1]
    assert middle["loss"] == pytest.approx(4.05, abs=1e-3)
    assert middle["seeds"] == pytest.approx([4.0, 4.1], abs=1e-3)


def test_the_verdict_says_what_the_rows_say() -> None:
    inside = [*runs((4.2, 4.0, 4.3)), *runs((3.0, 3.1, 3.3), student=2000)]
    assert verdict(summarise(inside, TEACHERS)) == (
        "An interior optimum shows for 1 of 2 rows: students of 1,000 parameters."
    )
    smallest = verdict(summarise(runs((4.0, 4.1, 4.2)), TEACHERS))
    assert (
        "No interior optimum shows in 1 rows: the smallest teacher tried was the best" in smallest
    )
    both = [*runs((4.0, 4.1, 4.2)), *runs((4.2, 4.1, 4.0), student=2000)]
    assert "see the rows" in verdict(summarise(both, TEACHERS))


def test_the_table_has_a_row_for_each_student() -> None:
    both = [*runs((4.2, 4.0, 4.3)), *runs((3.0, 3.1, 3.3), student=2000)[:2]]
    lines = table(summarise(both, TEACHERS)).splitlines()
    assert len(lines) == 7
    assert lines[2].startswith("| teacher itself |")
    assert "| middle | yes |" in lines[3]
    assert lines[4].startswith("| 2,000 | 1,000 | 3.000")
    assert "|  | small | no |" in lines[4]  # the third teacher was not tried
