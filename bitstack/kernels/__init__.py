"""The coded product, by the fastest kernel this machine can run."""

from bitstack.kernels.reference import coded_linear, coded_rows, dequantize, scale_length
from bitstack.kernels.signs import sign_dequantize, sign_linear

__all__ = [
    "coded_linear",
    "coded_rows",
    "dequantize",
    "scale_length",
    "sign_dequantize",
    "sign_linear",
]
