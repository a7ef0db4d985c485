"""The run-time check under which the tests import the package (`--jaxtyping-packages` in pyproject.toml).

Every call and every dataclass is held to its annotations; tensors to their dtype and to axes that agree among
arguments, fields and result. Two kinds of annotation are mypy's alone: a choice of words, because a test may pass a
wrong one to read our own error, and a protocol that cannot be checked at run time.
"""

from collections.abc import Callable
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

from beartype import beartype

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    function.__annotations__ = {name: _checkable(hint) for name, hint in function.__annotations__.items()}
    return beartype(function)


def _checkable(hint: Any) -> Any:
    return Any if _beyond(hint) else hint


def _beyond(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    protocol = getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False)
    return kind in (Literal, Self) or protocol or any(_beyond(inner) for inner in get_args(hint))
