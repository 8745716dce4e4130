"""The parts of `bench_frontier.py`: what is measured, what it costs, our runs, tables and picture.

Does not quantise and does not compute a loss; the package `peers` does both.
"""
