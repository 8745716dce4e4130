"""The Triton kernels against the reference: on a GPU, or in Triton's interpreter on the CPU.

Also covers `kernels.triton_kernels`.

The interpreter must be asked for before Triton is imported, so without a GPU this file runs itself
in a process of its own.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from torch import Tensor

from .conftest import Coded, make_coded

_CUDA = torch.cuda.is_available()
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_DEVICE = "cuda" if _CUDA else "cpu"

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
inside = pytest.mark.skipif(
    not (_CUDA or _INTERPRETED), reason="no GPU: test_all_of_it_in_the_interpreter runs this"
)


@needs_triton
@pytest.mark.skipif(_CUDA or _INTERPRETED, reason="the tests below run by themselves")
def test_all_of_it_in_the_interpreter() -> None:
    environment = dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout


@pytest.fixture
def triton_kernels() -> ModuleType:
    from bitstack.kernels import triton_kernels

    return triton_kernels


def _on_device(matrix: Coded) -> tuple[list[Tensor], Tensor]:
    return [plane.to(_DEVICE) for plane in matrix.planes], matrix.scale.to(_DEVICE)


@needs_triton
@inside
@pytest.mark.parametrize("planes", range(1, 9))
@pytest.mark.parametrize("batch", [1, 8])
def test_planes(triton_kernels: ModuleType, planes: int, batch: int) -> None:
    matrix = make_coded(19, 75, planes)
    x = torch.randn(batch, 75, device=_DEVICE)
    out = triton_kernels.coded_linear(x, *_on_device(matrix), 19)
    torch.testing.assert_close(out.cpu(), x.cpu() @ matrix.dense.T, rtol=1e-4, atol=1e-4)


@needs_triton
@inside
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (70, 513), (9, 600)])
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_shapes_and_bias(triton_kernels: ModuleType, rows: int, columns: int, batch: int) -> None:
    matrix = make_coded(rows, columns, 3)
    x = torch.randn(batch, columns, device=_DEVICE)
    bias = torch.randn(rows, device=_DEVICE)
    out = triton_kernels.coded_linear(x, *_on_device(matrix), rows, bias)
    expected = x.cpu() @ matrix.dense.T + bias.cpu()
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-4, atol=1e-4)


@needs_triton
@inside
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 512])
def test_half_precision(triton_kernels: ModuleType, dtype: torch.dtype, batch: int) -> None:
    if batch > 1 and dtype == torch.bfloat16 and not _CUDA:
        pytest.skip("Triton's interpreter has no bf16 matrix product")
    matrix = make_coded(65, 130, 3)
    x = torch.randn(batch, 130, device=_DEVICE).to(dtype)
    out = triton_kernels.coded_linear(x, *_on_device(matrix), 65)
    assert out.dtype == dtype
    expected = x.cpu().double() @ matrix.dense.double().T
    assert (out.cpu() - expected).norm() / expected.norm() < 1e-2


@needs_triton
@inside
def test_rows_and_dense(triton_kernels: ModuleType) -> None:
    matrix = make_coded(11, 523, 5)
    dense = triton_kernels.dequantize(*_on_device(matrix), 11, 523)
    assert torch.equal(dense.cpu(), matrix.dense)
    ids = torch.tensor([[10, 0], [3, 3]], device=_DEVICE)
    rows = triton_kernels.coded_rows(ids, *_on_device(matrix), 11, 523)
    assert torch.equal(rows.cpu(), matrix.dense[ids.cpu()])
