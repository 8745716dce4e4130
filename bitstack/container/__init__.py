"""Knows the compressed folder: blocks, levels, budgets, files and checksums. Reads and writes
bytes, and never runs a model."""
