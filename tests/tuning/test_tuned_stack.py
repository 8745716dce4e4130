"""A stack that learns: exact gradients, by products as fast as errors allow, and steps as long as
width and level allow."""

import pytest
import torch
import torch.nn.functional as F

from bitstack.container.blocks import StackSpec
from bitstack.tuning.tuned_stack import TunedStack, _Product, product


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


def moved(columns: int, level: int) -> float:
    """How far a steady gradient moved the weights within their cells in five steps at `level`."""
    spec = StackSpec("codes", 2, columns, 3)
    kept = {t.name: torch.zeros(t.shape, dtype=t.dtype) for t in spec.all()}
    for j in (1, 2, 3):
        kept[f"scale_{j}"][-(2**j) :] = torch.linspace(-1, 1, 2**j)  # the table, of even steps
    stack = TunedStack(spec, kept.__getitem__, learns=True)
    stack.level, stack.code_rate = level, 0.002
    for _ in range(5):
        stack._learn(-torch.ones(2, columns))
    assert not stack.code[3].any()  # none has crossed
    return float(stack.positions[3].offset.float().mean())


def test_steps_of_the_codes_by_width_and_level() -> None:
    """Half as long for four times the columns, and for a level more."""
    here = moved(128, 2)
    assert here == pytest.approx(5 * 0.002, rel=0.01)
    assert moved(512, 2) == pytest.approx(here / 2, rel=0.01)
    assert moved(32, 2) == pytest.approx(here * 2, rel=0.01)
    assert moved(128, 3) == pytest.approx(here / 2, rel=0.01)
