"""Computes the best size of a teacher for a student, by one of two published laws.

`pruned`: the student is cut out of that teacher and then taught by it (Law of Capacity Gap, arXiv
2311.07052, ACL 2025). `scratch`: the student starts from random weights (Distillation Scaling Laws,
arXiv 2502.08606, Table 6; sizes without embeddings). The answers differ: a pruned student inherits
a smaller part of a larger teacher, so its best teacher is smaller. Does not fit a line to your own
runs; see `metrics.gap.fit`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitstack.errors import UserError
from bitstack.machine.extras import require
from bitstack.metrics.statistics.bootstrap import Interval
from bitstack.metrics.statistics.student_t import t_quantile

# arXiv 2311.07052: T* = SLOPE · S + INTERCEPT, in parameters.
SLOPE, INTERCEPT, R_SQUARED = 2.498, -11.498e6, 0.9957
ASSUMED_POINTS = 6  # the law's own number of points is not stated beside it
PRUNED_RANGE = (14e6, 1.6e9)  # students that teachers of 70M to 2.8B were cut to, at most
TOKENS_PER_PARAMETER = 20  # assumed training of the teacher in `scratch`
TOLERANCE = 1e-3  # relative loss within which teachers count as equally good

# arXiv 2502.08606, Table 6: E to GAMMA of the supervised law, the others of the distillation law
# (A_ stands for A').
E, A, B, ALPHA, BETA, GAMMA = 1.220, 3355.0, 18186.0, 0.408, 0.431, 0.452
A_, B_, ALPHA_, BETA_, GAMMA_ = 2243.0, 24181.0, 0.321, 0.637, 0.764
C0, C1, F1, D1 = 2.549, 522.6, 0.090, 1.315
SCRATCH_RANGE = (143e6, 7.75e9)  # students of the paper


@dataclass(frozen=True)
class BestTeacher:
    """The best teacher of a student by one law."""

    law: str  # "pruned" or "scratch"
    student: float  # parameters
    teacher: float
    ratio: float  # teacher over student
    interval: Interval | None  # of the teacher's parameters
    interval_means: str  # what the interval is, in words
    scope: str  # which students the law was fitted on, in words
    extrapolated: bool  # the student lies outside of those
    student_loss: float | None  # nats per token, predicted by `scratch` only


def best_teacher(
    student: float, *, tokens: float | None = None, law: str = "pruned"
) -> BestTeacher:
    """Computes the best teacher of a student.

    Args:
        student: Parameters of the student.
        tokens: Training tokens of the student, for example 20e9; only "scratch" takes and needs it.
        law: "pruned" or "scratch".

    Raises:
        UserError: the law is unknown or not defined for this student.
    """
    if not (math.isfinite(student) and student > 0):
        raise UserError(f"student is {student} parameters; it must be above 0")
    if law == "pruned":
        return pruned_teacher(student)
    if law != "scratch":
        raise UserError(f"law {law!r} is neither 'pruned' nor 'scratch'")
    if tokens is None:
        raise UserError(
            "law 'scratch' depends on the student's training tokens; give --training-tokens"
        )
    return scratch_teacher(student, tokens)


def pruned_teacher(student: float) -> BestTeacher:
    """Computes `T* = 2.498·S − 11.498` in millions of parameters (arXiv 2311.07052).

    The paper gives R² = 0.9957 and no standard error. The interval takes the slope's standard error
    from R²: `slope·sqrt((1/R² − 1)/(n − 2))`, with n = 6 points assumed.

    Raises:
        UserError: the student is so small that its teacher would be no larger.
    """
    teacher = SLOPE * student + INTERCEPT
    least = -INTERCEPT / (SLOPE - 1)
    if not teacher > student:
        raise UserError(
            f"student is {student:.4g} parameters: the law 'pruned' is not defined up to "
            f"{least:.3g}, where the teacher would be no larger than the student"
        )
    error = SLOPE * math.sqrt((1 / R_SQUARED - 1) / (ASSUMED_POINTS - 2))
    half = t_quantile(ASSUMED_POINTS - 2) * error * student
    return BestTeacher(
        law="pruned",
        student=student,
        teacher=teacher,
        ratio=teacher / student,
        interval=Interval(max(student, teacher - half), teacher + half),
        interval_means=f"95% of the slope, from R² = {R_SQUARED}, {ASSUMED_POINTS} points assumed",
        scope="students pruned from the teacher, then distilled: GPT-2 140M to 1.6B, Pythia 70M "
        "to 2.8B; holds for sizes with embeddings",
        extrapolated=not PRUNED_RANGE[0] <= student <= PRUNED_RANGE[1],
        student_loss=None,
    )


def scratch_teacher(student: float, tokens: float) -> BestTeacher:
    """Finds the teacher with the lowest `student_loss`, itself trained on 20 tokens per parameter.

    The optimum is flat: the interval is the range of teachers within 0.1% of that loss.

    Raises:
        UserError: `tokens` is not above 0.
    """
    if not (math.isfinite(tokens) and tokens > 0):
        raise UserError(f"tokens is {tokens}; it must be above 0")

    require("scipy")
    from scipy import optimize

    def loss(log_size: float) -> float:
        size = math.exp(log_size)
        teacher_loss = supervised_loss(size, TOKENS_PER_PARAMETER * size)
        return float(student_loss(student, tokens, teacher_loss))

    grid = np.linspace(math.log(student / 100), math.log(student * 1e4), 400)
    values = np.array([loss(x) for x in grid])
    near = int(values.argmin())
    bounds = grid[max(0, near - 1)], grid[min(len(grid) - 1, near + 1)]
    best = optimize.minimize_scalar(loss, bounds=bounds, method="bounded")
    good = grid[values <= best.fun * (1 + TOLERANCE)]
    interior = 0 < near < len(grid) - 1 and good[0] > grid[0] and good[-1] < grid[-1]
    teacher = math.exp(best.x)
    return BestTeacher(
        law="scratch",
        student=student,
        teacher=teacher,
        ratio=teacher / student,
        interval=Interval(math.exp(good[0]), math.exp(good[-1]), None) if interior else None,
        interval_means=f"teachers whose student is within {TOLERANCE:.1%} of the lowest loss",
        scope="students trained from random weights by a teacher of 20 tokens a parameter; sizes "
        "without embeddings, 143M to 7.75B, 4B to 512B tokens",
        extrapolated=not SCRATCH_RANGE[0] <= student <= SCRATCH_RANGE[1],
        student_loss=float(best.fun),
    )


def supervised_loss(parameters: float, tokens: float) -> float:
    """Returns the loss, nats per token, of a model trained on text, not by a teacher.

    `L̃ = E + (A/N^α + B/D^β)^γ` (arXiv 2502.08606, Table 6).
    """
    return E + (A / parameters**ALPHA + B / tokens**BETA) ** GAMMA


def student_loss(
    parameters: float, tokens: float, teacher_loss: float | NDArray[np.float64]
) -> float | NDArray[np.float64]:
    """Returns the loss, nats per token, of a student that starts from random weights.

    `L_S = L_T + L_T^-c0 · (1 + (L_T/(L̃ d1))^(1/f1))^(−c1 f1) · (A'/N^α' + B'/D^β')^γ'`, with the
    teacher's loss L_T and the loss L̃ that the student would reach on text alone (arXiv 2502.08606,
    equation 8 and Table 6).
    """
    own = supervised_loss(parameters, tokens)
    gap = (1 + (teacher_loss / (own * D1)) ** (1 / F1)) ** (-C1 * F1)
    size = (A_ / parameters**ALPHA_ + B_ / tokens**BETA_) ** GAMMA_
    return teacher_loss + teacher_loss**-C0 * gap * size
