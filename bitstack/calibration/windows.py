"""The text of a recipe as windows: those of the calibration, of tuning and of the order.

A run reads four times as many tokens as it calibrates with. Second moments need no more; codes that
learn would know the fewer by heart, and so tuning takes its windows from all that was read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bitstack.errors import UserError
from bitstack.original.source import Source
from bitstack.original.text import Tokens, token_ids, windows
from bitstack.recipe import Recipe

TUNED = 2048  # tokens of one step of tuning
READ = 4  # times the tokens of the calibration
_KEPT = 8  # the order takes at most one in so many windows away from tuning


@dataclass(frozen=True)
class CalibrationText:
    """What was read, and its windows, int64 [count, length] each."""

    tokens: Tokens
    windows: Tensor  # of the calibration, at equal distances
    order: Tensor  # from all over the text; not tuned on, where there is enough of it
    tuning: Tensor  # likewise, mixed; no more than its steps take

    @property
    def length(self) -> int:
        return self.windows.shape[1]


def read_text(source: Source, recipe: Recipe) -> CalibrationText | None:
    """The calibration text; None for data-free. UserError for text that cannot be used, or that a
    recipe needs and does not name."""
    if recipe.calibration == "none":
        asked = [f for f in ("column_scaling",) if recipe.method == "signs" and getattr(recipe, f)]
        asked += ["order: perplexity"] if recipe.order == "perplexity" else []
        if asked:
            raise UserError(
                f"recipe {recipe.name}: calibration is none, but {' and '.join(asked)} needs text; "
                "give --calibration SOURCE, or --no-column-scaling --order loss"
            )
        return None
    readable = getattr(source.config.get_text_config(), "max_position_embeddings", None)
    length = min(recipe.seq_len, readable or recipe.seq_len)
    count = recipe.num_samples * recipe.seq_len // length  # shorter windows, but as many tokens
    tokens = token_ids(recipe.calibration, source.tokenizer(), max_tokens=READ * length * count)
    vocabulary = int(source.model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    if int(tokens.ids.max()) >= vocabulary:
        raise UserError(
            f"{source.path}: the tokenizer gives id {int(tokens.ids.max())}, but the model has "
            f"{vocabulary} embeddings: tokenizer and model do not belong together"
        )
    used = windows(tokens.ids, length, count=count, seed=recipe.seed)
    return CalibrationText(tokens, used, *_split(tokens.ids, length, recipe))


def _split(ids: Tensor, length: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Windows of the order and of tuning. Mixed, so that the windows of one step do not all speak
    of the same."""
    every = windows(ids, length, count=len(ids) // length, seed=recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    mixed = every[torch.randperm(len(every), generator=generator)]
    kept = min(recipe.order_samples, len(every) // _KEPT)
    steps = recipe.tune_steps + recipe.fine_steps
    return mixed[: recipe.order_samples], mixed[kept:][: steps * max(1, TUNED // length)]
