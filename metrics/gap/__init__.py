"""The gap between a student and its teacher, or a compressed model and its original, and the law of
which teacher suits a student. Trains nothing; see `scripts/pilot_capacity_gap.py`."""
