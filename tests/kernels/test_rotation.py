"""Rotations: orthogonal for any width, the same in torch and C++, and they spread large weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitstack import kernels
from bitstack.kernels import dispatch, rotation, selection

WIDTHS = [1, 2, 3, 7, 8, 31, 64, 70, 128, 576, 1021, 1536, 2048]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(columns=st.integers(1, 300), seed=st.integers(1, 2**63 - 1))
def test_orthogonal_for_any_width(columns: int, seed: int) -> None:
    q = rotation.rotate(torch.eye(columns), seed)
    assert torch.allclose(q @ q.T, torch.eye(columns), atol=1e-5)
    x = random(3, columns)
    assert torch.allclose(rotation.rotate(rotation.rotate(x, seed), seed, back=True), x, atol=1e-5)


def test_the_signs_are_those_of_the_format() -> None:
    """They are part of the format: other signs make other weights of the same file."""
    assert rotation.signs(8, 1).tolist() == [
        [1, 1, -1, 1, 1, -1, 1, 1],
        [-1, -1, 1, -1, -1, -1, -1, 1],
    ]
    counts = rotation.signs(4096, 7).sum(1).abs()
    assert counts.max() < 4 * 64  # a fair coin: four standard deviations


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", [v.name for v in selection.variants() if v.runs])
def test_every_kernel_computes_the_reference(
    columns: int, dtype: torch.dtype, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSTACK_KERNEL", variant)
    assert dispatch.which().name == variant
    x = random(5, columns).to(dtype)
    step = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    for back in (False, True):
        result = kernels.rotate(x, 3, back=back)
        expected = rotation.rotate(x, 3, back=back)
        assert result.dtype == dtype
        assert (result - expected).abs().max() <= 4 * step * x.abs().max()


def test_no_seed_is_no_rotation() -> None:
    x = random(2, 9)
    assert kernels.rotate(x, 0) is x


def test_gradients_flow_back() -> None:
    x, weight = random(2, 12).double().requires_grad_(), random(2, 12).double()
    (kernels.rotate(x.float(), 5).double() * weight).sum().backward()
    assert torch.allclose(x.grad, rotation.rotate(weight.float(), 5, back=True).double(), atol=1e-6)


def test_a_large_weight_is_spread() -> None:
    """One weight of 50 standard deviations becomes at most 4 of them."""
    w = random(16, 1536)
    w[3, 700] = 50.0
    rotated = rotation.rotate(w, 1)
    assert rotated.abs().max() < 6.5
    assert w.abs().max() == 50.0


def test_compiled_whole() -> None:
    def two(x: torch.Tensor) -> torch.Tensor:
        return kernels.rotate(kernels.rotate(x, 4), 4, back=True) + 1

    x = random(3, 20)
    compiled = torch.compile(two, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), x + 1, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 5, 40])  # in the kernel, and as a matrix product
@pytest.mark.parametrize("learns", ["nothing", "x", "bias", "scale"])
def test_every_way_to_the_product_rotates(tokens: int, learns: str) -> None:
    rows, columns, planes = 24, 70, 3
    generator = torch.Generator().manual_seed(0)
    bits = [torch.randint(256, (rows, 9), generator=generator).byte() for _ in range(planes)]
    scale = random(rows + columns + 2**planes).half()
    x, bias = random(tokens, columns, seed=1), random(rows, seed=2)
    matrix = kernels.rotate(kernels.dequantize(bits, scale, rows, columns), 9, back=True)
    expected = x @ matrix.T + bias
    for name, tensor in (("x", x), ("bias", bias), ("scale", scale)):
        tensor.requires_grad_(name == learns)
    result = kernels.coded_linear(x, bits, scale, rows, bias, seed=9).detach()
    assert (result - expected).abs().max() < 0.02 * expected.abs().max()
