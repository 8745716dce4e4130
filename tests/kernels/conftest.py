"""Random coded matrices, and the kernels this machine can run."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bitstack.kernels import packing, reference, selection


@dataclass(frozen=True)
class Coded:
    """One level of a random coded matrix, with its dense fp32 twin."""

    planes: list[Tensor]
    scale: Tensor
    rows: int
    columns: int

    @property
    def dense(self) -> Tensor:
        return reference.dequantize(self.planes, self.scale, self.rows, self.columns)


def make_coded(rows: int, columns: int, planes: int, seed: int = 0) -> Coded:
    """Random bits, positive scales, a table of unequal steps that is not symmetric."""
    generator = torch.Generator().manual_seed(seed + 31 * rows + 7 * columns + planes)

    def uniform(count: int) -> Tensor:
        return torch.rand(count, generator=generator)

    bits = torch.rand(planes, rows, columns, generator=generator) < 0.5
    table = (uniform(2**planes) * 4 - 1.7).sort().values
    scale = torch.cat([uniform(rows) + 0.5, uniform(columns) + 0.5, table]).half()
    return Coded([packing.pack(plane) for plane in bits], scale, rows, columns)


@pytest.fixture
def coded() -> Callable[..., Coded]:
    return make_coded


_COMPILED = [variant.name for variant in selection.variants()]
_ABLE = [variant.name for variant in selection.variants() if variant.runs]


@pytest.fixture(params=[*(_COMPILED or ["compiled kernels"]), "reference"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every kernel in turn, forced by BITSTACK_KERNEL."""
    if request.param not in [*_ABLE, "reference"]:
        reason = "cannot run on this processor" if _COMPILED else "were not built"
        pytest.skip(f"{request.param} {reason}")
    monkeypatch.setenv("BITSTACK_KERNEL", request.param)
    return request.param
