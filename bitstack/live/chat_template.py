"""Writes the messages of a chat as tokens, in the model's own template.

Does not generate an answer; see `live.conversation`.
"""

from typing import Any

import torch
from torch import Tensor

from bitstack.errors import UserError

Message = dict[str, str]  # {"role": "system", "user" or "assistant", "content": text}


def chat_ids(tokenizer: Any, messages: list[Message]) -> Tensor:
    """Returns the ids of a chat up to where the model answers, int64 [1, tokens].

    Args:
        tokenizer: The model's tokenizer.
        messages: The chat so far; the last message is the user's.

    Raises:
        UserError: The tokenizer has no chat template, or its template refuses the messages.
    """
    return torch.as_tensor(_written(tokenizer, messages, return_dict=False, return_tensors="pt"))


def chat_text(tokenizer: Any, messages: list[Message]) -> str:
    """Returns the same as text, with its special tokens. Raises UserError as `chat_ids`."""
    return str(_written(tokenizer, messages, tokenize=False))


def _written(tokenizer: Any, messages: list[Message], **options: Any) -> Any:
    if not tokenizer.chat_template:
        raise UserError(
            "tokenizer: has no chat template, so this is no chat model; continue a text with "
            "`compress-model generate`"
        )
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
    except Exception as error:  # templates are programs, and refuse in ways of their own
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"chat template: takes no chat with the roles {roles} ({reason}); leave --system out"
        ) from None
