"""Loss by whole windows, and the density that a law gives it."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pico
from bitstack.errors import UserError
from bitstack.live.opening import open_model
from bitstack.metrics.density.capacity_density import density_of_loss
from bitstack.metrics.density.law import Protocol
from bitstack.metrics.density.law_file import classics_law, pythia_law
from bitstack.metrics.density.measured import law_density, windowed_loss
from bitstack.metrics.loss.documents import fingerprint
from bitstack.metrics.statistics.bootstrap import standard_error

DOCUMENTS = [pico.TEXT, pico.TEXT[40:], "short"]


def test_windows_by_hand() -> None:
    model, tokenizer, window = pico.build("llama-gqa"), pico.tokenizer(), 50
    losses = []
    for text in DOCUMENTS:
        ids = tokenizer(text)["input_ids"]
        for first in range(0, len(ids) - window + 1, window):
            piece = torch.tensor([ids[first : first + window]])
            with torch.no_grad():
                losses.append(float(model(input_ids=piece, labels=piece).loss))
    result = windowed_loss(model, tokenizer, DOCUMENTS, window)
    assert result.windows == len(losses) > 4
    assert result.nats == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert result.interval is not None
    assert result.interval.low <= result.nats <= result.interval.high


def test_one_document_has_no_interval_and_a_short_one_no_window() -> None:
    model, tokenizer = pico.build("llama-gqa"), pico.tokenizer()
    result = windowed_loss(model, tokenizer, [pico.TEXT], 50)
    assert result.interval is None
    with pytest.raises(UserError, match="no document has 50 tokens"):
        windowed_loss(model, tokenizer, ["short"], 50)


def test_a_model_is_scored_like_the_series(pico_model: Callable[..., Path]) -> None:
    opened = open_model(pico_model("llama-gqa"))
    protocol = Protocol("text", "pairs", window=50, tokenizer=fingerprint(opened.tokenizer))
    law = replace(classics_law(), protocol=protocol)
    density = law_density(opened, law, DOCUMENTS)
    loss = windowed_loss(opened.model, opened.tokenizer, DOCUMENTS, 50)
    assert density == density_of_loss(
        law,
        loss=loss.nats,
        loss_error=standard_error(loss.interval),
        parameters=opened.model.num_parameters(),
        stored_bytes=opened.resident_bytes,
    )
    assert density.byte_density is not None
    assert math.isfinite(density.byte_density)


def test_another_tokenizer_has_no_density(pico_model: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="tokens of another tokenizer"):
        law_density(open_model(pico_model("llama-gqa")), classics_law(), DOCUMENTS)


def test_a_law_of_answers_takes_no_text(pico_model: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="losses of answers"):
        law_density(open_model(pico_model("llama-gqa")), pythia_law(), DOCUMENTS)
