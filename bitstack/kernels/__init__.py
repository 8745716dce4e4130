"""Computes the coded product by the fastest kernel this machine can run.

`which()` says which kernel that is and why; `set_accuracy` chooses between "fast" and "exact". All
kernels are tested against the definition in `kernels.reference`. Does not know files or levels;
see `container`.
"""

from bitstack.kernels.dispatch import Choice, get_accuracy, set_accuracy, which
from bitstack.kernels.ops import coded_linear, coded_rows, dequantize, rotate
from bitstack.kernels.reference import scale_length
from bitstack.kernels.signs import sign_dequantize, sign_linear

__all__ = [
    "Choice",
    "coded_linear",
    "coded_rows",
    "dequantize",
    "get_accuracy",
    "rotate",
    "scale_length",
    "set_accuracy",
    "sign_dequantize",
    "sign_linear",
    "which",
]
