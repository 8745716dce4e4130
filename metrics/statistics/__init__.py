"""Confidence intervals and fits of curves to numbers. Knows no models and no texts."""
