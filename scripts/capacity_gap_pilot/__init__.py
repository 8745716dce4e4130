"""Parts of `scripts/pilot_capacity_gap.py`: pruning, distillation, a summary of its runs."""
