"""Information capacity: bits saved on a text over the cost of a token, in FLOPs, bytes or time.
Does not compare a model with its original."""
