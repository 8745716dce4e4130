"""Finds out which block saves the most loss per byte, by prediction and by measurement. Does not
know how a block is made; see `decompose`."""
