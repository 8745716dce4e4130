"""The coded product, by the fastest kernel this machine can run.

`which()` says which one that is and why; `set_accuracy` chooses between "fast" and "exact". The
definition all kernels are tested against is `reference`.
"""

from bitstack.kernels.dispatch import Choice, get_accuracy, set_accuracy, which
from bitstack.kernels.ops import coded_linear, coded_rows, dequantize
from bitstack.kernels.reference import scale_length
from bitstack.kernels.signs import sign_dequantize, sign_linear

__all__ = [
    "Choice",
    "coded_linear",
    "coded_rows",
    "dequantize",
    "get_accuracy",
    "scale_length",
    "set_accuracy",
    "sign_dequantize",
    "sign_linear",
    "which",
]
