"""Seconds that one generated token takes, measured on the machine at hand.

Greedy steps of one sequence with a KV cache, which is what a user waits for. Figures of different
runs compare only on the same machine with the same threads and load: compare ratios within one run.
"""

import statistics
import time

import torch
from transformers import PreTrainedModel

from bitstack.errors import UserError


@torch.inference_mode()
def seconds_per_token(model: PreTrainedModel, *, tokens: int = 32, context: int = 16) -> float:
    """Median time, in seconds, of `tokens` single-token steps after a prompt of `context` tokens.

    The prompt is arbitrary: no dense model's speed depends on it. Raises UserError if either
    number is below 1.
    """
    if tokens < 1 or context < 1:
        raise UserError(f"tokens {tokens}, context {context}: both must be at least 1")
    was_training = model.training
    model.eval()
    ids = torch.arange(1, context + 1, device=model.device)[None] % model.config.vocab_size
    output = model(input_ids=ids, use_cache=True)
    times = []
    for _ in range(tokens + 1):  # the first step warms up
        token = output.logits[:, -1:].argmax(-1)
        start = time.perf_counter()
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        times.append(time.perf_counter() - start)
    model.train(was_training)
    return statistics.median(times[1:])
