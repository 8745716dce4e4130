"""Information capacity: bits saved on a text over the logarithm of a token's cost in FLOPs, bytes
or time. Does not compare a model with its original; see `metrics.gap`."""
