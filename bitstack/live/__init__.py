"""Models that run from their blocks: load, resize, generate, save and export them. Does not measure
their quality, see `metrics`, and does not print."""
