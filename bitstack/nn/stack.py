"""Holds the loaded blocks of one matrix as a module and multiplies with them.

Blocks are buffers, whose stored dtypes survive any cast of the model. Does not read them from
files (see `container.reading`) or compute the product (see `kernels`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from bitstack.container.blocks import StackSpec
from bitstack.kernels import ops, outliers, signs

Read = Callable[[str], Tensor]  # name within the stack -> tensor


class Stack(nn.Module):
    """A rows x columns matrix at one level. At level 0 it holds nothing and cannot be used.

    `dtype` is that of the matrix it stands for, and follows the casts of the model.
    """

    def __init__(self, spec: StackSpec, dtype: torch.dtype = torch.float32) -> None:
        # Not super(): in a PackedLinear that would be nn.Linear, which makes a weight.
        nn.Module.__init__(self)
        self.spec, self.level, self.dtype = spec, 0, dtype

    def set_level(self, level: int, read: Read, device: torch.device | str = "cpu") -> None:
        """Goes to `level`: reads the tensors it lacks and drops those it does not need.

        Everything is read before anything changes, so a failing `read` leaves the stack as it was.

        Args:
            read: Returns a tensor by its name within the stack, such as `plane_1`.
        """
        self.hold(level, self.tensors(level, read, device))

    def tensors(
        self, level: int, read: Read, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Returns the tensors of `level` by name: those it holds, and the others from `read`."""
        own: dict[str, Any] = self._buffers
        names = [tensor.name for tensor in self.spec.resident(level)]
        return {name: own[name] if name in own else read(name).to(device) for name in names}

    def hold(self, level: int, tensors: Mapping[str, Tensor | None]) -> None:
        """Holds `tensors`, those of `level`, in place of its own.

        It is one assignment, so a product that runs in another thread sees one level only.
        """
        self._buffers = dict(tensors)
        self._non_persistent_buffers_set = set()
        self.level = level

    def reserve(self, level: int) -> None:
        """Holds places for the tensors of `level`: on the meta device, and in no state dict.

        transformers counts them when it plans a `device_map` and moves them to a device; nothing
        reads them.
        """
        specs = self.spec.resident(level)
        kinds = {t.name: (t.shape, getattr(torch, t.dtype)) for t in specs}
        self.hold(
            level,
            {n: torch.empty(shape, dtype=d, device="meta") for n, (shape, d) in kinds.items()},
        )
        self._non_persistent_buffers_set = {t.name for t in specs}

    def empty(self) -> None:
        """Drops every tensor; the stack is at level 0 again."""
        self.hold(0, {})

    @property
    def device(self) -> torch.device:
        """The device of its tensors; a stack at level 0 has none."""
        return next(iter(self.buffers())).device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves with the model, but keeps blocks and scales in their stored dtypes in a cast."""
        stored: dict[str, Any] = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, tensor in stored.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != tensor.dtype:
                self._buffers[name] = tensor.to(moved.device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self

    def dequantize(self) -> Tensor:
        """Returns the matrix, fp32 [rows, columns]."""
        if self.spec.format == "signs":
            return signs.sign_dequantize(*self._signs(), self.spec.columns)
        rows = ops.dequantize(*self._coded(), self.spec.rows, self.spec.columns)
        rows = ops.rotate(rows, self.spec.rotation, back=True)
        return outliers.add_to(rows, *self._kept()) if self.spec.outliers else rows

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns `x` [..., columns] times the transposed matrix plus `bias`: [..., rows]."""
        if self.spec.format == "signs":
            return signs.sign_linear(x, *self._signs(), bias)
        spec = self.spec
        kept = self._kept() if spec.outliers else None
        coded = self._coded()
        return ops.coded_linear(x, *coded, spec.rows, bias, seed=spec.rotation, kept=kept)

    def gather(self, ids: Tensor) -> Tensor:
        """Returns rows `ids` (int64, any shape) of the matrix, fp32 [*ids.shape, columns]."""
        spec = self.spec
        if spec.format == "signs":
            planes, lefts, rights = self._signs()
            flat = ids.reshape(-1)
            # Planes and left factors have a row for every row of the matrix; right factors do not.
            chosen = [p[flat] for p in planes], [a[flat] for a in lefts]
            rows = signs.sign_dequantize(*chosen, rights, spec.columns)
            return rows.view(*ids.shape, spec.columns)
        rows = ops.coded_rows(ids, *self._coded(), spec.rows, spec.columns)
        rows = ops.rotate(rows, spec.rotation, back=True)
        return rows + outliers.rows(ids, *self._kept(), spec.columns) if spec.outliers else rows

    def extra_repr(self) -> str:
        spec = self.spec
        return f"{spec.rows}x{spec.columns}, {spec.format}, level {self.level} of {spec.levels}"

    def _held(self) -> list[Tensor]:
        """All tensors of one level, in the order in which the format names them."""
        held: list[Any] = list(self._buffers.values())
        assert len(held) > 0, "a stack without blocks was used"
        return held

    def _coded(self) -> tuple[list[Tensor], Tensor]:
        held = self._held()
        *planes, scale = held[:-2] if self.spec.outliers else held
        return planes, scale

    def _kept(self) -> tuple[Tensor, Tensor]:
        """Positions and values of the outliers."""
        positions, values = self._held()[-2:]
        return positions, values

    def _signs(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        held = self._held()
        return held[0::3], held[1::3], held[2::3]  # plane, left and right of every level
