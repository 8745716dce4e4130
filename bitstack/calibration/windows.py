"""Splits the text of a recipe into windows: for the calibration, for tuning and for the order.

A run reads four times as many tokens as it calibrates with. More would not change the second
moments; but codes that are tuned on few tokens learn them by heart, so tuning takes its windows
from everything that was read. Does not read files or tokenize; see `original.text`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitstack import recipes
from bitstack.errors import UserError
from bitstack.original.model_limits import check_ids, positions
from bitstack.original.source import Source
from bitstack.original.text import Tokens, token_ids, windows
from bitstack.recipe import GENERAL, NO_TEXT, Recipe

TUNING_TOKENS = 2048  # tokens of one tuning step
READ_FACTOR = 4  # tokens read for each token of the calibration
_ORDER_SHARE = 8  # the order takes at most one window in so many away from tuning


@dataclass(frozen=True)
class CalibrationText:
    """The tokens that were read, and three selections of their windows, int64 [count, length]."""

    tokens: Tokens
    windows: Tensor  # for the calibration, at equal distances in the text
    order_windows: Tensor  # for the order, from all over the text; not tuned on in a long text
    tuning_windows: Tensor  # for tuning, shuffled; no more than its steps take

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.windows.shape[1]


def read_text(source: Source, recipe: Recipe) -> CalibrationText | None:
    """Reads the calibration text of a recipe; returns None if its `calibration` is none.

    Of a text that is shorter than the recipe wants, all windows are taken.

    Raises:
        UserError: for text that cannot be used, a model folder without tokenizer, or a recipe that
            needs text where `calibration` is none.
    """
    if recipe.calibration == NO_TEXT:
        needs_text = [
            f for f in ("column_scaling",) if recipe.method == "signs" and getattr(recipe, f)
        ]
        needs_text += ["order: perplexity"] if recipe.order == "perplexity" else []
        if needs_text:
            raise UserError(
                f"recipe {recipe.name}: calibration is none, but {' and '.join(needs_text)} needs "
                "text; give --calibration SOURCE, or --no-column-scaling --order loss"
            )
        return None
    length = min(recipe.seq_len, positions(source.model) or recipe.seq_len)
    count = recipe.num_samples * recipe.seq_len // length  # shorter windows, but as many tokens
    max_tokens = READ_FACTOR * length * count
    tokens = token_ids(_source_of(recipe), _tokenizer(source), max_tokens=max_tokens)
    check_ids(source.model, int(tokens.ids.max()), str(source.path))
    chosen = windows(tokens.ids, length, count=count, seed=recipe.seed, start=tokens.start)
    return CalibrationText(tokens, chosen, *_split(tokens, length, recipe))


def _source_of(recipe: Recipe) -> str:
    """Returns the source of the recipe's text, as `original.text` takes it."""
    general = recipe.calibration == GENERAL
    return str(recipes.general_text()) if general else recipe.calibration


def _tokenizer(source: Source) -> Any:
    """Returns the model's tokenizer. Raises UserError, which names the way without one."""
    try:
        return source.tokenizer()
    except UserError as error:
        raise UserError(
            f"{error}; a calibration text needs one: add its files to the folder, or give "
            "--calibration none"
        ) from None


def _split(tokens: Tokens, length: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Windows of the order and of tuning, shuffled: one tuning step should see many subjects."""
    count = len(tokens.ids) // length
    every = windows(tokens.ids, length, count=count, seed=recipe.seed, start=tokens.start)
    generator = torch.Generator().manual_seed(recipe.seed)
    mixed = every[torch.randperm(len(every), generator=generator)]
    kept = min(recipe.order_samples, len(every) // _ORDER_SHARE)
    steps = recipe.tune_steps + recipe.fine_steps
    most = steps * max(1, TUNING_TOKENS // length)
    return mixed[: recipe.order_samples], mixed[kept:][:most]
