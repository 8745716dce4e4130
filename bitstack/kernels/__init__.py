"""The coded product, by the fastest kernel this machine can run."""

from bitstack.kernels.reference import coded_linear, coded_rows, dequantize, scale_length

__all__ = ["coded_linear", "coded_rows", "dequantize", "scale_length"]
