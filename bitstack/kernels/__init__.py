"""Computes the coded product by the fastest kernel this machine can run.

`which()` says which kernel that is and why; `set_accuracy` chooses between "fast" and "exact". All
kernels are tested against the definition in `kernels.reference`. Does not know files or levels;
see `container`. Each name is imported when it is first used, because `kernels.layout` and
`kernels.selection` need no torch, and importing them must not bring it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitstack.kernels.dispatch import get_accuracy, set_accuracy, which
    from bitstack.kernels.ops import coded_linear, coded_rows, dequantize, rotate
    from bitstack.kernels.signs import sign_dequantize, sign_linear

__all__ = [
    "coded_linear",
    "coded_rows",
    "dequantize",
    "get_accuracy",
    "rotate",
    "set_accuracy",
    "sign_dequantize",
    "sign_linear",
    "which",
]

_MODULES = {
    "coded_linear": "ops",
    "coded_rows": "ops",
    "dequantize": "ops",
    "get_accuracy": "dispatch",
    "rotate": "ops",
    "set_accuracy": "dispatch",
    "sign_dequantize": "signs",
    "sign_linear": "signs",
    "which": "dispatch",
}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(import_module(f"bitstack.kernels.{_MODULES[name]}"), name)
        raise AttributeError(f"module 'bitstack.kernels' has no attribute {name!r}")
