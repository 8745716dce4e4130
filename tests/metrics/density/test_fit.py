"""Known constants come back from noisy series, as often as the intervals promise.

Also covers `metrics.density.law`.
"""

import math

import numpy as np
import pytest

from bitstack.errors import UserError
from bitstack.metrics.density.fit import fit_law, fit_loss, fit_score
from bitstack.metrics.density.law import Reference

LOSS = {"a": 10.0, "alpha": 0.12, "b": 40.0, "beta": 0.2}
SCORE = {"c": 0.75, "gamma": -4.0, "l": 1.6, "d": 0.2}
SIZES = (5.2e6, 31.5e6, 106e6, 245e6, 477e6, 828e6)  # the paper's series
TOKENS_PER_PARAMETER = (10, 15, 20, 30, 40, 60)
DRAWS = 200


def loss_of(parameters: float, tokens: float) -> float:
    return LOSS["a"] * parameters ** -LOSS["alpha"] + LOSS["b"] * tokens ** -LOSS["beta"]


def score_of(loss: float) -> float:
    return SCORE["c"] / (1 + math.exp(-SCORE["gamma"] * (loss - SCORE["l"]))) + SCORE["d"]


def series(
    seed: int, *, loss_noise: float = 0.0, score_noise: float = 0.0, shuffle: bool = False
) -> list[Reference]:
    rng = np.random.default_rng(seed)
    references = []
    for size in SIZES:
        for ratio in TOKENS_PER_PARAMETER:
            loss = loss_of(size, size * ratio)
            score = score_of(loss) + score_noise * rng.standard_normal()
            noisy = loss * math.exp(loss_noise * rng.standard_normal())
            references.append(Reference("r", size, size * ratio, noisy, score))
    if shuffle:
        rng.shuffle(references)  # type: ignore[arg-type]
    return references


def test_exact_series_give_exact_constants() -> None:
    law = fit_law(series(0))
    assert law.loss.parameters == pytest.approx(LOSS, rel=1e-4)
    assert law.score.parameters == pytest.approx(SCORE, rel=1e-4)
    assert float(law.loss.loss(1e9, 1e11)) == pytest.approx(loss_of(1e9, 1e11), rel=1e-6)
    assert float(law.loss.size(loss_of(1e9, 1e12), 1e12)) == pytest.approx(1e9, rel=1e-3)
    assert float(law.score.loss(score_of(1.5))) == pytest.approx(1.5, rel=1e-4)


def coverage(hits: list[dict[str, bool]]) -> dict[str, float]:
    return {name: float(np.mean([hit[name] for hit in hits])) for name in hits[0]}


def test_intervals_of_the_loss_law_cover() -> None:
    hits = []
    for seed in range(DRAWS):
        intervals = fit_loss(series(seed, loss_noise=0.005)).intervals
        hits.append({k: i is not None and i.low <= LOSS[k] <= i.high for k, i in intervals.items()})
    assert all(0.90 <= share <= 0.99 for share in coverage(hits).values()), coverage(hits)


def test_intervals_of_the_score_law_cover() -> None:
    hits = []
    for seed in range(DRAWS):
        intervals = fit_score(series(seed, score_noise=0.01)).intervals
        hits.append(
            {k: i is not None and i.low <= SCORE[k] <= i.high for k, i in intervals.items()}
        )
    assert all(0.90 <= share <= 0.99 for share in coverage(hits).values()), coverage(hits)


def test_order_does_not_matter() -> None:
    one = fit_law(series(3, loss_noise=0.005, score_noise=0.01))
    other = fit_law(series(3, loss_noise=0.005, score_noise=0.01)[::-1])
    assert one.loss.parameters == pytest.approx(other.loss.parameters, rel=1e-3)
    assert one.score.parameters == pytest.approx(other.score.parameters, rel=1e-3)


def test_chance_and_ceiling_can_be_given() -> None:
    law = fit_score(series(1, score_noise=0.01), floor=0.2, ceiling=0.95)
    assert law.parameters["d"] == 0.2
    assert law.parameters["c"] == pytest.approx(0.75)
    assert law.intervals["gamma"] is not None
    assert law.intervals["gamma"].low < -4 < law.intervals["gamma"].high


def test_a_term_the_data_do_not_show_has_no_interval() -> None:
    flat = [Reference("r", r.parameters, r.tokens, 3.0 + 1e-9 * i, r.score)
            for i, r in enumerate(series(0))]  # fmt: skip
    intervals = fit_loss(flat).intervals
    assert any(interval is None for interval in intervals.values())
    assert all(i is None or math.isfinite(i.low + i.high) for i in intervals.values())


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (series(0)[:2], "2 reference models: the loss law.* needs at least 5"),
        (series(0)[:6], "parameters is the same for all"),
        ([Reference("r", n, 1e9, 4 - n / 1e9, 0.5) for n in SIZES], "tokens is the same for all"),
    ],
)
def test_series_that_cannot_be_fitted(references: list[Reference], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_loss(references)


def test_scores_all_at_chance() -> None:
    flat = [Reference("r", r.parameters, r.tokens, r.loss, 0.2) for r in series(0)]
    with pytest.raises(UserError, match="must have scores between"):
        fit_score(flat, floor=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": float("nan")}, "loss is nan"),
        ({"tokens": 0}, "tokens is 0"),
        ({"score": 1.5}, "score is 1.5"),
        ({"parameters": "1B"}, "parameters is '1B'"),
        ({"score": True}, "score is True"),
    ],
)
def test_rows_name_the_field(changes: dict, message: str) -> None:
    row = {"parameters": 1e6, "tokens": 1e8, "loss": 3.0, "score": 0.4} | changes
    with pytest.raises(UserError, match=f"reference x: {message}"):
        Reference.from_row(row, "x")
