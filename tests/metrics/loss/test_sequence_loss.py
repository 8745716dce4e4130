"""Sums of losses against one text at a time, whatever shares a batch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

import pico
from bitstack.errors import UserError
from bitstack.metrics.loss.sequence_loss import sequence_losses


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return pico.build("mistral")


def by_hand(model: PreTrainedModel, ids: list[int], prompt: int, vocabulary: int) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :, :vocabulary].double()
    return sum(float(-F.log_softmax(logits[i - 1], 0)[ids[i]]) for i in range(prompt, len(ids)))


texts = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=40), min_size=1, max_size=7)


@settings(max_examples=15, deadline=None)
@given(texts, st.integers(1, 5), st.sampled_from([16, 64, 4096]), st.sampled_from([100, 307]))
def test_sums_are_those_of_single_texts(
    sequences: list[list[int]], prompt: int, batch_tokens: int, vocabulary: int
) -> None:
    model = pico.build("mistral")
    prompts = [min(prompt, len(ids)) for ids in sequences]
    losses = sequence_losses(
        model, sequences, prompts=prompts, vocabulary=vocabulary, batch_tokens=batch_tokens
    )
    for i, (ids, p) in enumerate(zip(sequences, prompts, strict=True)):
        assert losses.tokens[i] == len(ids) - p
        assert losses.nats[i] == pytest.approx(by_hand(model, ids, p, vocabulary), rel=1e-4)


def test_nothing_to_score_is_zero(model: PreTrainedModel) -> None:
    losses = sequence_losses(model, [[5], [5, 6]])
    assert losses.tokens.tolist() == [0, 1]
    assert losses.nats[0] == 0 < losses.nats[1]


def test_training_mode_is_given_back(model: PreTrainedModel) -> None:
    model.train()
    sequence_losses(model, [[1, 2, 3]])
    assert model.training
    model.eval()


def test_a_text_longer_than_the_positions_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="129 tokens is longer than the 128 positions"):
        sequence_losses(model, [[1] * 129])


def test_an_id_without_an_embedding_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="gives id 307, but the model has 307 embeddings"):
        sequence_losses(model, [[1, 2], [3, 307]])
