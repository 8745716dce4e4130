"""A model that runs from its blocks: load, resize, generate, save and export it. Does not measure
its quality and does not print."""
