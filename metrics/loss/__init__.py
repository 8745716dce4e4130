"""How well a model predicts a text: perplexity, bits per byte, losses of documents and answers.
Does not know benchmarks, laws or budgets."""
