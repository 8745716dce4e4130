"""What a model can read: tokens at once, and ids."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    PretrainedConfig,
    RobertaConfig,
)

from bitstack.errors import UserError
from bitstack.original.model_limits import check_ids, positions

SMALL = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 12, "is_decoder": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (RobertaConfig(**SMALL, pad_token_id=1), 10),
        (BertConfig(**SMALL), 12),
        (LlamaConfig(**{**SMALL, "pad_token_id": 0}), 12),
        (OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16), 12),
    ],
)
def test_a_text_of_all_positions_runs(config: PretrainedConfig, limit: int) -> None:
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    assert positions(model) == limit
    assert model(torch.full((1, limit), 5)).logits.shape == (1, limit, 32)


def test_a_model_without_positions() -> None:
    assert positions(nn.Linear(2, 2)) is None
    with torch.device("meta"):
        config = MambaConfig(num_hidden_layers=1)
        assert positions(AutoModelForCausalLM.from_config(config)) is None


def test_ids_without_an_embedding_are_refused() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL))
    check_ids(model, 31)
    with pytest.raises(UserError, match=r"my-model: .* id 32, but the model has 32 embeddings"):
        check_ids(model, 32, "my-model")
    check_ids(nn.Linear(2, 2), 10**9)  # it does not say
