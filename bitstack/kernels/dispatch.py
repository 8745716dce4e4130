"""Chooses at run time, from what this machine has, which kernel runs, and says why.

CPU: the best compiled variant, or the torch reference. CUDA: Triton, or the reference. The
environment variable BITSTACK_KERNEL forces a CPU variant (a name of `kernels.selection`, or
"reference"). Two accuracies: "fast" takes products of bytes, of activations and tables with two
digits, where the machine has them (relative error about 1e-4, with AVX2 and with NEON without dot
products 1e-3), "exact" is fp32 throughout. Does not call a kernel; see `kernels.ops`.
"""

from functools import cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from bitstack.errors import UserError
from bitstack.kernels import selection
from bitstack.kernels.selection import Choice
from bitstack.machine.device import product_dtype

ACCURACIES = ("fast", "exact")
_state = {"accuracy": "fast"}


def set_accuracy(accuracy: str) -> str:
    """Sets how exactly packed matrices are multiplied, for the whole process.

    "fast", the setting at first, takes products of bytes on CPUs that have them (relative error
    about 1e-4, with AVX2 and with NEON without dot products 1e-3); "exact" computes in fp32
    throughout. Where no 8-bit kernel runs, both are the same.

    Args:
        accuracy: "fast" or "exact".

    Returns:
        The setting before.

    Raises:
        UserError: `accuracy` is another word.

    Example:
        >>> import bitstack
        >>> before = bitstack.set_accuracy("exact")
        >>> bitstack.set_accuracy(before)
        'exact'
    """
    if accuracy not in ACCURACIES:
        allowed = " or ".join(ACCURACIES)
        raise UserError(f"accuracy: {accuracy!r} is not known, it is {allowed}: pass one of them")
    before, _state["accuracy"] = _state["accuracy"], accuracy
    return before


def get_accuracy() -> str:
    """Returns the accuracy that `set_accuracy` set last; "fast" at first."""
    return _state["accuracy"]


def which(device: torch.device | str = "cpu") -> Choice:
    """Returns name and reason of the kernel for tensors on `device`.

    Raises:
        UserError: BITSTACK_KERNEL names a kernel that this machine cannot run.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return selection.for_cpu()[0]
    if kind == "cuda":
        return selection.for_gpu()
    return Choice("reference", f"slow: there is no kernel for {kind}, plain torch runs")


def cpu_variant() -> selection.Variant | None:
    """Returns the compiled variant for CPU tensors, None for the reference.

    Raises:
        UserError: BITSTACK_KERNEL names a kernel that this machine cannot run.
    """
    return selection.for_cpu()[1]


def is_eager(tensor: Tensor) -> bool:
    """Tells whether a compiled kernel may read its memory: a real tensor, not being traced."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not is_in_torch_dispatch_mode()
    )


@cache
def widens(variant: selection.Variant) -> bool:
    """Tells whether many tokens of 16 bits are multiplied in fp32, as torch is faster so."""
    return not variant.halves and product_dtype("cpu") == torch.float32
