"""The bodies of requests and answers. Nothing else in this library knows what they look like.

Under `/v1` they are OpenAI's, as far as they have a meaning for a frozen model with soft prompts: what has none is
refused by name and never ignored, unless it changes no answer. `/predict` and `/tasks` have bodies of their own. Errors
look the same everywhere.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from promptuary.errors import nearest

ROWS = 256  # of one body: with texts of a few hundred tokens some seconds of work on a CPU
PROMPTS = 64
TEXTS = 8
TOKENS = 4096

# What leaves an answer as it is when it says so, and what it may say.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,), "best_of": (None, 1), "echo": (None, False), "frequency_penalty": (None, 0),
    "function_call": (None, "none"), "functions": (None, []), "logit_bias": (None, {}), "logprobs": (None, False),
    "modalities": (None, ["text"]), "parallel_tool_calls": (None, False), "prediction": (None,),
    "presence_penalty": (None, 0), "reasoning_effort": (None,), "response_format": (None, {"type": "text"}),
    "suffix": (None, ""), "tool_choice": (None, "none"), "tools": (None, []), "top_logprobs": (None, 0),
    "verbosity": (None,), "web_search_options": (None,),
}  # fmt: skip
# What is about the caller and not about the answer.
UNHEARD = frozenset(
    {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user", "prompt_cache_retention"}
)


class Given(BaseModel):
    """A body that was sent: a field that is not known is an error with the nearest known one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        if not isinstance(body, Mapping):
            return body
        kept = {}
        for name, value in body.items():
            if name in cls.model_fields:
                kept[name] = value
            elif not cls._passes(name, value):
                raise ValueError(f"There is no field {name!r}. {nearest(name, cls.model_fields)}")
        return kept

    @classmethod
    def _passes(cls, name: str, value: Any) -> bool:
        """Whether a field without a meaning here may be left out of the reading.

        Raises:
            ValueError: for one that asks for something that is not to be had.
        """
        return False


class Asked(Given):
    """What OpenAI's formats have in common."""

    model: str = Field(description="The name of a task, or `base` for the bare model.", min_length=1, max_length=200)

    @classmethod
    def _passes(cls, name: str, value: Any) -> bool:
        if name in NEUTRAL and value not in NEUTRAL[name]:
            raise ValueError(f"{name} is not supported here. Leave it out.")
        return name in NEUTRAL or name in UNHEARD


class StreamOptions(Given):
    """What a stream tells beside its text."""

    include_usage: bool = False
    include_obfuscation: bool = False


Stop = Annotated[str, Field(min_length=1, max_length=200)]


class Writes(Asked):
    """How a text is to be written. `temperature` is 0 unless it is given: a prompt is tuned and scored greedily."""

    max_tokens: int | None = Field(None, ge=1, le=TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=TEXTS)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def counted(self) -> bool:
        """Whether a stream is to end with what was used."""
        return self.stream_options is not None and self.stream_options.include_usage


Text = Annotated[str, Field(min_length=1)]


class CompletionRequest(Writes):
    """`/v1/completions`: one prompt or several."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)]

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(Given):
    """A part of a message; there are no pictures or sounds here."""

    type: Literal["text"]
    text: str


class Message(Given):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=256)]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Writes):
    """`/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(None, ge=1, le=TOKENS)

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens are one thing and differ. Write one of them.")
        return self

    @property
    def tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class EmbeddingRequest(Asked):
    """`/v1/embeddings`: one text or several."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None

    @property
    def inputs(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


Name = Annotated[str, Field(min_length=1, max_length=200)]


class Ask(Given):
    """A row and the task that answers it.

    `text` stands for the task's own text column (a list of words where it tags words); `fields` names all columns.
    """

    task: Name | None = Field(None, description="May be left out where the body names one for all rows.")
    text: str | list[str] | None = None
    fields: dict[str, Any] | None = Field(None, max_length=64)

    @model_validator(mode="after")
    def _one_row(self) -> Self:
        if (self.text is None) == (self.fields is None):
            raise ValueError("A row has either a text or fields. Write one of them.")
        return self


class PredictRequest(Given):
    """`/predict`: rows of one task or of many."""

    rows: list[Ask] = Field(min_length=1, max_length=ROWS)
    task: Name | None = Field(None, description="Of all rows that name none.")

    @model_validator(mode="after")
    def _named(self) -> Self:
        lacking = next((i for i, row in enumerate(self.rows) if row.task is None), None)
        if self.task is None and lacking is not None:
            raise ValueError(f"rows[{lacking}] names no task, and the body names none for all rows.")
        return self

    @property
    def asked(self) -> list[tuple[str, Ask]]:
        return [(row.task or self.task or "", row) for row in self.rows]


# --- answers ----------------------------------------------------------------------------------------------------------

Ended = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens: of the given texts (soft tokens and templates are not counted), and of those that were written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, given: int, written: int) -> "Usage":
        return cls(prompt_tokens=given, completion_tokens=written, total_tokens=given + written)


class CompletionChoice(BaseModel):
    """One text, or a part of it."""

    index: int
    text: str
    finish_reason: Ended | None = None
    logprobs: None = None


class Completion(BaseModel):
    """The answer to a completion, and each event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Said(BaseModel):
    """What the model says in a chat."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer to a chat."""

    index: int
    message: Said
    finish_reason: Ended | None
    logprobs: None = None


class Chat(BaseModel):
    """The answers to a chat."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatPart(BaseModel):
    """A part of a chat's answer; `delta` has the role first, then contents."""

    index: int
    delta: dict[Literal["role", "content"], str]
    finish_reason: Ended | None = None


class ChatChunk(BaseModel):
    """An event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatPart]
    usage: Usage | None = None


class Model(BaseModel):
    """A task, or the bare model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "promptuary"


class Models(BaseModel):
    """All that the caller may ask."""

    object: Literal["list"] = "list"
    data: list[Model]


class Embedding(BaseModel):
    """A text's vector: numbers, or the base64 of them as little-endian float32."""

    index: int
    object: Literal["embedding"] = "embedding"
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of the given texts."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The vectors of texts, in order."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class Answers(BaseModel):
    """One answer for each row, in order: its `task`, and what the kind of task says.

    That is `label`, `probability` and `probabilities`, or `prediction`, or `prediction` and `score`.
    """

    answers: list[dict[str, Any]]


class TaskName(BaseModel):
    """A task in the list."""

    name: str


class Tasks(BaseModel):
    """What the store holds for the caller."""

    backbone: str
    base: bool = Field(description="Whether the bare model writes, as the task `base`.")
    tasks: list[TaskName]


class TaskShown(BaseModel):
    """A task: the columns of its rows, its classes, and how its prompt was made and looks (`promptuary show`)."""

    name: str
    kind: str
    columns: list[str]
    labels: list[str]
    writes: bool
    prompt: dict[str, Any]


class State(BaseModel):
    """What was done, or how the server is."""

    status: str


class Failed(BaseModel):
    """What went wrong: a kind of error, a word for programs, a sentence for people."""

    message: str
    type: str
    param: str | None = None
    code: str


class Failure(BaseModel):
    """The body of every answer that is an error."""

    error: Failed
