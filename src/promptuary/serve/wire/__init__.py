"""The bodies of requests and answers. Nothing else in this library knows what they look like.

Under `/v1` they are OpenAI's, as far as they have a meaning for a frozen model with soft prompts: what has none is
refused by name and never ignored, unless it changes no answer. `/predict` and `/tasks` have bodies of their own. Errors
look the same everywhere.
"""

from promptuary.serve.wire.answers import (
    Answers,
    Chat,
    ChatChoice,
    ChatChunk,
    ChatPart,
    Completion,
    CompletionChoice,
    Embedding,
    Embeddings,
    EmbeddingUsage,
    Failed,
    Failure,
    Model,
    Models,
    Said,
    State,
    TaskName,
    Tasks,
    TaskShown,
    Usage,
)
from promptuary.serve.wire.requests import (
    NEUTRAL,
    UNHEARD,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    PredictRequest,
    Writes,
)

__all__ = [
    "NEUTRAL",
    "UNHEARD",
    "Answers",
    "Chat",
    "ChatChoice",
    "ChatChunk",
    "ChatPart",
    "ChatRequest",
    "Completion",
    "CompletionChoice",
    "CompletionRequest",
    "Embedding",
    "EmbeddingRequest",
    "EmbeddingUsage",
    "Embeddings",
    "Failed",
    "Failure",
    "Model",
    "Models",
    "PredictRequest",
    "Said",
    "State",
    "TaskName",
    "TaskShown",
    "Tasks",
    "Usage",
    "Writes",
]
