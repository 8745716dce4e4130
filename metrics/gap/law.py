"""Which teacher suits a student: two published laws, each for its own kind of student.

`pruned`: the student is cut out of that teacher and then taught by it (arXiv 2311.07052, ACL 2025).
`scratch`: the student starts from nothing (Distillation Scaling Laws, arXiv 2502.08606, Table 6;
sizes without embeddings). They answer differently, because what a pruned student inherits shrinks
as the teacher grows. A line fitted on one's own runs is `gap_fit`'s business.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize_scalar

from bitstack.errors import UserError
from bitstack.metrics.statistics.bootstrap import LEVEL, Interval

SLOPE, INTERCEPT, R_SQUARED = 2.498, -11.498e6, 0.9957  # parameters
ASSUMED_POINTS = 6  # the law's own number of points is not stated beside it
PRUNED_RANGE = (14e6, 1.6e9)  # students that teachers of 70M to 2.8B were cut to, at most
TOKENS_PER_PARAMETER = 20  # of the teacher's training, where nothing else is said
TOLERANCE = 1e-3  # relative loss within which teachers count as equally good

E, A, B, ALPHA, BETA, GAMMA = 1.220, 3355.0, 18186.0, 0.408, 0.431, 0.452
A_, B_, ALPHA_, BETA_, GAMMA_ = 2243.0, 24181.0, 0.321, 0.637, 0.764
C0, C1, F1, D1 = 2.549, 522.6, 0.090, 1.315
SCRATCH_RANGE = (143e6, 7.75e9)  # students of the paper


@dataclass(frozen=True)
class BestTeacher:
    """The teacher a law names. Sizes in parameters; `student_loss` in nats, of `scratch` only.

    `interval_means` says what the interval is, `scope` where the law comes from, `extrapolated`
    whether the student lies outside of it.
    """

    law: str
    student: float
    teacher: float
    ratio: float
    interval: Interval | None
    interval_means: str
    scope: str
    extrapolated: bool
    student_loss: float | None


def best_teacher(
    student: float, *, tokens: float | None = None, law: str = "pruned"
) -> BestTeacher:
    """The best teacher of a student of `student` parameters, by `law`: "pruned" or "scratch".

    `tokens` is what the student is trained on, needed by "scratch" and unknown to "pruned". Raises
    UserError for another law, and where the law is not defined.
    """
    if not (math.isfinite(student) and student > 0):
        raise UserError(f"student is {student} parameters; it must be above 0")
    if law == "pruned":
        return pruned_teacher(student)
    if law != "scratch":
        raise UserError(f"law {law!r} is neither 'pruned' nor 'scratch'")
    if tokens is None:
        raise UserError("law 'scratch' depends on the student's training tokens; give --tokens")
    return scratch_teacher(student, tokens)


def pruned_teacher(student: float) -> BestTeacher:
    """`T* = 2.498·S − 11.498` in millions of parameters (arXiv 2311.07052).

    The paper gives R² = 0.9957 and no standard error: the interval takes the slope's from it,
    `slope·sqrt((1/R² − 1)/(n − 2))`, with n = 6 points assumed. Raises UserError for a student so
    small that its teacher would be smaller.
    """
    teacher = SLOPE * student + INTERCEPT
    least = -INTERCEPT / (SLOPE - 1)
    if not teacher > student:
        raise UserError(
            f"student is {student:.4g} parameters: the law 'pruned' is not defined up to "
            f"{least:.3g}, where the teacher would be no larger than the student"
        )
    error = SLOPE * math.sqrt((1 / R_SQUARED - 1) / (ASSUMED_POINTS - 2))
    half = float(stats.t.ppf((1 + LEVEL) / 2, ASSUMED_POINTS - 2)) * error * student
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
    """The teacher with the lowest `student_loss`, itself trained on 20 tokens a parameter.

    The interval is the range of teachers within 0.1% of that loss: the optimum is flat. Raises
    UserError if `tokens` is not positive.
    """
    if not (math.isfinite(tokens) and tokens > 0):
        raise UserError(f"tokens is {tokens}; it must be above 0")

    def loss(log_size: float) -> float:
        size = math.exp(log_size)
        teacher_loss = supervised_loss(size, TOKENS_PER_PARAMETER * size)
        return float(student_loss(student, tokens, teacher_loss))

    grid = np.linspace(math.log(student / 100), math.log(student * 1e4), 400)
    values = np.array([loss(x) for x in grid])
    near = int(values.argmin())
    bounds = grid[max(0, near - 1)], grid[min(len(grid) - 1, near + 1)]
    best = minimize_scalar(loss, bounds=bounds, method="bounded")
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
        scope="students trained from nothing on a teacher of 20 tokens a parameter, sizes without "
        "embeddings, 143M to 7.75B, 4B to 512B tokens",
        extrapolated=not SCRATCH_RANGE[0] <= student <= SCRATCH_RANGE[1],
        student_loss=float(best.fun),
    )


def supervised_loss(parameters: float, tokens: float) -> float:
    """`L̃ = E + (A/N^α + B/D^β)^γ`, nats: a model trained on text (arXiv 2502.08606, Table 6)."""
    return E + (A / parameters**ALPHA + B / tokens**BETA) ** GAMMA


def student_loss(
    parameters: float, tokens: float, teacher_loss: float | NDArray[np.float64]
) -> float | NDArray[np.float64]:
    """Loss of a student from nothing that learns from a teacher of `teacher_loss`, all in nats.

    `L_S = L_T + L_T^-c0 · (1 + (L_T/(L̃ d1))^(1/f1))^(−c1 f1) · (A'/N^α' + B'/D^β')^γ'` (arXiv
    2502.08606, equation 8 and Table 6).
    """
    own = supervised_loss(parameters, tokens)
    gap = (1 + (teacher_loss / (own * D1)) ** (1 / F1)) ** (-C1 * F1)
    size = (A_ / parameters**ALPHA_ + B_ / tokens**BETA_) ** GAMMA_
    return teacher_loss + teacher_loss**-C0 * gap * size
