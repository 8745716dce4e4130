"""The faithful form against the published definition step by step, and the form by bytes."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import pico
from bitstack.errors import UserError
from bitstack.metrics.capacity.flops import token_cost
from bitstack.metrics.capacity.information_capacity import by_bytes, faithful, information_capacity

DOCUMENTS = [pico.TEXT, pico.TEXT[100:], "Ein Fluß, 河, und nicht mehr.", pico.TEXT[::-1]]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return pico.build("llama-gqa")


def published(model: PreTrainedModel, texts: list[str], length: int, bias: float) -> list[float]:
    """TS, NLL and IC as the definition reads: padded to `length`, softmax, log2, masked mean."""
    tokenizer, config = pico.tokenizer(), model.config
    sizes, entropies = [], []
    for text in texts:
        ids = tokenizer.encode(text, truncation=True, max_length=length)
        sizes.append(8 * len(tokenizer.decode(ids[1:]).encode()) / (len(ids) - 1))
        padded = torch.tensor([ids + [0] * (length - len(ids))])
        with torch.no_grad():
            logits = model(padded).logits[:, :, : len(tokenizer)]
        p = torch.softmax(logits.float(), -1)[0, :-1].gather(1, padded[0, 1:, None])
        entropies.append(-torch.log2(p).squeeze(1)[: len(ids) - 1])
    d, kv = config.hidden_size, config.num_key_value_heads * config.hidden_size // 4
    layer = 4 * d * d + 4 * d * kv + 6 * d * config.intermediate_size + 2 * d * (length - 1)
    flops = config.num_hidden_layers * layer + 2 * d * config.vocab_size
    size, nll = round(float(np.mean(sizes)), 2), float(torch.cat(entropies).double().mean())
    return [size, nll, (size - nll + bias) / math.log2(flops)]


@pytest.mark.parametrize(("length", "bias"), [(64, -27.0), (100, -18.7)])
def test_faithful_is_the_published_definition(
    model: PreTrainedModel, length: int, bias: float
) -> None:
    measured = faithful(model, pico.tokenizer(), DOCUMENTS, max_length=length, bias=bias)
    size, nll, capacity = published(model, DOCUMENTS, length, bias)
    assert measured.text_size == size
    assert measured.nll == pytest.approx(nll, abs=1e-4)
    assert measured.information_capacity == pytest.approx(capacity, abs=1e-4)
    assert measured.interval is not None
    assert measured.interval.low < measured.information_capacity < measured.interval.high


def test_json_has_the_promised_keys(model: PreTrainedModel) -> None:
    measured = faithful(model, pico.tokenizer(), DOCUMENTS, max_length=32)
    data = json.loads(json.dumps(dataclasses.asdict(measured), allow_nan=False))
    promised = {"text_size", "nll", "flops_per_token", "information_capacity", "interval"}
    assert promised <= set(data)


def test_the_length_fits_the_model(model: PreTrainedModel) -> None:
    measured = faithful(model, pico.tokenizer(), DOCUMENTS)
    assert measured.max_length == pico.POSITIONS
    assert measured == faithful(model, pico.tokenizer(), DOCUMENTS, max_length=pico.POSITIONS)
    with pytest.raises(UserError, match="longer than the 128 positions"):
        faithful(model, pico.tokenizer(), DOCUMENTS, max_length=1024)
    with pytest.raises(UserError, match="maximum length is 1"):
        faithful(model, pico.tokenizer(), DOCUMENTS, max_length=1)


def test_short_documents_are_skipped_and_counted(model: PreTrainedModel) -> None:
    measured = faithful(model, pico.tokenizer(), [pico.TEXT, "", "a"], max_length=32)
    assert (measured.documents, measured.skipped_documents, measured.interval) == (1, 2, None)
    with pytest.raises(UserError, match="text too short: 1 tokens"):
        faithful(model, pico.tokenizer(), ["", "a"])


def test_bytes_scores_the_same_bytes_with_any_cut(model: PreTrainedModel) -> None:
    whole = by_bytes(model, pico.tokenizer(), ["".join(DOCUMENTS)], max_bytes=100)
    size = len("".join(DOCUMENTS).encode())
    assert whole.documents == pytest.approx(size / 100, abs=2)
    assert whole.scored_tokens > size / 4
    assert whole.information_capacity == pytest.approx(
        (8 - whole.nll) / math.log2(whole.cost), rel=1e-9
    )


def test_bits_per_byte_of_short_passages_by_hand(model: PreTrainedModel) -> None:
    tokenizer, bits, size = pico.tokenizer(), 0.0, 0
    for text in DOCUMENTS:
        ids = [0, *tokenizer(text[:50])["input_ids"]]
        with torch.no_grad():
            p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        bits -= sum(float(p[i, token]) for i, token in enumerate(ids[1:])) / math.log(2)
        size += len(text[:50].encode())
    measured = by_bytes(model, tokenizer, [text[:50] for text in DOCUMENTS])
    assert measured.nll == pytest.approx(bits / size, rel=1e-5)


def test_the_cost_of_a_byte_is_that_of_its_tokens(model: PreTrainedModel) -> None:
    tokenizer, text = pico.tokenizer(), pico.TEXT[:90]
    tokens = len(tokenizer(text)["input_ids"])
    cost = token_cost(model, tokens=tokens + 1)
    for denominator, each in [
        ("flops", cost.flops),
        ("bytes", cost.bytes_moved),
        ("nanoseconds", 5e6),
    ]:
        measured = by_bytes(
            model, tokenizer, [text], denominator=denominator, seconds_per_token=0.005
        )
        assert measured.cost == pytest.approx(each * tokens / len(text))
        assert measured.flops_per_token == cost.flops


def test_bad_requests(model: PreTrainedModel) -> None:
    for message, options in [
        ("denominator 'joules'", {"denominator": "joules"}),
        ("measure them", {"denominator": "nanoseconds"}),
        ("not defined at 1", {"denominator": "nanoseconds", "seconds_per_token": 1e-12}),
    ]:
        with pytest.raises(UserError, match=message):
            by_bytes(model, pico.tokenizer(), DOCUMENTS, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="text too short"):
        by_bytes(model, pico.tokenizer(), [""])


def test_variants_by_name(model: PreTrainedModel) -> None:
    for variant, function in (("faithful", faithful), ("bytes", by_bytes)):
        measured = information_capacity(model, pico.tokenizer(), DOCUMENTS, variant=variant, seed=3)
        assert measured == function(model, pico.tokenizer(), DOCUMENTS, seed=3)
        assert measured.variant == variant
    with pytest.raises(UserError, match="neither 'faithful' nor 'bytes'"):
        information_capacity(model, pico.tokenizer(), DOCUMENTS, variant="best")


def test_a_trained_model_beats_an_untrained_one(shared: Path) -> None:
    folder = shared / "models/stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (shared / "text/tinystories/tinystories_val.txt").read_text()[:20_000]
    model = AutoModelForCausalLM.from_pretrained(folder)
    measured = by_bytes(model, tokenizer, [text])
    assert 0.5 < measured.nll < 1.2  # 1.33 nats a token of about 2.5 bytes
    assert measured.interval is not None
    assert measured.interval.low < measured.information_capacity < measured.interval.high
