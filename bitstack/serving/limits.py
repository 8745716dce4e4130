"""Bounds what one request may take: bytes of its body, tokens of its prompt and of its answer.

Does not read the body; see `serving.gate` and `serving.bodies`.
"""

from dataclasses import dataclass
from typing import Any

from bitstack.live.generation import sampling
from bitstack.serving.asked import Asked
from bitstack.serving.refusals import Refused

MOST_BYTES = 2 << 20  # of a body: a prompt of 128k tokens with every letter escaped is half of it
MOST_WAITING = 64  # requests beyond those that compute in turn
USUAL_NEW_TOKENS = 1024  # of an answer whose client names no number


@dataclass(frozen=True)
class Limits:
    """What a model and its server allow."""

    positions: int | None  # most tokens that the model reads; None: it does not say
    max_new_tokens: int  # most tokens of an answer

    def check_prompt(self, tokens: int) -> None:
        """Raises Refused for a prompt of so many tokens if no answer fits behind it."""
        if self.positions is not None and tokens >= self.positions:
            raise Refused(
                400,
                f"prompt: its {tokens} tokens leave no room for an answer within the "
                f"{self.positions} positions of the model; shorten it",
            )

    def settle(self, asked: Asked, prompt_tokens: int, config: Any) -> None:
        """Completes the generation config of one request, in place.

        An answer ends where the model's positions end, whatever its client asked for.

        Args:
            asked: What the client asked for.
            prompt_tokens: Tokens of its prompt.
            config: What transformers made of the model's own config and of the body.

        Raises:
            Refused: The prompt has no tokens or leaves no room for an answer.
        """
        if prompt_tokens == 0:
            raise Refused(400, "prompt: holds no tokens; give at least one word")
        self.check_prompt(prompt_tokens)
        new = asked.max_new_tokens or min(USUAL_NEW_TOKENS, self.max_new_tokens)
        if self.positions is not None:
            new = min(new, self.positions - prompt_tokens)
        try:
            config.update(**asked.fields)
            if asked.temperature == 0:
                config.update(**sampling(0))
            elif asked.temperature is not None:
                config.update(do_sample=True, temperature=asked.temperature)
            config.update(max_new_tokens=new, num_beams=1, num_return_sequences=1)
        except ValueError as error:  # values that do not go together
            raise Refused(400, f"generation_config: {error}") from None
