"""Chooses at run time, from what this machine has, which kernel runs, and says why.

CPU: the best compiled variant, or the torch reference. CUDA: Triton, or the reference. The
environment variable BITSTACK_KERNEL forces a CPU variant (a name of `native.variants()`, or
"reference"). Two accuracies: "fast" takes products of bytes, of activations and tables with two
digits, where the machine has them (relative error about 1e-4, with AVX2 and with NEON without dot
products 1e-3), "exact" is fp32 throughout. Does not call a kernel; see `kernels.ops`.
"""

import os
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from bitstack.errors import UserError
from bitstack.kernels import native
from bitstack.machine.device import product_dtype

ACCURACIES = ("fast", "exact")
_state = {"accuracy": "fast"}


class Choice(NamedTuple):
    """The kernel that runs, and why this one."""

    name: str
    reason: str


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
        return _cpu(os.environ.get("BITSTACK_KERNEL", ""))[0]
    if kind == "cuda":
        return _cuda()
    return Choice("reference", f"slow: there is no kernel for {kind}, plain torch runs")


def cpu_variant() -> native.Variant | None:
    """Returns the compiled variant for CPU tensors, None for the reference.

    Raises:
        UserError: BITSTACK_KERNEL names a kernel that this machine cannot run.
    """
    return _cpu(os.environ.get("BITSTACK_KERNEL", ""))[1]


def is_eager(tensor: Tensor) -> bool:
    """Tells whether a compiled kernel may read its memory: a real tensor, not being traced."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and not is_in_torch_dispatch_mode()
    )


@cache
def _cpu(forced: str) -> tuple[Choice, native.Variant | None]:
    if forced:
        return _forced(forced)
    able = [variant for variant in native.variants() if variant.runs]
    if not able:
        reason = "slow: the C++ kernels were not built (install a C++17 compiler and reinstall)"
        return Choice("reference", reason), None
    return Choice(able[0].name, _why(able[0])), able[0]


def _why(variant: native.Variant) -> str:
    if variant.name == "portable":
        return "slow: this processor has no vector instructions that a kernel was written for"
    better = [other.name for other in native.variants() if other.index < variant.index]
    lacks = f"; the processor lacks what {', '.join(better)} need" if better else ""
    wide = "; it has no bf16 arithmetic: prompts are multiplied in fp32" if widens(variant) else ""
    return f"the best compiled kernel for this processor{lacks}{wide}"


@cache
def widens(variant: native.Variant) -> bool:
    """Tells whether many tokens of 16 bits are multiplied in fp32, as torch is faster so."""
    return not variant.halves and product_dtype("cpu") == torch.float32


def _forced(name: str) -> tuple[Choice, native.Variant | None]:
    reason = "set by BITSTACK_KERNEL"
    if name == "reference":
        return Choice(name, reason), None
    for variant in native.variants():
        if variant.name == name and variant.runs:
            return Choice(name, reason), variant
    able = [variant.name for variant in native.variants() if variant.runs]
    allowed = ", ".join([*able, "reference"])
    raise UserError(f"BITSTACK_KERNEL: {name!r} cannot run here: set one of {allowed}, or unset it")


@cache
def _cuda() -> Choice:
    if find_spec("triton") is None:
        return Choice("reference", "slow: Triton is not installed, plain torch runs on the GPU")
    return Choice("triton", "Triton is installed and the tensors are on a CUDA device")
