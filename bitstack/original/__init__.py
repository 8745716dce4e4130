"""Knows a Hugging Face model folder: its config, weights, tokenizer and texts, here or on the Hub.
Does not know blocks, levels or how a model is compressed."""
