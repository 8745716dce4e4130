"""Confidence intervals and fits of curves. Knows numbers, never a model or a text."""
