"""Checks the body of a request before transformers' handlers see it, and says what is wrong.

Does not define the fields, see `serving.bodies`, or count tokens, see `serving.limits`.
"""

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from bitstack.serving.asked import Asked
from bitstack.serving.bodies import BudgetBody, ChatBody, LoadBody, ResponseBody, TextBody
from bitstack.serving.limits import Limits
from bitstack.serving.refusals import Refused

BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": TextBody,
    "/v1/responses": ResponseBody,
    "/load_model": LoadBody,
    "/budget": BudgetBody,
}
_CHATS = ("/v1/chat/completions", "/v1/responses")
_OWN = ("seed", "generation_config")  # fields that go another way than through the handlers
_TEXTS = (
    "messages",
    "prompt",
    "input",
    "instructions",
    "tools",
)  # fields of which a prompt is made
_LONG = 4  # characters a position: a shorter text is quickly counted by the handlers
_TYPES = {"str", "int", "bool", "float"}  # pydantic names them where a field has several
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Checks:
    """What is known of the model that is served."""

    name: str  # by which it is called
    also: str  # folder or Hub name it was opened by, which is understood, too
    tokenizer: Any
    embeddings: int  # ids that the model has
    limits: Limits

    def __call__(self, path: str, value: Any) -> tuple[dict[str, Any], Asked]:
        """Returns the body that the handler of `path` gets, and what it does not pass on.

        Args:
            path: A key of BODIES.
            value: The JSON of the request.

        Raises:
            Refused: The body cannot be used; the message says why.
        """
        if isinstance(value, dict):  # null means the same as nothing
            value = {key: field for key, field in value.items() if field is not None}
        body = parsed(BODIES[path], value)
        if path == "/budget":
            return value, Asked()
        self._check_name(body.model)
        value = {key: field for key, field in value.items() if key not in _OWN}
        value |= {"model": self.name, "stream": value.get("stream", False)}
        if path == "/load_model":
            return value, Asked()
        if path in _CHATS:
            self._check_chat(body)
        asked: Asked = body.asked()
        self._check_tokens(body, asked)
        self._check_length(value)
        return value, asked

    def _check_name(self, name: str | None) -> None:
        if name not in (None, self.name, self.also):
            raise Refused(404, f"model: {_shown(name)} is not served here; send '{self.name}'")

    def _check_chat(self, body: Any) -> None:
        if not self.tokenizer.chat_template:
            raise Refused(
                400,
                f"{self.name}: its tokenizer has no chat template, so this is no chat model; send "
                "a text to /v1/completions",
            )
        taken = {*inspect.signature(type(self.tokenizer).apply_chat_template).parameters}
        taken.add("load_audio_from_video")  # the handlers give it, too
        for name in body.chat_template_kwargs or ():
            if name in taken:
                raise Refused(400, f"chat_template_kwargs.{name}: is not for clients to set")

    def _check_tokens(self, body: Any, asked: Asked) -> None:
        most, highest = self.limits.max_new_tokens, max(getattr(body, "logit_bias", None) or [0])
        if asked.max_new_tokens is not None and asked.max_new_tokens > most:
            raise Refused(
                400, f"max_tokens: {asked.max_new_tokens} is more than the {most} of this server"
            )
        if highest >= self.embeddings:
            raise Refused(
                400, f"logit_bias: {highest} is no id of the model's {self.embeddings} tokens"
            )

    def _check_length(self, value: dict[str, Any]) -> None:
        """Counts the tokens of a long text here: the handlers would hold up all other requests."""
        text = " ".join(_strings([value.get(key) for key in _TEXTS]))
        if self.limits.positions is not None and len(text) > _LONG * self.limits.positions:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            self.limits.check_prompt(len(ids))


def _strings(value: Any) -> Iterator[str]:
    """Yields all strings within lists and objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def parsed(kind: type[BaseModel], value: Any) -> Any:
    """Returns a body as a model of pydantic.

    Raises:
        Refused: A field is missing or not what is allowed; the message names it and its value.
    """
    if not isinstance(value, dict):
        raise Refused(400, f"the body is {_shown(value)}; send a JSON object")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise Refused(400, _described(error)) from None


def _described(error: ValidationError) -> str:
    """One problem: where a field has several types, that of the type which was meant."""
    found: list[Any] = error.errors(include_url=False)
    worst = max(found, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    names = [str(part) for part in worst["loc"] if isinstance(part, int) or _is_name(part)]
    field = ".".join(names)
    if worst["type"] == "missing":
        return f"{field}: is missing"
    message = str(worst["msg"]).removeprefix("Value error, ")
    return f"{field}: {_shown(worst['input'])}: {message}"


def _is_name(part: str) -> bool:
    return part not in _TYPES and _NAME.fullmatch(part) is not None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
