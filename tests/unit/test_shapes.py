"""The tests run under checks of shapes: here, that they do."""

import importlib
import pkgutil

import jaxtyping
import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

import promptuary
from promptuary.backbones.padding import at
from promptuary.values import Prompt
from tests.shapes import checked


@pytest.fixture(autouse=True)
def _held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", False)


MODULES = [m.name for m in pkgutil.walk_packages(promptuary.__path__, "promptuary.") if "__main__" not in m.name]


@pytest.mark.parametrize(
    ("values", "keep"),
    [
        (torch.zeros(1, 2, 3), torch.ones(1, 3)),
        (torch.zeros(1, 2, 3, dtype=torch.long), torch.ones(1, 2)),
        (torch.zeros(2, 3), torch.ones(1, 2)),
    ],
)
def test_a_value_whose_axes_or_types_disagree_cannot_be_made(values: Tensor, keep: Tensor) -> None:
    with pytest.raises(TypeCheckError, match="Prompt"):
        Prompt(values, keep)


def test_a_call_whose_axes_disagree_cannot_be_made() -> None:
    with pytest.raises(TypeCheckError, match="columns"):
        at(torch.zeros(2, 3, 4), torch.zeros(1, 1, dtype=torch.long))


def test_a_result_whose_axes_disagree_with_the_arguments_is_found() -> None:
    @jaxtyped(typechecker=checked)
    def shortened(x: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        return x[:-1]

    with pytest.raises(TypeCheckError, match="return value"):
        shortened(torch.zeros(2))


def names(module: str) -> dict[str, object]:
    """What a module defines; nothing where it is for another engine that is not installed."""
    try:
        return vars(importlib.import_module(module))
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in ("vllm", "ray"):
            raise
        return {}


def test_every_module_that_names_axes_is_checked(pytestconfig: pytest.Config) -> None:
    *checked, _ = pytestconfig.getoption("jaxtyping_packages").split(",")
    axes = [
        name
        for name in MODULES
        if any(getattr(value, "__module__", "").startswith("jaxtyping") for value in names(name).values())
    ]
    assert "promptuary.values" in axes
    assert [name for name in axes if not any(f"{name}.".startswith(f"{place}.") for place in checked)] == []
