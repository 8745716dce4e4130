"""A loaded model, packed or not, as a model of the LM Evaluation Harness.

lm-eval's own wrapper does the work; what is settled here is how it takes a model that is live
already. Tasks and scores are the business of `bitstack.metrics.tasks`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lm_eval.models.huggingface import HFLM

from bitstack.live.opening import Opened

BATCH = 16  # sequences; scores hardly depend on it


class LoadedModel(HFLM):
    """`opened` for `lm_eval.simple_evaluate(model=...)`.

    The model is used as it is, on its device, with a copy of its tokenizer, since lm-eval may add
    a padding token.
    """

    def __init__(self, opened: Opened, *, batch_size: int = BATCH) -> None:
        self._opened = opened
        with _tied_already(opened.model):
            super().__init__(
                pretrained=opened.model,
                tokenizer=copy.deepcopy(opened.tokenizer),
                backend="causal",
                batch_size=batch_size,
                softmax_dtype="float32",  # in bf16 a hundredth of all comparisons goes astray
            )

    @property
    def config(self) -> Any:
        """The model's config without its `quantization_config`, which is for loading only."""
        config = copy.copy(self._opened.model.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        return config


@contextmanager
def _tied_already(model: Any) -> Iterator[None]:
    """lm-eval ties the weights of any model again, and a packed one has no such weights."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights
