"""Computes the coded product on CUDA in Triton: few tokens, many tokens, and single rows.

Imported only where Triton and a CUDA tensor are there, or where TRITON_INTERPRET=1 asks for
Triton's interpreter on CPU tensors. Sums, tables and scales are fp32; the matrix product of many
tokens takes weights rounded to the dtype of `x`, as `kernels.reference` does.
"""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

_DECODE_TO = 4  # tokens up to which reading the weights once a token beats a padded matrix product


@triton.jit
def _word(p0, p1, p2, p3, p4, p5, p6, p7, at, inside, PLANES: tl.constexpr):
    """Byte `at` of every plane, plane p in byte p of a word of 32 bits, above 4 planes of 64."""
    if PLANES <= 4:
        word = tl.load(p0 + at, mask=inside, other=0).to(tl.uint32)
    else:
        word = tl.load(p0 + at, mask=inside, other=0).to(tl.uint64)
    if PLANES > 1:
        word |= tl.load(p1 + at, mask=inside, other=0).to(word.dtype) << 8
    if PLANES > 2:
        word |= tl.load(p2 + at, mask=inside, other=0).to(word.dtype) << 16
    if PLANES > 3:
        word |= tl.load(p3 + at, mask=inside, other=0).to(word.dtype) << 24
    if PLANES > 4:
        word |= tl.load(p4 + at, mask=inside, other=0).to(word.dtype) << 32
    if PLANES > 5:
        word |= tl.load(p5 + at, mask=inside, other=0).to(word.dtype) << 40
    if PLANES > 6:
        word |= tl.load(p6 + at, mask=inside, other=0).to(word.dtype) << 48
    if PLANES > 7:
        word |= tl.load(p7 + at, mask=inside, other=0).to(word.dtype) << 56
    return word


@triton.jit
def _code(word, bit, PLANES: tl.constexpr):
    """Bit `bit` of every byte as a code: one product moves bit 8p to bit p of the top byte."""
    if PLANES <= 4:
        spread = (word >> bit) & 0x01010101
        return ((spread * 0x01020408) >> 24).to(tl.int32) & ((1 << PLANES) - 1)
    else:
        spread = (word >> bit) & 0x0101010101010101
        return ((spread * 0x0102040810204080) >> 56).to(tl.int32) & ((1 << PLANES) - 1)


# Least cost for a matrix of m x n: planes * m * n / 8 bytes. For each weight a shift, a mask, a
# product, a shift, a table load from the first-level cache and a multiply-add: about 6 operations,
# so a GPU that does 40 a byte read is bound by memory up to 4 planes.
@triton.jit
def _decode(x, p0, p1, p2, p3, p4, p5, p6, p7, scale, bias, out, rows, columns, row_bytes,
            PLANES: tl.constexpr, HAS_BIAS: tl.constexpr,
            BLOCK_M: tl.constexpr, BLOCK_B: tl.constexpr):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    token = tl.program_id(1).to(tl.int64)
    table = scale + rows + columns
    total = tl.zeros([BLOCK_M, BLOCK_B], dtype=tl.float32)
    for start in range(0, row_bytes, BLOCK_B):
        byte = start + tl.arange(0, BLOCK_B)
        inside = (m < rows)[:, None] & (byte < row_bytes)[None, :]
        at = m[:, None].to(tl.int64) * row_bytes + byte[None, :]
        word = _word(p0, p1, p2, p3, p4, p5, p6, p7, at, inside, PLANES)
        for bit in tl.static_range(8):
            column = byte * 8 + bit
            there = column < columns
            value = tl.load(x + token * columns + column, mask=there, other=0.0).to(tl.float32)
            value *= tl.load(scale + rows + column, mask=there, other=0.0).to(tl.float32)
            weight = tl.load(table + _code(word, bit, PLANES)).to(tl.float32)
            total += weight * value[None, :]
    result = tl.sum(total, axis=1) * tl.load(scale + m, mask=m < rows, other=0.0).to(tl.float32)
    if HAS_BIAS:
        result += tl.load(bias + m, mask=m < rows, other=0.0).to(tl.float32)
    tl.store(out + token * rows + m, result.to(out.dtype.element_ty), mask=m < rows)


# Least cost for t tokens: planes * m * n / 8 bytes for every BLOCK_T tokens, 2 * t * m * n
# operations of the matrix units; unpacking costs 6 operations a weight for every BLOCK_T tokens.
@triton.jit
def _prefill(x, p0, p1, p2, p3, p4, p5, p6, p7, scale, bias, out, tokens, rows, columns, row_bytes,
             PLANES: tl.constexpr, HAS_BIAS: tl.constexpr,
             BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    table = scale + rows + columns
    total = tl.zeros([BLOCK_T, BLOCK_M], dtype=tl.float32)
    for start in range(0, columns, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        there = column < columns
        at = m[:, None].to(tl.int64) * row_bytes + (column // 8)[None, :]
        inside = (m < rows)[:, None] & there[None, :]
        word = _word(p0, p1, p2, p3, p4, p5, p6, p7, at, inside, PLANES)
        bit = (column % 8).to(word.dtype)
        weight = tl.load(table + _code(word, bit[None, :], PLANES)).to(tl.float32)
        weight *= tl.load(scale + rows + column, mask=there, other=0.0).to(tl.float32)[None, :]
        known = (t < tokens)[:, None] & there[None, :]
        value = tl.load(x + t[:, None].to(tl.int64) * columns + column[None, :], known, other=0.0)
        weight = tl.trans(weight.to(value.dtype))
        total = tl.dot(value, weight, total, input_precision="ieee")
    total *= tl.load(scale + m, mask=m < rows, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + m, mask=m < rows, other=0.0).to(tl.float32)[None, :]
    to = out + t[:, None].to(tl.int64) * rows + m[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=(t < tokens)[:, None] & (m < rows)[None, :])


@triton.jit
def _gather(ids, p0, p1, p2, p3, p4, p5, p6, p7, scale, out, rows, columns, row_bytes,
            PLANES: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    row = tl.load(ids + i)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (row >= 0) & (row < rows)
    there = (column < columns) & inside
    at = row * row_bytes + column // 8
    word = _word(p0, p1, p2, p3, p4, p5, p6, p7, at, there, PLANES)
    code = _code(word, (column % 8).to(word.dtype), PLANES)
    value = tl.load(scale + rows + columns + code).to(tl.float32)
    value *= tl.load(scale + rows + column, mask=there, other=0.0).to(tl.float32)
    value *= tl.load(scale + row, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(inside, value, float("nan"))
    tl.store(out + i * columns + column, value, mask=column < columns)


def _eight(planes: list[Tensor]) -> list[Tensor]:
    """The eight planes that a kernel takes: those given, then the first, which is not read."""
    return [*planes, *[planes[0]] * (8 - len(planes))]


def coded_linear(
    x: Tensor, planes: list[Tensor], scale: Tensor, rows: int, bias: Tensor | None = None
) -> Tensor:
    """Returns `x` [..., n] times the transposed matrix, plus `bias` [m]: [..., m], dtype of `x`.

    Planes and scale set are as in `kernels.ops.coded_linear`, which checks them.
    """
    columns = x.shape[-1]
    flat = x.reshape(-1, columns).contiguous()
    bias = None if bias is None else bias.contiguous()
    tokens = flat.shape[0]
    out = x.new_empty(tokens, rows)
    if tokens == 0:
        return out.view(*x.shape[:-1], rows)
    tail = (planes[0] if bias is None else bias, out)
    sizes = (rows, columns, planes[0].shape[1])
    flags = {"PLANES": len(planes), "HAS_BIAS": bias is not None}
    if tokens <= _DECODE_TO:
        grid = (triton.cdiv(rows, 8), tokens)
        _decode[grid](flat, *_eight(planes), scale, *tail, *sizes, **flags, BLOCK_M=8, BLOCK_B=64)
    else:
        block = 16 if tokens <= 16 else 64
        grid = (triton.cdiv(rows, 64), triton.cdiv(tokens, block))
        blocks = {"BLOCK_T": block, "BLOCK_M": 64, "BLOCK_K": 64}
        _prefill[grid](flat, *_eight(planes), scale, *tail, tokens, *sizes, **flags, **blocks)
    return out.view(*x.shape[:-1], rows)


def coded_rows(ids: Tensor, planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    """Returns rows `ids` (int64, any shape) of the matrix: fp32 [*ids.shape, columns].

    A row of NaN for an id that is not a row: raising would wait for the GPU. The caller checks all
    else.
    """
    flat = ids.reshape(-1).to(torch.int64).contiguous()
    out = torch.empty(flat.shape[0], columns, device=ids.device)
    if flat.shape[0]:
        grid = (flat.shape[0], triton.cdiv(columns, 512))
        sizes = (rows, columns, planes[0].shape[1])
        _gather[grid](flat, *_eight(planes), scale, out, *sizes, PLANES=len(planes), BLOCK=512)
    return out.view(*ids.shape, columns)


def dequantize(planes: list[Tensor], scale: Tensor, rows: int, columns: int) -> Tensor:
    """Returns the matrix, fp32 [rows, columns]."""
    every = torch.arange(rows, device=scale.device)
    return coded_rows(every, planes, scale, rows, columns)
