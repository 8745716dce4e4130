"""Capacity gap: how far a student is from its teacher, or a compressed model from its original, and
which size of teacher suits a student. Does not train; see `scripts/pilot_capacity_gap.py`."""
