"""Tokens of prompts and answers are bounded, and what was asked gets into the config."""

import pytest
from transformers import GenerationConfig

from bitstack.serving.asked import Asked
from bitstack.serving.limits import Limits
from bitstack.serving.refusals import Refused


def settled(
    asked: Asked, tokens: int = 10, *, positions: int | None = 128, most: int = 4096
) -> GenerationConfig:
    config = GenerationConfig(do_sample=True, temperature=0.6, top_k=20, num_beams=4)
    Limits(positions, most).settle(asked, tokens, config)
    return config


def test_how_long_an_answer_may_be() -> None:
    assert settled(Asked(max_new_tokens=5)).max_new_tokens == 5
    assert settled(Asked()).max_new_tokens == 118
    assert settled(Asked(max_new_tokens=500)).max_new_tokens == 118
    assert settled(Asked(), positions=None).max_new_tokens == 1024
    assert settled(Asked(), positions=None, most=50).max_new_tokens == 50
    assert settled(Asked(), 127).max_new_tokens == 1


def test_a_prompt_without_room() -> None:
    for tokens in (128, 5000):
        with pytest.raises(Refused, match=f"its {tokens} tokens leave no room .* 128 positions"):
            settled(Asked(), tokens)
    with pytest.raises(Refused, match="no tokens"):
        settled(Asked(), 0)


def test_how_tokens_are_chosen() -> None:
    assert settled(Asked()).temperature == 0.6  # the model's own
    greedy = settled(Asked(temperature=0))
    assert (greedy.do_sample, greedy.temperature, greedy.top_k) == (False, None, None)
    assert settled(Asked(temperature=1.5)).temperature == 1.5
    config = GenerationConfig(do_sample=False)
    Limits(128, 64).settle(Asked(temperature=0.7), 5, config)
    assert config.do_sample
    assert settled(Asked(fields={"top_k": 3, "min_p": 0.1})).top_k == 3


def test_one_answer_of_one_beam() -> None:
    assert (settled(Asked()).num_beams, settled(Asked()).num_return_sequences) == (1, 1)
