"""Runs the original model over a text and collects inputs and gradients of every matrix. Does not
know how a matrix is coded; see `decompose`."""
