"""Wraps a loaded model, dense or packed, as a model of the LM Evaluation Harness (lm-eval).

lm-eval's own wrapper computes the likelihoods; this one makes it accept a model that is
already loaded. Does not run tasks; see `metrics.tasks.runner`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lm_eval.models.huggingface import HFLM

from bitstack.live.opening import Opened

BATCH = 16  # sequences; padding changes scores by rounding only


class LoadedModel(HFLM):
    """An opened model for `lm_eval.evaluator.evaluate(lm=...)`, used in place on its device.

    Its tokenizer is copied, since lm-eval may add a padding token.
    """

    def __init__(self, opened: Opened, *, batch_size: int = BATCH) -> None:
        self._opened = opened
        with _tied_already(opened.model):
            super().__init__(
                pretrained=opened.model,
                tokenizer=copy.deepcopy(opened.tokenizer),
                backend="causal",
                batch_size=batch_size,
                softmax_dtype="float32",  # in bf16 rounding turns about 1% of the comparisons
            )

    @property
    def config(self) -> Any:
        """The model's config without `quantization_config`, which matters for loading only."""
        config = copy.copy(self._opened.model.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        return config


@contextmanager
def _tied_already(model: Any) -> Iterator[None]:
    """Keeps lm-eval from tying the weights again: a packed model has no weights to tie."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights
