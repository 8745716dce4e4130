"""The loaded blocks of one matrix as a module: buffers only, whose stored dtypes survive any cast.

A stack knows its level and multiplies with it; where its tensors come from is `load`'s business,
and how the product is computed the kernels'.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from bitstack import kernels
from bitstack.blocks import StackSpec

Read = Callable[[str], Tensor]  # name within the stack -> tensor


class Stack(nn.Module):
    """A rows x columns matrix at one level. `level` 0 holds nothing and cannot be used.

    `dtype` is that of the matrix it stands for, and follows the casts of the model.
    """

    def __init__(self, spec: StackSpec, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.spec, self.level, self.dtype = spec, 0, dtype

    def set_level(self, level: int, read: Read, device: torch.device | str = "cpu") -> None:
        """Go to `level`: read the tensors it lacks, drop those it does not need.

        Everything is read before anything changes, so a failing `read` leaves the stack as it was.
        """
        needed = {tensor.name for tensor in self.spec.resident(level)}
        fresh = {name: read(name).to(device) for name in needed - set(self._buffers)}
        for name, tensor in fresh.items():
            self.register_buffer(name, tensor)
        for name in set(self._buffers) - needed:
            del self._buffers[name]
        self.level = level

    def empty(self) -> None:
        """Give up every tensor; the stack is at level 0 again."""
        self._buffers.clear()
        self.level = 0

    @property
    def device(self) -> torch.device:
        return next(iter(self.buffers())).device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model, but keep blocks and scales as they are stored when it is cast."""
        stored: dict[str, Any] = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, tensor in stored.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != tensor.dtype:
                self._buffers[name] = tensor.to(moved.device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self

    def dequantize(self) -> Tensor:
        """The matrix, fp32 [rows, columns]."""
        if self.spec.format == "signs":
            planes, lefts, rights = self._signs()
            return kernels.sign_dequantize(planes, lefts, rights, self.spec.columns)
        return kernels.dequantize(self._planes(), self._scale(), self.spec.rows, self.spec.columns)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x` [..., columns] times the transposed matrix plus `bias`: [..., rows]."""
        if self.spec.format == "signs":
            return kernels.sign_linear(x, *self._signs(), bias)
        return kernels.coded_linear(x, self._planes(), self._scale(), self.spec.rows, bias)

    def gather(self, ids: Tensor) -> Tensor:
        """Rows `ids` (int64, any shape) of the matrix, fp32 [*ids.shape, columns]."""
        spec = self.spec
        if spec.format == "signs":
            planes, lefts, rights = self._signs()
            flat = ids.reshape(-1)
            some = [p[flat] for p in planes], [a[flat] for a in lefts]
            rows = kernels.sign_dequantize(*some, rights, spec.columns)
            return rows.view(*ids.shape, spec.columns)
        return kernels.coded_rows(ids, self._planes(), self._scale(), spec.rows, spec.columns)

    def extra_repr(self) -> str:
        spec = self.spec
        return f"{spec.rows}x{spec.columns}, {spec.format}, level {self.level} of {spec.levels}"

    def _planes(self) -> list[Tensor]:
        assert self.level > 0, "a stack without blocks was used"
        return [self._buffers[f"plane_{j}"] for j in range(1, self.level + 1)]  # type: ignore[misc]

    def _scale(self) -> Tensor:
        return self._buffers[f"scale_{self.level}"]  # type: ignore[return-value]

    def _signs(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        levels = range(1, self.level + 1)
        lefts = [self._buffers[f"left_{j}"] for j in levels]
        rights = [self._buffers[f"right_{j}"] for j in levels]
        return self._planes(), lefts, rights  # type: ignore[return-value]
