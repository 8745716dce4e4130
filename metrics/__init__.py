"""The evaluators: what a model is worth for its size. They measure live models and never change
them."""
