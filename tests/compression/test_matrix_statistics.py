"""A matrix is decomposed under statistics of its own; an expert without tokens under its
siblings'."""

import torch
from torch import Tensor

from bitstack.calibration.fisher import FisherInformation
from bitstack.calibration.observers import Moments
from bitstack.compression.matrix_statistics import row_weights, second_moment
from bitstack.original.matrix import Matrix


def moments(x: Tensor) -> Moments:
    own = Moments.zero(x.shape[1], x.device)
    own.add(x)
    return own


def expert(index: int, parameter: str = "layer.up") -> Matrix:
    return Matrix(f"{parameter}.{index}", parameter, "layer", "expert", 2, 3, expert=index)


LINEAR = Matrix("q", "q.weight", "q", "linear", 2, 3)


def test_a_linear_has_its_own_and_gives_its_memory_up() -> None:
    x = torch.randn(8, 3)
    known = {"q": moments(x), "other": moments(torch.ones(1, 3))}
    moment = second_moment(LINEAR, known)
    assert moment is not None
    torch.testing.assert_close(moment, x.T @ x / 8)
    assert known.keys() == {"other"}
    assert second_moment(LINEAR, known) is None
    fisher = FisherInformation({"q": torch.tensor([1.0, 2.0])}, torch.zeros(0))
    assert row_weights(LINEAR, fisher, {}) is fisher.rows["q"]


def test_without_calibration_there_is_nothing() -> None:
    assert second_moment(expert(0), {}) is None
    assert row_weights(expert(0), None, {}) is None
    assert row_weights(expert(0), FisherInformation({}, torch.zeros(0)), {}) is None


def test_an_expert_that_tokens_reach_has_its_own() -> None:
    x = torch.randn(8, 3)
    known = {"layer.up.0": moments(x), "layer.up.1": moments(torch.ones(2, 3))}
    for _ in range(2):  # it stays: a sibling may need it
        moment = second_moment(expert(0), known)
        assert moment is not None
        torch.testing.assert_close(moment, x.T @ x / 8)
    rows = {"layer.up.0": torch.tensor([1.0, 2.0]), "layer.up.1": torch.tensor([5.0, 5.0])}
    assert (
        row_weights(expert(0), FisherInformation(rows, torch.zeros(0)), known) is rows["layer.up.0"]
    )


def test_an_expert_no_token_reached_counts_as_if_one_had() -> None:
    one, two = torch.randn(8, 3), torch.randn(2, 3)
    known = {"layer.up.0": moments(one), "layer.up.1": moments(two)}
    known["layer.down.2"] = moments(torch.ones(1, 3))  # another tensor: no sibling
    every = torch.cat([one, two])
    moment = second_moment(expert(2), known)
    assert moment is not None
    torch.testing.assert_close(moment, every.T @ every / 10)
    rows = {"layer.up.0": torch.tensor([4.0, 0.0]), "layer.up.1": torch.tensor([1.0, 3.0])}
    fisher = FisherInformation(rows | {"layer.down.2": torch.ones(2)}, torch.zeros(0))
    weights = row_weights(expert(2), fisher, known)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.3]))
