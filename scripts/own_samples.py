"""Writes text that a model gives by itself, to calibrate it with.

Used by `bench_calibration_text.py`. Samples are drawn at temperature 1 from all tokens, so that
they follow the model's own distribution. Does not compress; see `peers.containers`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peers.bench import Bench
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig

BATCH, LENGTH = 8, 1024  # samples drawn at a time; tokens of a sample, at most


def write_samples(bench: Bench, tokens: int, *, seed: int) -> Path:
    """Returns a .jsonl file with at least `tokens` sampled tokens, a document for each sample.

    It is written unless an earlier run wrote it.
    """
    task = bench.task
    file = bench.work / f"own-{task.model}-{task.weights}-{tokens}-{seed}.jsonl"
    if not file.exists():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            texts = _sample(bench.model, bench.tokenizer, tokens)
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def _sample(model: Any, tokenizer: Any, tokens: int) -> list[str]:
    length = min(LENGTH, getattr(model.config.get_text_config(), "max_position_embeddings", LENGTH))
    texts: list[str] = []
    with tqdm(total=tokens, desc="sample") as bar:
        while bar.n < tokens:
            starts, settings = _starts(model, tokenizer), _settings(model, length)
            for ids in model.generate(starts, generation_config=settings):
                texts.append(tokenizer.decode(ids, skip_special_tokens=True))
                # As the run will count it; one at least, so that the loop ends.
                bar.update(max(1, len(tokenizer(texts[-1], verbose=False)["input_ids"])))
    return texts


def _starts(model: Any, tokenizer: Any) -> Tensor:
    """Returns the first token of every sample [BATCH, 1]: the mark of a beginning, or any token."""
    if tokenizer.bos_token_id is not None:
        return torch.full((BATCH, 1), tokenizer.bos_token_id)
    return torch.randint(min(len(tokenizer), model.config.get_text_config().vocab_size), (BATCH, 1))


def _settings(model: Any, length: int) -> GenerationConfig:
    """Returns settings without those of the model folder, which may cut off unlikely tokens."""
    end = model.generation_config.eos_token_id
    return GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_length=length,
        eos_token_id=end, pad_token_id=end[0] if isinstance(end, list) else end,
    )  # fmt: skip
