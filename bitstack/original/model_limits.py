"""Tells what a model can read: how many tokens at once, and which ids have an embedding.

Does not read the config's many names; see `original.config_facts`.
"""

from typing import Any

from torch import nn

from bitstack.errors import UserError
from bitstack.original import config_facts


def positions(model: nn.Module) -> int | None:
    """Returns the most tokens that `model` reads at once; None if it does not say.

    A learned table of positions with a padding id begins behind that id, so such a model (RoBERTa)
    reads fewer tokens than the table has rows.
    """
    config: Any = getattr(model, "config", None)
    limit = None if config is None else config_facts.positions(config)
    tokens = getattr(model, "get_input_embeddings", lambda: None)()
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens)
    for table in tables:
        if table.num_embeddings == limit and table.padding_idx is not None:
            return limit - table.padding_idx - 1
    return limit


def check_ids(model: Any, highest: int, name: str = "the model") -> None:
    """Checks that the model has an embedding for every token id up to `highest`.

    Args:
        model: A causal language model; the meta device will do.
        highest: The highest id that the tokenizer gave.
        name: What the error calls the model.

    Raises:
        UserError: The id is beyond the model's embeddings.
    """
    find = getattr(model, "get_input_embeddings", None)
    if find is not None and highest >= (count := int(find().num_embeddings)):
        raise UserError(
            f"{name}: the tokenizer gives id {highest}, but the model has {count} embeddings: "
            "tokenizer and model do not belong together"
        )
