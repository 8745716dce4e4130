"""How well a model predicts a text: perplexity, bits per byte, losses of documents and answers.
Does not run benchmarks, see `metrics.tasks`, and does not fit laws, see `metrics.density`."""
