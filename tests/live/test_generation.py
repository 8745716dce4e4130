"""A prompt is continued as the options say, whatever the model's own generation config says.

Greedy text, seeds and refused options are tested in `tests/metrics/loss/test_evaluation.py`.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers.generation.streamers import BaseStreamer

import pico
from bitstack.live.generation import generate
from bitstack.live.opening import Opened, open_model


@pytest.fixture
def opened(stacked: Callable[..., Path]) -> Opened:
    return open_model(stacked("llama-gqa", calibration="none"), level=4, device="cpu")


class Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.ids += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def test_a_streamer_gets_prompt_and_continuation(opened: Opened) -> None:
    recorder = Recorder()
    text = generate(opened, "The river", max_new_tokens=9, streamer=recorder)
    prompt = opened.tokenizer("The river")["input_ids"]
    assert recorder.ids[: len(prompt)] == prompt
    assert opened.tokenizer.decode(recorder.ids[len(prompt) :], skip_special_tokens=True) == text
    assert recorder.ended


def test_the_models_own_generation_config_does_not_count(opened: Opened) -> None:
    greedy = generate(opened, "The river", max_new_tokens=9)
    sampled = generate(opened, "The river", max_new_tokens=9, temperature=2.0, seed=3)
    config = opened.model.generation_config
    config.do_sample, config.temperature, config.top_k, config.top_p = True, 0.7, 1, 0.1
    assert generate(opened, "The river", max_new_tokens=9) == greedy
    assert generate(opened, "The river", max_new_tokens=9, temperature=2.0, seed=3) == sampled
    assert sampled != greedy  # top_k of 1 would make them equal


def test_an_end_that_the_tokenizer_appends_is_no_part_of_the_prompt(opened: Opened) -> None:
    expected = generate(opened, "The river", max_new_tokens=9)
    ending = copy.deepcopy(pico.tokenizer())
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {pico.END}", special_tokens=[(pico.END, 0)]
    )
    assert ending("The river")["input_ids"][-1] == ending.eos_token_id
    other = replace(opened, tokenizer=ending)
    assert generate(other, "The river", max_new_tokens=9) == expected
    recorder = Recorder()  # an end that the user wrote stays
    generate(other, f"The river{pico.END}", max_new_tokens=1, streamer=recorder)
    assert recorder.ids.count(0) >= 1


@pytest.mark.parametrize("end", [None, 0, [5, 0]])
def test_without_a_padding_token(opened: Opened, end: int | list[int] | None) -> None:
    """The end token, or any, takes its place: nothing is padded, and nothing is warned of."""
    opened.tokenizer.pad_token_id = None
    opened.model.generation_config.pad_token_id = None
    opened.model.generation_config.eos_token_id = end
    assert isinstance(generate(opened, pico.TEXT[:20], max_new_tokens=3), str)
