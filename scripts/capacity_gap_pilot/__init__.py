"""Parts of `scripts/pilot_capacity_gap.py`: importance, pruning, distillation, summary of the runs.

Used by nothing else; does not measure containers, see `metrics.gap`.
"""
