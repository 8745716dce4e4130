"""Column scales go in where the operation before can take them back, and nowhere else."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitstack.calibration.observers import Moments
from bitstack.compression.column_scaling import fold_scales, scaled_moment
from bitstack.original.matrix import Matrix


class Norm(nn.Module):
    """A norm that multiplies by `start` + weight."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.weight, self.start = nn.Parameter(torch.randn(width)), start

    def forward(self, x: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt() * (self.start + self.weight)


class Block(nn.Module):
    """Two matrices behind a norm, one behind a projection, one behind an activation."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.norm = Norm(6, start)
        self.gate, self.up = nn.Linear(6, 5, bias=False), nn.Linear(6, 5)
        self.down, self.out = nn.Linear(5, 7, bias=False), nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.out(self.down(self.gate(x).tanh() * self.up(x)).relu().sub(0.1))


def matrix(name: str, linear: Any) -> Matrix:
    parameter = f"layers.0.{name}.weight"
    return Matrix(f"layers.0.{name}", parameter, f"layers.0.{name}", "linear", *linear.weight.shape)


@torch.no_grad()
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_the_function_is_kept_and_columns_are_scaled(start: float) -> None:
    """Behind plain norms and those that multiply by 1 + weight (Gemma)."""
    torch.manual_seed(0)
    model, block = nn.Module(), Block(start)
    model.layers = nn.ModuleList([block])
    x = torch.randn(3, 4, 6)
    moments = {name: Moments.zero(n, x.device) for name, n in (("in", 6), ("down", 5), ("out", 7))}
    for name, seen in (("in", x), ("down", torch.rand(3, 4, 5)), ("out", torch.rand(3, 4, 7))):
        moments[name].add(seen)
    shared = {"gate": moments["in"], "up": moments["in"], "down": moments["down"]}
    by_name = {f"layers.0.{name}": own for name, own in (shared | {"out": moments["out"]}).items()}
    matrices = [matrix(name, block.get_submodule(name)) for name in ("gate", "up", "down", "out")]
    before, weights = block(x), {n: p.clone() for n, p in block.named_parameters()}
    scales = fold_scales(model, matrices, by_name, lambda: block(x))
    torch.testing.assert_close(block(x), before, rtol=1e-4, atol=1e-5)
    # `down` reads tanh(gate) · up, so `up` takes its scale; nothing can take that of `out`.
    assert scales.keys() == {"layers.0.gate", "layers.0.up", "layers.0.down"}
    expected = moments["in"].mean_norm() + 1e-3
    torch.testing.assert_close(scales["layers.0.gate"], expected)
    torch.testing.assert_close(block.gate.weight, weights["gate.weight"] * expected)
    torch.testing.assert_close(
        start + block.norm.weight, (start + weights["norm.weight"]) / expected
    )
    down = moments["down"].mean_norm() + 1e-3
    up = weights["up.weight"] * expected / down.unsqueeze(1)
    torch.testing.assert_close(block.up.weight, up)
    torch.testing.assert_close(block.up.bias, weights["up.bias"] / down)
    torch.testing.assert_close(block.out.weight, weights["out.weight"])  # tried, and taken back


def test_the_moment_of_divided_inputs() -> None:
    x, scale = torch.randn(20, 5), torch.rand(5) + 0.5
    divided = x / scale
    moment = scaled_moment(x.T @ x, scale)
    torch.testing.assert_close(moment, divided.T @ divided)
    assert scaled_moment(None, scale) is None
    assert scaled_moment(moment, None) is moment
