"""Stands where transformers' server expects what loads and keeps models: one model, loaded already.

Does not answer requests; see `serving.app`.
"""

import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from transformers.cli.serving import ModelManager
from transformers.cli.serving.utils import GenerationState

from bitstack.live.opening import Opened
from bitstack.machine.json_file import reason_of
from bitstack.serving.refusals import Refused
from bitstack.serving.running import Running


class OneModel(ModelManager):
    """A manager of models that holds one and loads and frees none."""

    def __init__(self, name: str, opened: Opened) -> None:
        super().__init__(model_timeout=-1)
        self.force_model = name  # transformers' handlers then serve no other
        self._model, self._tokenizer = opened.model, opened.tokenizer
        self._since = int(time.time())
        template = type(opened.tokenizer).apply_chat_template
        opened.tokenizer.apply_chat_template = partial(_in_template, template, opened.tokenizer)

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """Returns the name as it is; transformers adds a revision."""
        return model_id

    def load_model_and_processor(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Returns the model and its tokenizer, under whatever name: that was checked before."""
        return self._model, self._tokenizer

    async def load_model_streaming(self, *_: Any, **__: Any) -> AsyncIterator[str]:
        """Yields the one event with which `transformers chat` begins."""
        event = {"status": "ready", "model": self.force_model, "cached": True}
        yield f"data: {json.dumps(event)}\n\n"

    def get_gen_models(self, *_: Any, **__: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        """Returns the list of /v1/models."""
        one = {"id": self.force_model, "object": "model", "owned_by": "bitstack"}
        return [one | {"created": self._since}]

    def shutdown(self) -> None:
        """Does nothing: who opened the model closes it."""


class OneState(GenerationState):
    """Gives every request the same manager of generations."""

    def __init__(self, running: Running) -> None:
        super().__init__()
        self._running = running

    def get_manager(self, model_id: str, use_cb: bool = False) -> Running:
        """Returns the manager."""
        return self._running


def _in_template(template: Any, tokenizer: Any, *args: Any, **kwargs: Any) -> Any:
    """Writes a chat in the model's template, a program that refuses in ways of its own."""
    try:
        return template(tokenizer, *args, **kwargs)
    except Exception as error:
        raise Refused(
            400, f"messages: the chat template of the model does not take them ({reason_of(error)})"
        ) from None
