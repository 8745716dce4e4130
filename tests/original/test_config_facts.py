"""A config tells its sizes under whatever names it has for them."""

import pytest
from transformers import (
    FalconConfig,
    Gemma3Config,
    Gemma3nTextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    PretrainedConfig,
)

from bitstack.errors import UserError
from bitstack.original.config_facts import inner_width, positions, width


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            LlamaConfig(max_position_embeddings=7, intermediate_size=12),
            (7, 4096, 12),
        ),
        (GPT2Config(n_positions=77, n_embd=24, n_inner=40), (77, 24, 40)),
        (MptConfig(max_seq_len=77, d_model=24), (77, 24, None)),
        (MambaConfig(hidden_size=24), (None, 24, 48)),
        (FalconConfig(hidden_size=142, ffn_hidden_size=50), (2048, 142, 50)),
        (
            Gemma3Config(text_config={"hidden_size": 24, "intermediate_size": 40}),
            (131072, 24, 40),
        ),
        (
            Gemma3nTextConfig(num_hidden_layers=20, intermediate_size=[40] * 19 + [48]),
            (32768, 2048, 48),
        ),
    ],
)
def test_sizes(config: PretrainedConfig, expected: tuple[int | None, int, int | None]) -> None:
    assert (positions(config), width(config), inner_width(config)) == expected


def test_a_config_without_a_width_is_refused() -> None:
    with pytest.raises(UserError, match="says no width of the hidden state"):
        width(PretrainedConfig())
