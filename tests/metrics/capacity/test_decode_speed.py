"""Seconds of a step, with a model that takes a known time."""

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import pico
from bitstack.errors import UserError
from bitstack.metrics.capacity.decode_speed import seconds_per_token


class Slow(nn.Module):
    """Takes 5 ms a step, and counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.device = SimpleNamespace(vocab_size=9), torch.device("cpu")
        self.lengths: list[int] = []

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        self.lengths.append(input_ids.shape[1])
        time.sleep(0.005)
        return SimpleNamespace(logits=torch.zeros(1, 1, 9), past_key_values=None)


def test_the_time_of_one_step_is_measured() -> None:
    model = Slow()
    assert 0.005 <= seconds_per_token(model, tokens=5, context=7) < 0.05  # type: ignore[arg-type]
    assert model.lengths == [7, *[1] * 6]


def test_a_model_keeps_its_mode() -> None:
    model = pico.build("llama-gqa").train()
    assert seconds_per_token(model, tokens=2) > 0
    assert model.training


def test_numbers_are_checked() -> None:
    with pytest.raises(UserError, match="tokens 0"):
        seconds_per_token(pico.build("llama-gqa"), tokens=0)
