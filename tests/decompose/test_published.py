"""The published blocks: the published code's own errors, on real weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bitstack import kernels
from bitstack.decompose.published import decompose_signs

# Relative squared errors after 1 to 4 blocks, printed by the published code without scaling.
PUBLISHED = [
    ("h.6.attn.c_proj", 1, (0.36478, 0.13159, 0.05963, 0.03364)),
    ("h.6.attn.c_proj", 3, (0.34861, 0.12333, 0.05434, 0.02956)),
    ("h.6.attn.c_proj", 16, (0.32183, 0.10706, 0.04256, 0.01978)),
    ("h.0.attn.c_attn", 1, (0.39263, 0.15264, 0.07657, 0.04554)),
    ("h.0.attn.c_attn", 16, (0.32698, 0.11103, 0.04545, 0.02212)),
]


@pytest.mark.parametrize(("name", "rank", "published"), PUBLISHED)
def test_errors_of_the_published_code(
    shared: Path, name: str, rank: int, published: tuple[float, ...]
) -> None:
    file = shared / "models" / "gpt2-attention" / "layers-0-6-11.f16.safetensors"
    weight = load_file(file)[f"{name}.weight"].float().T.contiguous()
    full = decompose_signs(weight, blocks=4, rank=rank, full=True).relative_errors
    fast = decompose_signs(weight, blocks=4, rank=rank, full=False).relative_errors
    assert full == pytest.approx(published, abs=1e-4)
    assert fast == pytest.approx(published, rel=1e-3)


def test_stored_blocks_are_the_errors_reported() -> None:
    weight = torch.randn(20, 13, generator=torch.Generator().manual_seed(0))
    done = decompose_signs(weight, blocks=3, rank=2)
    for level in (1, 2, 3):
        parts = [
            [done.tensors[f"{part}_{j}"] for j in range(1, level + 1)]
            for part in ("plane", "left", "right")
        ]
        error = weight - kernels.sign_dequantize(*parts, 13)
        relative = float(error.square().sum() / weight.square().sum())
        assert done.relative_errors[level - 1] == pytest.approx(relative, rel=1e-4)


def test_zero_is_positive_and_the_highest_bit_comes_first() -> None:
    weight = torch.tensor([[0.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0]])
    assert decompose_signs(weight, blocks=1, rank=1).tensors["plane_1"].tolist() == [
        [0b10100000, 0b10000000]
    ]
