"""Without a gradient: the kernel of the device, whatever the dtype and the number of threads."""

import pytest
import torch

from bitstack import kernels
from bitstack.kernels import selection

from .conftest import make_coded


def test_other_dtypes_take_the_reference() -> None:
    matrix = make_coded(12, 30, 3)
    x = torch.randn(2, 30, dtype=torch.float64)
    out = kernels.coded_linear(x, matrix.planes, matrix.scale, 12)
    torch.testing.assert_close(out, x @ matrix.dense.double().T)


@pytest.mark.parametrize("tokens", [3, 40])
def test_many_threads_get_what_one_gets(tokens: int) -> None:
    if not selection.variants():
        pytest.skip("the compiled kernels were not built")
    matrix = make_coded(1000, 2050, 3)
    x = torch.randn(tokens, 2050)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(kernels.coded_linear(x, matrix.planes, matrix.scale, 1000))
    finally:
        torch.set_num_threads(before)
    assert torch.get_num_threads() == before
    for other in results[1:]:  # torch's product may sum in another order for panels of another size
        torch.testing.assert_close(results[0], other, rtol=1e-4, atol=1e-3)
