"""The JSON bodies of requests: their fields, with the types and bounds of each.

transformers' handlers trust the fields they read, and pass over others in silence. Here a field
that would change the answer but is not followed takes only the value that means nothing. Does not
check what depends on the model; see `serving.checks`.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, Json, field_validator

from bitstack.serving.asked import Asked

Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=64)]  # transformers compares all its ends
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Names = dict[str, bool | int | float | str]


class _Part(BaseModel):
    """A piece of a message: text, since the model reads nothing else."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class _Function(BaseModel):
    name: str
    arguments: Json[dict[str, Any]] | dict[str, Any]


class _ToolCall(BaseModel):
    function: _Function


class _Message(BaseModel):
    role: Text
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None


_NEEDED = {  # fields of an element of `input`, by its type
    "message": ("role",),
    "text": ("text",),
    "input_text": ("text",),
    "output_text": ("text",),
    "reasoning": (),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}
_TEXTS = ("text", "input_text", "output_text")


class _Item(BaseModel):
    """An element of the `input` of /v1/responses: a message, a piece of the only one, or a call."""

    type: Literal[
        "message", "text", "input_text", "output_text", "reasoning", "function_call",
        "function_call_output",
    ] = "message"  # fmt: skip
    role: Text | None = None
    text: str | None = None
    content: str | list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Json[dict[str, Any]] | None = None
    output: str | None = None

    def model_post_init(self, _: Any) -> None:
        for name in _NEEDED[self.type]:
            if getattr(self, name) is None:
                raise ValueError(f"an element of type {self.type} needs the field {name}")


class Generation(BaseModel):
    """Fields of GenerationConfig that a client may set as `generation_config`, as
    `transformers chat` does."""

    model_config = ConfigDict(extra="forbid")

    do_sample: bool | None = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Share | None = None
    min_p: Share | None = None
    repetition_penalty: Positive | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] | None = None
    max_new_tokens: Count | None = None
    eos_token_id: int | list[int] | None = None
    transformers_version: Any = None  # not read


class _Body(BaseModel):
    """What all three kinds of requests share."""

    model_config = ConfigDict(extra="allow")
    _bounds: ClassVar[tuple[str, ...]]  # fields that bound the answer's tokens; the first counts

    model: str | None = None
    stream: bool | None = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = None
    top_p: Share | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    generation_config: Json[Generation] | None = None
    # What would be passed over in silence.
    n: Literal[1] | None = None
    logprobs: Literal[False, 0] | None = None
    top_logprobs: Literal[0] | None = None

    def asked(self) -> Asked:
        """Returns what transformers' handlers would not pass on as it is meant."""
        given = self.generation_config
        fields = {} if given is None else given.model_dump(exclude_none=True)
        fields.pop("transformers_version", None)
        in_config, warmth = fields.pop("max_new_tokens", None), fields.pop("temperature", None)
        if self.top_p is not None:
            fields.pop("top_p", None)
        if bias := getattr(self, "logit_bias", None):  # transformers follows it in chats alone
            fields["sequence_bias"] = {(token,): value for token, value in bias.items()}
        return Asked(
            prompt=getattr(self, "prompt", None),
            max_new_tokens=self.new_tokens or in_config,
            temperature=warmth if self.temperature is None else self.temperature,
            seed=self.seed,
            fields=fields,
        )

    @property
    def new_tokens(self) -> int | None:
        """Most tokens of the answer; None where the client gives no number."""
        return next((number for name in self._bounds if (number := getattr(self, name))), None)


class _Tokens(_Body):
    """What /v1/chat/completions and /v1/completions share."""

    _bounds: ClassVar[tuple[str, ...]] = ("max_tokens",)
    max_tokens: Count | None = None
    frequency_penalty: Annotated[FiniteFloat, Field(gt=-1, le=2)] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[int, FiniteFloat], Field(max_length=1024)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None

    @field_validator("logit_bias")
    @classmethod
    def _at_least_zero(cls, value: dict[int, float] | None) -> dict[int, float] | None:
        if value and min(value) < 0:
            raise ValueError("its keys are ids of tokens, from 0")
        return value


class _Described(BaseModel):
    name: Text
    parameters: dict[str, Any] | None = None


class _Tool(BaseModel):
    """A function that the model may call: nested in chats, flat in /v1/responses."""

    type: Literal["function"] = "function"
    function: _Described | None = None
    name: Text | None = None
    parameters: dict[str, Any] | None = None

    def model_post_init(self, _: Any) -> None:
        if self.function is None and self.name is None:
            raise ValueError("a tool needs the name of its function")


class _Chat(BaseModel):
    """What the two kinds of chats share."""

    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    chat_template_kwargs: Names | None = None


class ChatBody(_Tokens, _Chat):
    """POST /v1/chat/completions."""

    _bounds: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None


class TextBody(_Tokens):
    """POST /v1/completions."""

    prompt: Text
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None


class ResponseBody(_Body, _Chat):
    """POST /v1/responses."""

    _bounds: ClassVar[tuple[str, ...]] = ("max_output_tokens",)
    input: Text | Annotated[list[_Item], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    previous_response_id: None = None
    conversation: None = None
    background: Literal[False] | None = None

    @field_validator("input")
    @classmethod
    def _messages_or_pieces(cls, value: str | list[_Item]) -> str | list[_Item]:
        if isinstance(value, list) and len({item.type in _TEXTS for item in value}) > 1:
            raise ValueError("give messages, or pieces of one message, not both")
        return value


class LoadBody(BaseModel):
    """POST /load_model, with which `transformers chat` begins."""

    model: str


class BudgetBody(BaseModel):
    """POST /budget."""

    model_config = ConfigDict(extra="forbid")

    budget: Text | int
