"""Holds a conversation with an opened model: messages, answers, and the cache between them.

Does not write messages as tokens, see `live.chat_template`, or read a keyboard, see
`commands.chat`.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from bitstack.errors import UserError
from bitstack.live.chat_template import Message, chat_ids
from bitstack.live.generation import padding_id, sampling
from bitstack.live.opening import Opened
from bitstack.original.model_limits import positions


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    text: str
    tokens: int
    seconds: float
    stopped: bool  # by `Conversation.stop`
    forgotten: int  # oldest messages that were dropped to make room


class _Stop(StoppingCriteria):
    """Ends an answer after the token at which it was asked to."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Any:
        return torch.full((len(input_ids),), self.asked, device=input_ids.device)


class Conversation:
    """A chat with one model. The template decides which roles there are."""

    def __init__(
        self, opened: Opened, *, system: str | None = None, max_new_tokens: int = 512,
        temperature: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        """Opens a conversation.

        Args:
            opened: A model of `live.opening.open_model`.
            system: A first message that tells the model how to answer; None for the template's own.
            max_new_tokens: Most tokens of an answer.
            temperature: 0 for the likeliest tokens; above, tokens are drawn.
            seed: Seed of the draws of the first answer; every answer takes the next one.

        Raises:
            UserError: The model has no chat template, or its template takes no system message.
        """
        self.opened, self.max_new_tokens = opened, max_new_tokens
        self._sampling, self._seed = sampling(temperature), seed
        self._first: list[Message] = [] if system is None else [_message("system", system)]
        self.messages: list[Message] = []  # of user and assistant, in turn
        self._seen: Tensor | None = None  # ids in the cache, and the last token
        self._cache: Any = None
        self._stop = _Stop()
        chat_ids(opened.tokenizer, [*self._first, _message("user", "Hi")])  # says early what fails

    def clear(self) -> None:
        """Forgets all messages."""
        self.messages.clear()
        self.forget_cache()

    def forget_cache(self) -> None:
        """Drops what was computed of the messages, as it must be when the model has changed."""
        self._seen = self._cache = None

    def stop(self) -> None:
        """Ends the answer that another thread or a signal handler interrupts, after its token."""
        self._stop.asked = True

    def reply(self, text: str, streamer: Any = None) -> Answer:
        """Sends a message and returns the answer; both become part of the conversation.

        Where the model has too few positions for all messages, the oldest are forgotten.

        Args:
            text: What the user says.
            streamer: A transformers streamer, which gets the ids as they come.

        Raises:
            UserError: The message alone is longer than the model's positions.
        """
        asked = _message("user", text)
        ids, forgotten = self._fitting(asked)
        self._stop.asked, start = False, time.perf_counter()
        new = self._generate(ids, streamer)
        answer = str(self.opened.tokenizer.decode(new, skip_special_tokens=True))
        self.messages += [asked, _message("assistant", answer)]
        seconds = time.perf_counter() - start
        return Answer(answer, len(new), seconds, self._stop.asked, forgotten)

    def _fitting(self, asked: Message) -> tuple[Tensor, int]:
        """The ids of the chat with a new message, and how many old messages had to go."""
        most = positions(self.opened.model)
        forgotten = 0
        while True:
            chat = [*self._first, *self.messages[forgotten:], asked]
            ids = chat_ids(self.opened.tokenizer, chat)
            if not most or ids.shape[1] + self.max_new_tokens <= most:
                del self.messages[:forgotten]
                return ids, forgotten
            if forgotten >= len(self.messages):
                raise UserError(
                    f"message: its {ids.shape[1]} tokens and an answer of {self.max_new_tokens} "
                    f"are more than the {most} positions of the model; write less or lower "
                    "--max-new-tokens"
                )
            forgotten += 2

    def _generate(self, ids: Tensor, streamer: Any) -> Tensor:
        """Returns the new ids [tokens]; keeps the cache, which the next answer may go on from."""
        model = self.opened.model
        ids = ids.to(model.device)
        cache, self._cache = self._cache_for(ids), None  # an error must not leave half of one
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(self._seed)
            self._seed += 1
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), **self._sampling,
                max_new_tokens=self.max_new_tokens, streamer=streamer, past_key_values=cache,
                stopping_criteria=StoppingCriteriaList([self._stop]),
                pad_token_id=padding_id(self.opened), return_dict_in_generate=True,
            )  # fmt: skip
        self._seen, self._cache = output.sequences, output.past_key_values
        return output.sequences[0, ids.shape[1] :]

    def _cache_for(self, ids: Tensor) -> Any:
        """The cache of the last answer, if the chat begins with exactly the same ids."""
        if self._cache is None or self._seen is None:
            return None
        length = self._seen.shape[1]
        same = length < ids.shape[1] and torch.equal(ids[:, :length], self._seen)
        return self._cache if same else None


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
