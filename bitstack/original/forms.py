"""Tells what a module computes with its weight, by trying it rather than by its class.

Does not say which weights are decomposed; see `original.matrices`.
"""

from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitstack.original.dry_pass import Use

_IN, _OUT = 5, 3  # sizes of a small module to try


class Experts(Enum):
    """How a 3-D parameter is multiplied with: its entries are matrices."""

    OUT_IN = Use("torch.nn.functional.linear", 1, True)  # one by one: linear(x, weight[e])
    IN_OUT = Use("torch.Tensor.__matmul__", 1, True)  # one by one: x @ weight[e]
    IN_OUT_TOGETHER = Use("torch.bmm", 1, False)  # all at once: bmm(x, weight)

    @property
    def transposed(self) -> bool:
        """Whether an entry is stored as inputs x outputs."""
        return self is not Experts.OUT_IN


def experts_form(uses: set[Use]) -> Experts | None:
    """Returns the only way in which a 3-D parameter was used; None if there are others."""
    if len(uses) != 1:
        return None
    (use,) = uses
    return next((form for form in Experts if form.value == use), None)


def computes_product(module: nn.Linear) -> bool:
    """Returns whether `module(x)` is x Wᵀ + b, also where its class has a forward of its own.

    That forward is tried on a small module of its class, in bf16, with small and large inputs: one
    that widens, clamps, chooses experts or takes more than one input does something else.
    """
    kind = type(module)
    if kind.forward is nn.Linear.forward:
        return True
    if set(module._parameters) != {"weight", "bias"} or module._buffers or module._modules:
        return False
    plain = _small_linear(bias=module.bias is not None)
    small = kind.__new__(kind)
    small.__dict__ |= module.__dict__ | {
        "_parameters": plain._parameters, "in_features": _IN, "out_features": _OUT,
    }  # fmt: skip
    x = torch.linspace(-1, 1, 2 * 4 * _IN, dtype=torch.bfloat16, device="cpu").view(2, 4, _IN)
    return all(_gives_product(small, plain, factor * x) for factor in (1, 1000))


def _small_linear(*, bias: bool) -> nn.Linear:
    """A Linear of fixed weights."""
    plain = nn.Linear(_IN, _OUT, bias=bias, device="meta", dtype=torch.bfloat16)
    for name, p in plain.named_parameters():
        values = torch.linspace(-1.1, 0.9, p.numel(), dtype=p.dtype, device="cpu").view(p.shape)
        plain._parameters[name] = nn.Parameter(values)
    return plain


@torch.no_grad()
def _gives_product(small: nn.Linear, plain: nn.Linear, x: Tensor) -> bool:
    expected = F.linear(x, plain.weight, plain.bias)
    try:
        found = small.forward(x)
    except Exception:  # whatever the class raises for this size or for one input
        return False
    if not isinstance(found, Tensor) or found.dtype != expected.dtype:
        return False
    close = 0.02 * float(expected.abs().max())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=close)
