"""Measures the seconds that one generated token takes on this machine.

Times greedy steps of one sequence with a KV cache, which is what a user waits for. The
figures depend on the machine, its threads and its load: compare ratios within one run. Does not
time the prompt.
"""

import statistics
import time

import torch
from transformers import PreTrainedModel

from bitstack.errors import UserError
from bitstack.original.config_facts import text_config


@torch.inference_mode()
def seconds_per_token(model: PreTrainedModel, *, tokens: int = 32, context: int = 16) -> float:
    """Returns the median seconds of a single-token step.

    The prompt is arbitrary; only its length matters for the speed of a dense model.

    Args:
        model: A causal language model with a KV cache.
        tokens: Steps to time, after one to warm up.
        context: Tokens of the prompt.

    Raises:
        UserError: `tokens` or `context` is below 1.
    """
    if tokens < 1 or context < 1:
        raise UserError(f"tokens {tokens}, context {context}: both must be at least 1")
    was_training = model.training
    model.eval()
    ids = (
        torch.arange(1, context + 1, device=model.device)[None]
        % text_config(model.config).vocab_size
    )
    output = model(input_ids=ids, use_cache=True)
    times = []
    for _ in range(tokens + 1):  # the first step warms up
        token = output.logits[:, -1:].argmax(-1)
        start = time.perf_counter()
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)  # kernels run on after the call returns
        times.append(time.perf_counter() - start)
    model.train(was_training)
    return statistics.median(times[1:])
