"""Predicted scores against paths of margins that are known, and bad requests."""

import numpy as np
import pytest

from bitstack.errors import UserError
from bitstack.metrics.tasks.prediction import Answered, interpolate_kl, predict_score

KLS = [0.0, 0.05, 0.2, 0.6, 1.5]


def paths(seed: int, questions: int = 800, scale: float = 3.0) -> dict[float, np.ndarray]:
    """Margins that drift to wrong answers and move at random, with a variance that is their KL."""
    rng = np.random.default_rng(seed)
    margins, known = rng.normal(1.0, 2.5, questions), {0.0: rng.normal(0, 1, 0)}
    for before, kl in zip([0.0, *KLS], KLS, strict=False):
        step = kl - before
        margins = margins - 0.5 * step + scale * np.sqrt(step) * rng.normal(size=questions)
        known[kl] = margins
    return known


def score(margins: np.ndarray) -> float:
    return float((margins > 0).mean())


def test_predictions_between_hold_the_truth_and_beat_a_line() -> None:
    errors, lines, held = [], [], []
    for seed in range(20):
        known = paths(seed)
        answered = [Answered(kl, known[kl].tolist()) for kl in (0.0, 1.5)]
        for kl in KLS[1:-1]:
            guess = predict_score(answered, kl, seed=seed)
            assert guess.interval is not None
            assert not guess.extrapolated
            truth = score(known[kl])
            line = np.interp(kl, [0, 1.5], [score(known[0.0]), score(known[1.5])])
            errors.append(guess.value - truth)
            lines.append(line - truth)
            held.append(guess.interval.low <= truth <= guess.interval.high)
    assert np.mean(held) > 0.9
    assert np.sqrt(np.mean(np.square(errors))) < 0.7 * np.sqrt(np.mean(np.square(lines)))


def test_beyond_the_measured_sizes_the_score_goes_on_falling() -> None:
    known = paths(0)
    answered = [Answered(kl, known[kl].tolist()) for kl in (0.0, 0.05, 0.2)]
    guess, measured = predict_score(answered, 1.5), predict_score(answered, 0.2)
    assert guess.extrapolated
    assert guess.interval is not None
    assert measured.value == pytest.approx(score(known[0.2]))
    assert guess.interval.low <= score(known[1.5]) <= guess.interval.high
    assert abs(guess.value - score(known[1.5])) < score(known[0.2]) - score(known[1.5])


def test_a_measured_size_is_itself_and_more_of_them_narrow_the_interval() -> None:
    known = paths(3)
    few = [Answered(kl, known[kl].tolist()) for kl in (0.0, 1.5)]
    many = [Answered(kl, known[kl].tolist()) for kl in KLS]
    for kl in KLS[:-1]:
        guess = predict_score(many, kl)
        assert guess.value == pytest.approx(score(known[kl]))
        assert guess.interval is not None
        assert guess.interval.low == guess.interval.high
    ends = [predict_score(some, 0.4).interval for some in (many, few)]
    widths = [end.high - end.low for end in ends if end is not None]
    assert widths[0] < widths[1]


def test_order_does_not_matter_and_the_seed_does() -> None:
    known = paths(1, questions=7)  # one cluster
    answered = [Answered(kl, known[kl].tolist()) for kl in (0.0, 0.2, 1.5)]
    assert predict_score(answered, 0.5) == predict_score(answered[::-1], 0.5)
    assert predict_score(answered, 0.5) != predict_score(answered, 0.5, seed=1)


def test_clusters_of_difficulty_matter() -> None:
    """Far margins move far; near ones hardly: one law for all would turn near ones over."""
    rng = np.random.default_rng(0)
    near, far = rng.uniform(0.2, 0.4, 320), rng.uniform(20, 40, 480)
    start = np.concatenate([near, far])
    end = start + np.concatenate([rng.normal(0, 0.01, 320), rng.normal(0, 5, 480)])
    guess = predict_score([Answered(0, start), Answered(1, end)], 0.5)
    assert guess.value > 0.999


def test_refused() -> None:
    whole, small = Answered(0.0, [1.0, -1.0]), Answered(0.5, [1.0, 1.0])
    for message, answered, kl in [
        ("needs the original", [whole], 0.1),
        ("needs the original", [small, Answered(0.7, [1.0, 1.0])], 0.1),
        ("a KL of its own", [whole, small, small], 0.1),
        ("must answer the same", [whole, Answered(0.5, [1.0])], 0.1),
        ("must answer the same", [Answered(0.0, []), Answered(0.5, [])], 0.1),
        ("KL is -1", [whole, small], -1),
        ("KL is nan", [whole, small], float("nan")),
    ]:
        with pytest.raises(UserError, match=message):
            predict_score(answered, kl)


def test_the_kl_between_two_sizes() -> None:
    sizes = [(300, 0.01), (100, 1.0)]
    assert interpolate_kl(sizes, 200) == pytest.approx(0.1)
    assert interpolate_kl(sizes, 100) == pytest.approx(1.0)
    assert interpolate_kl([*sizes, (400, 0.0)], 350) == pytest.approx(0.01)
