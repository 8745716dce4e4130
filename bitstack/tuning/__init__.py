"""Improves scales and codes by gradients against the original model. Does not choose when, how long
or on what text; see `compression.tune_stage`."""
