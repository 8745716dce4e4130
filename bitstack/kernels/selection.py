"""Tells which kernel this machine would run, and why. Imports no torch, which takes a second.

Does not run one, nor look at tensors; see `kernels.dispatch`.
"""

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from bitstack.errors import UserError
from bitstack.kernels import library


class Choice(NamedTuple):
    """The kernel that runs, and why this one."""

    name: str
    reason: str


@dataclass(frozen=True)
class Variant:
    """One compiled kernel, and whether this machine `runs` it."""

    index: int  # the lower, the faster
    name: str
    runs: bool
    fast: bool  # has 8-bit dot products
    halves: bool  # can unpack to 16 bits, for matrix products in bf16


@cache
def variants() -> tuple[Variant, ...]:
    """Returns all compiled variants, best first; none where the library was not built."""
    compiled: list[Variant] = []
    while (functions := library.load()) is not None:
        flags = [ctypes.c_int32() for _ in range(3)]
        name = functions.bitstack_variant(len(compiled), *[ctypes.byref(flag) for flag in flags])
        if name is None:
            break
        has = [bool(flag.value) for flag in flags]
        compiled.append(Variant(len(compiled), name.decode(), *has))
    return tuple(compiled)


def for_cpu() -> tuple[Choice, Variant | None]:
    """Returns the choice for tensors on the CPU, and its variant; None for the torch reference.

    Raises:
        UserError: BITSTACK_KERNEL names a kernel that this machine cannot run.
    """
    return _for_cpu(os.environ.get("BITSTACK_KERNEL", ""))


@cache
def for_gpu() -> Choice:
    """Returns the choice for tensors on a CUDA device."""
    if find_spec("triton") is None:
        return Choice("reference", "slow: Triton is not installed, plain torch runs on the GPU")
    return Choice("triton", "Triton is installed and the tensors are on a CUDA device")


@cache
def _for_cpu(forced: str) -> tuple[Choice, Variant | None]:
    if forced:
        return _forced(forced)
    able = [variant for variant in variants() if variant.runs]
    if not able:
        reason = "slow: the C++ kernels were not built (install a C++17 compiler and reinstall)"
        return Choice("reference", reason), None
    return Choice(able[0].name, _why(able[0])), able[0]


def _why(variant: Variant) -> str:
    if variant.name == "portable":
        return "slow: this processor has no vector instructions that a kernel was written for"
    better = [other.name for other in variants() if other.index < variant.index]
    lacks = f"; the processor lacks what {', '.join(better)} need" if better else ""
    return f"the best compiled kernel for this processor{lacks}"


def _forced(name: str) -> tuple[Choice, Variant | None]:
    reason = "set by BITSTACK_KERNEL"
    if name == "reference":
        return Choice(name, reason), None
    for variant in variants():
        if variant.name == name and variant.runs:
            return Choice(name, reason), variant
    able = [variant.name for variant in variants() if variant.runs]
    allowed = ", ".join([*able, "reference"])
    raise UserError(f"BITSTACK_KERNEL: {name!r} cannot run here: set one of {allowed}, or unset it")
