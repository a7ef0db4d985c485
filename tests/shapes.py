"""The run-time check under which the tests import what carries tensors (`--jaxtyping-packages` in pyproject.toml).

Every call and every dataclass of these modules is held to its annotations: tensors to their dtype, and to axes that
agree among arguments, fields and result. Three kinds of annotation are left to mypy: a choice of words, because a test
may pass a wrong one to read our own error, `IO`, of which beartype asks more than a `StringIO` has, and lists, of which
it looks at a random item.
"""

from collections.abc import Callable
from typing import IO, Any, Literal, TypeVar, get_args, get_origin

from beartype import BeartypeConf, beartype

F = TypeVar("F", bound=Callable[..., Any])

INT_IS_FLOAT = BeartypeConf(is_pep484_tower=True)


def checked(function: F) -> F:
    hints = {name: hint for name, hint in function.__annotations__.items() if not _left(hint)}
    if hints.get("return", Any) is not Any:
        # jaxtyping asks twice: before the call without a return type, after it again with all. Once is enough.
        hints = {"return": hints["return"]}
    function.__annotations__ = hints
    return beartype(conf=INT_IS_FLOAT)(function)


def _left(hint: Any) -> bool:
    return get_origin(hint) in (Literal, IO, list) or any(map(_left, get_args(hint)))
