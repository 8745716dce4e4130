"""Capacity density (the Densing Law): the size a reference model needs for the same quality, over
the size at hand. Does not run benchmarks itself; see `tasks`."""
