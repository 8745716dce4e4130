"""The truncated decomposition: as good as the full one, and the same for the same seed."""

import pytest
import torch
from torch import Tensor

from bitstack.decompose.svd import full_svd, truncated_svd


def magnitudes(rows: int = 160, columns: int = 130) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).abs()


def product(parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    u, s, vh = parts
    return u * s @ vh


@pytest.mark.parametrize("rank", [1, 3])
def test_the_full_one_is_the_best_of_its_rank(rank: int) -> None:
    x = magnitudes()
    u, s, vh = full_svd(x, rank)
    assert [u.shape, s.shape, vh.shape] == [(160, rank), (rank,), (rank, 130)]
    values = torch.linalg.svdvals(x.double())
    torch.testing.assert_close(s.double(), values[:rank], rtol=1e-4, atol=0)
    left = (x - product((u, s, vh))).square().sum()
    assert float(left) == pytest.approx(float(values[rank:].square().sum()), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_truncated_errs_as_little_as_full(rank: int) -> None:
    x = magnitudes()
    assert 4 * (3 * rank + 8) <= 130  # so that it is not the full one
    parts = truncated_svd(x, rank, seed=1)
    assert [p.shape for p in parts] == [(160, rank), (rank,), (rank, 130)]
    error, least = ((x - product(p)).square().sum() for p in (parts, full_svd(x, rank)))
    assert float(least) <= float(error) * (1 + 1e-5)
    assert float(error) <= float(least) * (1 + 1e-3)


def test_the_seed_decides_and_nothing_else_is_touched() -> None:
    x = magnitudes()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = truncated_svd(x, 2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = truncated_svd(x, 2, seed=1), truncated_svd(x, 2, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_small_matrices_get_the_full_one() -> None:
    x = magnitudes(20, 40)
    pairs = zip(truncated_svd(x, 2, seed=1), full_svd(x, 2), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
