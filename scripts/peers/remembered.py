"""A model that remembers its logits, so that the same ids are run through it once.

The original is compared with every row; a short text gives a row's loss and its KL from one pass.
Does not measure anything; see `peers.bench`.
"""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput


class Remembered(nn.Module):
    """Stands in for `model`, which must not change while this one is used."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self._logits: dict[tuple[tuple[int, ...], bytes], Tensor] = {}
        self.train(model.training)

    def forward(self, input_ids: Tensor) -> CausalLMOutput:
        """Returns the logits [b, t, vocabulary] of `input_ids` [b, t]."""
        key = tuple(input_ids.shape), input_ids.cpu().numpy().tobytes()
        if key not in self._logits:
            self._logits[key] = self.model(input_ids=input_ids, use_cache=False).logits
        return CausalLMOutput(logits=self._logits[key])

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.model.get_input_embeddings()
        return embeddings
