"""What a request asks of the generation, carried past transformers' handlers to where it runs.

The handlers pass on neither a seed of its own for every request nor whether its client is still
there. Does not check what is asked; see `serving.bodies`.
"""

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asked:
    """One request."""

    prompt: str | None = None  # of /v1/completions; chats have messages instead
    max_new_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)  # of GenerationConfig
    gone: threading.Event = field(default_factory=threading.Event)  # its client hung up


current: ContextVar[Asked] = ContextVar("bitstack_asked")  # of the request that is answered
