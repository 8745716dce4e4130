"""A stack that learns: exact gradients, by products as fast as errors allow."""

import pytest
import torch
import torch.nn.functional as F

from bitstack.tuned import _Product, product


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_the_product_has_the_gradients_of_its_definition(batch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(0, 4, (5, 7), generator=generator, dtype=torch.uint8)
    shapes = [(*batch, 7), (5,), (7,), (4,)]
    numbers = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]

    def learned(x: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
        return _Product.apply(x, code, *scales, None, False)

    def plain(x: torch.Tensor, u: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.linear(x, t[code.long()] * v * u.unsqueeze(1))

    leaves = [n.requires_grad_() for n in numbers]
    assert torch.allclose(learned(*leaves), plain(*leaves))
    assert torch.autograd.gradcheck(learned, leaves)


@pytest.mark.parametrize("fast", [False, True])
def test_fast_products_err_little(fast: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    found, exact = product(a, b, fast=fast), a.double() @ b.double()
    assert found.dtype == torch.float32
    error = float((found - exact).norm() / exact.norm())
    assert error < (1e-2 if fast else 1e-6)
