"""The product of a coded matrix has exact gradients, and fast ones err as little as they may."""

import pytest
import torch
import torch.nn.functional as F

from bitstack.tuning.coded_product import CodedProduct, coarse_dtype, coded_matrix


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_the_product_has_the_gradients_of_its_definition(batch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(0, 4, (5, 7), generator=generator, dtype=torch.uint8)
    shapes = [(*batch, 7), (5,), (7,), (4,)]
    numbers = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]

    def learned(x: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
        return CodedProduct.apply(x, code, *scales, None)

    def plain(x: torch.Tensor, u: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.linear(x, t[code.long()] * v * u.unsqueeze(1))

    leaves = [n.requires_grad_() for n in numbers]
    assert torch.allclose(learned(*leaves), plain(*leaves))
    assert torch.autograd.gradcheck(learned, leaves)


def test_products_that_may_err_do_so_little() -> None:
    """In bf16 where the machine is faster for it: results in the dtype of the inputs."""
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(0, 16, (64, 64), generator=generator, dtype=torch.uint8)
    x, u, v, table = (torch.randn(s, generator=generator) for s in ((8, 64), (64,), (64,), (16,)))
    exact = x.double() @ coded_matrix(code, u, v, table).double().T
    for dtype, most in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        result = CodedProduct.apply(x.to(dtype), code, u, v, table, None)
        assert result.dtype == dtype
        assert float((result - exact).norm() / exact.norm()) < most
    assert coarse_dtype(torch.float32, "cpu") in (torch.float32, torch.bfloat16)
    assert coarse_dtype(torch.float64, "cpu") == torch.float64


def test_the_gradient_of_the_cells_goes_where_it_is_used() -> None:
    """W = u T[code] v: the gradient by T[code] is that by W times u and v."""
    generator = torch.Generator().manual_seed(1)
    code = torch.randint(0, 4, (5, 7), generator=generator, dtype=torch.uint8)
    x, u, v, table = (torch.randn(s, generator=generator) for s in ((3, 7), (5,), (7,), (4,)))
    taken: list[torch.Tensor] = []
    y = CodedProduct.apply(x.requires_grad_(), code, u, v, table, taken.append)
    weights = torch.randn(3, 5, generator=generator)
    (y * weights).sum().backward()
    matrix = coded_matrix(code, u, v, table).requires_grad_()
    (F.linear(x.detach(), matrix) * weights).sum().backward()
    assert matrix.grad is not None
    expected = matrix.grad * v * u.unsqueeze(1)
    # The products on the way back may be in bf16.
    torch.testing.assert_close(taken[0], expected, rtol=0.05, atol=0.05)
