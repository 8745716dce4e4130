"""Gaps by hand, token by token, and what cannot be compared."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

import pico
from bitstack.errors import UserError
from bitstack.live.loading import load
from bitstack.metrics.gap.capacity_gap import capacity_gap
from bitstack.metrics.loss.documents import check_tokenizers

DOCUMENTS = [pico.TEXT, pico.TEXT[50:120], "", "x", "Seven boats, eight boats."]
WINDOW = 24


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    return pico.build("llama-gqa"), pico.build("qwen2", seed=1)


def tokens_by_hand(teacher: PreTrainedModel, student: PreTrainedModel) -> list[dict[str, float]]:
    rows = []
    for text in DOCUMENTS:
        ids = pico.tokenizer()(text)["input_ids"]
        for first in range(0, len(ids), WINDOW):
            piece = ids[first : first + WINDOW]
            if len(piece) < 2:
                continue
            with torch.no_grad():
                t, s = (
                    m(torch.tensor([piece])).logits[0].double().log_softmax(-1)
                    for m in (teacher, student)
                )
            for i in range(1, len(piece)):
                p, q = t[i - 1], s[i - 1]
                rows.append(
                    {
                        "kl": float((p.exp() * (p - q)).sum()),
                        "loss_gap": float(p[piece[i]] - q[piece[i]]),
                        "agreement": float(p.argmax() == q.argmax()),
                        "position": i,
                        "token": piece[i],
                    }
                )
    return rows


def mean(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def test_whole_and_parts_by_hand(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    rows = tokens_by_hand(*models)
    gap = capacity_gap(*models, pico.tokenizer(), DOCUMENTS, window=WINDOW)
    assert gap.whole.tokens == len(rows)
    assert gap.unit == "document"
    for name in ("kl", "loss_gap", "agreement"):
        assert getattr(gap.whole, name) == pytest.approx(mean(rows, name), abs=1e-5)
    early = [row for row in rows if 4 <= row["position"] < 8]
    assert gap.by_position["4-7"].tokens == len(early)
    assert gap.by_position["4-7"].kl == pytest.approx(mean(early, "kl"), abs=1e-5)
    counts = [sum(r["token"] == row["token"] for r in rows) for row in rows]
    rare = [row for row, count in zip(rows, counts, strict=True) if count < 10]
    assert gap.by_frequency["1-9"].loss_gap == pytest.approx(mean(rare, "loss_gap"), abs=1e-5)
    for parts in (gap.by_position, gap.by_frequency):
        assert sum(part.tokens for part in parts.values()) == len(rows)


def test_a_model_has_no_gap_to_itself(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    gap = capacity_gap(models[0], models[0], pico.tokenizer(), DOCUMENTS, window=WINDOW)
    assert gap.whole.kl == pytest.approx(0, abs=1e-7)
    assert (gap.whole.loss_gap, gap.whole.agreement) == (0, 1)


def test_one_document_is_drawn_by_its_windows(
    models: tuple[PreTrainedModel, PreTrainedModel],
) -> None:
    gap = capacity_gap(*models, pico.tokenizer(), [pico.TEXT], window=WINDOW)
    assert gap.unit == "window"
    interval = gap.whole.intervals["kl"]
    assert interval is not None
    assert interval.low < gap.whole.kl < interval.high
    json.dumps(dataclasses.asdict(gap), allow_nan=False)


def test_a_packed_student_comes_closer_with_its_level(stacked: Callable[..., Path]) -> None:
    folder = stacked("llama-tied")
    teacher = pico.build("llama-tied")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    gaps = [
        capacity_gap(teacher, load(folder, level=level), tokenizer, [pico.TEXT]).whole.kl
        for level in (1, 4)
    ]
    assert gaps[1] < gaps[0] / 2


def test_another_tokenizer_is_refused() -> None:
    other = pico.tokenizer().train_new_from_iterator(["zzz zz zzz zz"], 300)
    with pytest.raises(UserError, match="307 tokens in the teacher's"):
        check_tokenizers(pico.tokenizer(), other, DOCUMENTS)


def test_the_same_vocabulary_with_other_rules_is_refused(tmp_path: Path) -> None:
    pico.tokenizer().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["model"]["merges"] = data["model"]["merges"][:5]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    other = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="other tokens for the same text"):
        check_tokenizers(pico.tokenizer(), other, DOCUMENTS)
    check_tokenizers(pico.tokenizer(), other, ["."])


@pytest.mark.parametrize("documents", [[], [""], ["x"]])
def test_a_text_of_one_token(
    models: tuple[PreTrainedModel, PreTrainedModel], documents: list[str]
) -> None:
    with pytest.raises(UserError, match="text too short"):
        capacity_gap(*models, pico.tokenizer(), documents)


@pytest.mark.parametrize("window", [1, pico.POSITIONS + 1])
def test_windows_are_checked(models: tuple[PreTrainedModel, PreTrainedModel], window: int) -> None:
    with pytest.raises(UserError, match=f"window is {window} tokens; it must be from 2 to 128"):
        capacity_gap(*models, pico.tokenizer(), DOCUMENTS, window=window)


def test_a_model_of_infinities_is_refused(
    models: tuple[PreTrainedModel, PreTrainedModel],
) -> None:
    broken = pico.build("llama-gqa")
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        capacity_gap(models[0], broken, pico.tokenizer(), DOCUMENTS)


class Banned(torch.nn.Module):
    """A model that never says some tokens."""

    def __init__(self, model: PreTrainedModel, tokens: list[int]) -> None:
        super().__init__()
        self.model, self.tokens, self.config = model, tokens, model.config

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        logits = self.model(input_ids).logits.clone()
        logits[..., self.tokens] = -math.inf
        return SimpleNamespace(logits=logits)


def test_impossible_tokens(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    used = set(pico.tokenizer()(pico.TEXT)["input_ids"])
    never = [token for token in range(pico.VOCABULARY) if token not in used]
    teacher, student = (Banned(model, never) for model in models)
    gap = capacity_gap(teacher, student, pico.tokenizer(), [pico.TEXT])  # type: ignore[arg-type]
    assert 0 < gap.whole.kl < 20  # both rule them out: no NaN, no difference
    with pytest.raises(UserError, match="not finite"):  # the teacher expects what cannot be
        capacity_gap(models[0], student, pico.tokenizer(), [pico.TEXT])  # type: ignore[arg-type]
