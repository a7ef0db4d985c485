"""What is answered, errors included."""

from typing import Any, Literal

from pydantic import BaseModel, Field

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
