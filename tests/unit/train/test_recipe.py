"""A recipe that cannot work is refused where it is written."""

from typing import Any

import pytest

from promptuary.errors import SettingError
from promptuary.train.recipe import Recipe


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"rate": 0.0}, "rate=0.0: expected a number above 0"),
        ({"batch": 0}, "batch=0: expected a number above 0"),
        ({"accumulation": -1}, "accumulation=-1"),
        ({"clip": -1.0}, "clip=-1.0: expected 0 or more"),
        ({"warmup": 1.0}, "warmup=1.0: expected a share"),
        ({"dropout": -0.1}, "dropout=-0.1: expected a share"),
        ({"optimizer": "sgd"}, "optimizer='sgd': expected one of adamw, adafactor"),
        ({"schedule": "step"}, "schedule='step'"),
        ({"precision": "fp16"}, "precision='fp16'"),
        ({"epochs": 0}, "epochs=0 and steps=0"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        Recipe(**wrong)
    assert sentence in str(caught.value)


def test_steps_may_stand_for_epochs() -> None:
    assert Recipe(epochs=0, steps=5).steps == 5
