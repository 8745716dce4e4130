"""Parts of `bench_runtime.py`."""
