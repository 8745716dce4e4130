"""Yields random right calls of the kernels that compare themselves with the reference.

For `sanitize_kernels.py`. Every call raises AssertionError where the result is another one.
"""

import os
import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bitstack.kernels import (
    arguments,
    codes,
    dispatch,
    layout,
    learning,
    native,
    ops,
    outliers,
    reference,
    rotation,
    selection,
)
from bitstack.kernels.attention import attend

_DTYPES = [torch.float32, torch.bfloat16, torch.float16]
_SIZES = [1, 2, 3, 7, 8, 9, 31, 33, 63, 64, 65, 127, 129, 255, 257, 300, 512, 515, 1030]
_CLOSE = {torch.float32: 2e-2, torch.bfloat16: 4e-2, torch.float16: 2e-2}  # `fast` of AVX2


def calls(seed: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields names and calls without end, each with a variant and a number of threads."""
    chance = random.Random(seed)
    names = [variant.name for variant in selection.variants() if variant.runs]
    kinds = [
        _linear,
        _rows,
        _dequantize,
        _rotate,
        _values,
        _sums,
        _spread,
        _move,
        _attention,
        _hostile,
    ]
    while True:
        os.environ["BITSTACK_KERNEL"] = chance.choice(names)
        torch.set_num_threads(chance.randint(1, 3))
        dispatch.set_accuracy(chance.choice(dispatch.ACCURACIES))
        kind = chance.choice(kinds)
        name = f"{kind.__name__[1:]} {os.environ['BITSTACK_KERNEL']}"
        yield name, lambda kind=kind: kind(chance)  # type: ignore[misc]


def matrix(chance: random.Random) -> tuple[list[Tensor], Tensor, int, int]:
    """A random coded matrix: planes, scale set, rows and columns; planes at odd addresses."""
    rows, columns, count = chance.choice(_SIZES), chance.choice(_SIZES), chance.randint(1, 8)
    size, shift = rows * layout.row_bytes(columns), chance.randint(0, 3)
    memory = [torch.randint(0, 256, (size + shift,), dtype=torch.uint8) for _ in range(count)]
    # Copies of the exact size are the ones whose ends a sanitizer can watch.
    planes = [m[shift:].clone() if chance.random() < 0.5 else m[shift:] for m in memory]
    planes = [plane.view(rows, -1) for plane in planes]
    table = torch.randn(2**count).sort().values
    scale = torch.cat([torch.rand(rows) + 0.5, torch.rand(columns) + 0.5, table]).half()
    return planes, scale, rows, columns


def kept(chance: random.Random, rows: int, columns: int) -> arguments.Kept | None:
    """Random outliers of a matrix, or none."""
    if chance.random() < 0.5:
        return None
    count = chance.randint(1, rows * columns)
    at = torch.randperm(rows * columns)[: min(count, 500)].sort().values
    positions = at.to(chance.choice([torch.int32, torch.int64]))
    return positions, torch.randn(len(at)).half()


def same(result: Tensor, expected: Tensor, what: str) -> None:
    """Raises where the two differ by more than the least exact kernel may."""
    assert result.shape == expected.shape, what
    error = (result.double() - expected.double()).norm()
    assert error <= _CLOSE[result.dtype] * expected.double().norm() + 1e-3, f"{what}: {error}"


def _linear(chance: random.Random) -> None:
    planes, scale, rows, columns = matrix(chance)
    lead = chance.choice([(), (1,), (0,), (3,), (2, 3), (5,), (40,)])
    x = torch.randn(*lead, columns).to(chance.choice(_DTYPES))
    bias = torch.randn(rows).to(chance.choice(_DTYPES)) if chance.random() < 0.5 else None
    seed, own = chance.choice([0, 1, 2**63 - 1]), kept(chance, rows, columns)
    result = ops.coded_linear(x, planes, scale, rows, bias, seed=seed, kept=own)
    wide = rotation.rotate(x.float(), seed) if seed else x.float()
    expected = reference.coded_linear(wide, planes, scale, rows)
    expected = expected if bias is None else expected + bias.float()
    expected = expected if own is None else outliers.add_products(expected, x.float(), *own)
    same(result, expected, f"linear {lead} {rows}x{columns} {len(planes)} planes {x.dtype}")


def _rows(chance: random.Random) -> None:
    planes, scale, rows, columns = matrix(chance)
    ids = torch.randint(0, rows, chance.choice([(0,), (1,), (7,), (2, 9)]))
    expected = reference.coded_rows(ids, planes, scale, rows, columns)
    assert torch.equal(ops.coded_rows(ids, planes, scale, rows, columns), expected)


def _dequantize(chance: random.Random) -> None:
    coded = matrix(chance)
    assert torch.equal(ops.dequantize(*coded), reference.dequantize(*coded))
    planes, scale, rows, columns = coded
    out = torch.empty(rows, columns, dtype=chance.choice(_DTYPES))
    variant = dispatch.cpu_variant()
    assert variant is not None
    native.unpack(variant, planes, scale, rows, out)
    same(out, reference.dequantize(*coded), "unpack")


def _rotate(chance: random.Random) -> None:
    x = torch.randn(chance.choice([0, 1, 5]), chance.choice(_SIZES)).to(chance.choice(_DTYPES))
    seed, back = chance.randint(1, 9), chance.random() < 0.5
    same(ops.rotate(x, seed, back=back), rotation.rotate(x.float(), seed, back=back), "rotate")


def _codes(chance: random.Random) -> tuple[Tensor, int, Tensor, Tensor]:
    rows, columns = chance.choice(_SIZES), chance.choice(_SIZES)
    code = torch.randint(0, 256, (rows, columns), dtype=torch.uint8)
    return code, chance.randint(0, 8), torch.randn(rows), torch.randn(columns)


def _values(chance: random.Random) -> None:
    code, planes, u, v = _codes(chance)
    table = torch.randn(2**planes)
    expected = table[(code & (2**planes - 1)).int()] * v * u.unsqueeze(1)
    same(codes.values(code, planes, table, u, v), expected, "values")


def _sums(chance: random.Random) -> None:
    code, planes, u, v = _codes(chance)
    x = torch.randn(code.shape) if chance.random() < 0.5 else None
    sums = codes.sum_by_code(code, planes, u, v, x)
    whole = torch.outer(u, v) * (1 if x is None else x)
    same(sums.sum().view(1), whole.sum().view(1), "sums")


def _spread(chance: random.Random) -> None:
    code, planes, u, v = _codes(chance)
    table, gradient = torch.randn(2**planes), torch.randn(code.shape)
    expected = gradient * v * u.unsqueeze(1)
    found = learning.spread(code, table, u, v, gradient)
    same(found.cells, expected, "gradients by cells")
    same(found.table.sum().view(1), expected.sum().view(1), "gradients by the table")


def _move(chance: random.Random) -> None:
    """Without a gradient every code stays."""
    code, planes, u, v = _codes(chance)
    code &= 2**planes - 1
    table, offset = torch.randn(2**planes), torch.zeros(code.shape, dtype=torch.float16)
    kept, moved = chance.randint(0, planes), chance.randint(0, 8)
    found = learning.move(code, table, torch.zeros(code.shape), u, v, offset, kept, moved)
    same(found.float(), code.float(), "codes")


def _attention(chance: random.Random) -> None:
    batch, heads, group, steps = (chance.randint(1, 3) for _ in range(4))
    tokens, size, value_size = (chance.choice(_SIZES[:15]) for _ in range(3))
    dtype, first = chance.choice(_DTYPES), chance.randint(0, 2)
    query = torch.randn(batch, heads * group, steps, size).to(dtype)
    key = torch.randn(batch, heads, tokens + first, size).to(dtype)[:, :, first:]
    value = torch.randn(batch, heads, tokens, value_size).to(dtype)
    if chance.random() < 0.2:
        key[:, :, :: chance.randint(1, 9)] = chance.choice([float("nan"), float("inf")])
    mask = None
    if chance.random() < 0.5:
        mask = torch.rand(batch, chance.choice([1, heads * group]), steps, tokens) < 0.8
    scaling = chance.choice([0.1, 1.0, 30.0])
    result = attend(query, key, value, mask, scaling)
    wide = [t.double().repeat_interleave(group, 1) for t in (key, value)]
    seen = torch.ones(steps, tokens, dtype=torch.bool) if mask is None else mask
    scores = (query.double() @ wide[0].mT * scaling).masked_fill(~seen, -torch.inf)
    weights = torch.softmax(scores, -1).masked_fill(~seen.any(-1, keepdim=True), 0.0)
    if key.isfinite().all():
        same(result, (weights @ wide[1]).transpose(1, 2), f"attention {list(query.shape)}")


def _hostile(chance: random.Random) -> None:
    """Infinities and NaN where a container or an input may have them: no trap, and no number."""
    planes, scale, rows, columns = matrix(chance)
    x = torch.randn(chance.choice([1, 4, 30]), columns).to(chance.choice(_DTYPES))
    strange = torch.tensor([float("nan"), float("inf"), -float("inf"), 6e4])
    target = chance.choice([x.view(-1), scale])
    target[chance.randrange(len(target))] = strange[chance.randrange(4)]
    ops.coded_linear(x, planes, scale, rows, seed=chance.choice([0, 3]))
    ops.dequantize(planes, scale, rows, columns)
