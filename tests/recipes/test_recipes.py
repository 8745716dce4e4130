import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitstack import recipes
from bitstack.errors import UserError
from bitstack.metrics.loss.perplexity import perplexity
from bitstack.original.text import token_ids


def test_recipes_are_found_by_name() -> None:
    assert recipes.names() == sorted(recipes.names())
    for name in recipes.names():
        assert recipes.named(name).is_file()
    for name in ("../pyproject", "default.yaml", ""):
        with pytest.raises(UserError, match="is unknown; shipped are"):
            recipes.named(name)


def paragraphs(path: Path) -> set[str]:
    return {part for part in path.read_text("utf-8").split("\n\n") if len(part) > 40}


def test_the_texts_share_nothing() -> None:
    texts = recipes.calibration_text(), recipes.held_out_text()
    assert all(240_000 < path.stat().st_size < 270_000 for path in texts)
    assert not paragraphs(texts[0]) & paragraphs(texts[1])


def test_the_demo_model_reads_english() -> None:
    model = AutoModelForCausalLM.from_pretrained(recipes.demo_model())
    trained = json.loads((recipes.demo_model() / "train.json").read_text())
    assert model.num_parameters() == trained["params"] == 5_475_584
    tokenizer = AutoTokenizer.from_pretrained(recipes.demo_model())
    tokens = token_ids(str(recipes.held_out_text()), tokenizer, max_tokens=4096)
    assert perplexity(model, tokens, window=256).nll_per_token < 4.2
