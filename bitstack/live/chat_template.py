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
    if not tokenizer.chat_template:
        raise UserError(
            "tokenizer: has no chat template, so this is no chat model; continue a text with "
            "`compress-model generate`"
        )
    try:
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False, return_tensors="pt"
        )
    except Exception as error:  # templates are programs, and refuse in ways of their own
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"chat template: takes no chat with the roles {roles} ({reason}); leave --system out"
        ) from None
    return torch.as_tensor(ids)
