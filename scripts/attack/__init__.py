"""Damaged and hostile containers, and what becomes of a process that loads one. Knows the folder on
disk. Does not print; see `scripts/attack_container.py`."""
