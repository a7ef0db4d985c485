"""Which precision is the faster one here."""

import pytest
import torch

from promptuary import precision
from promptuary.precision import Precision, fastest, unwise


@pytest.mark.parametrize(("cost", "best", "told"), [(4.0, "fp32", True), (1.0, "fp32", False), (0.3, "bf16", False)])
def test_a_processor_is_advised_by_what_its_products_cost(
    monkeypatch: pytest.MonkeyPatch, cost: float, best: Precision, told: bool
) -> None:
    monkeypatch.setattr(precision, "bfloat16_cost", lambda: cost)
    cpu = torch.device("cpu")
    assert fastest(cpu) == best
    assert ("4.0 times as long" in unwise("bf16", cpu)) is told
    assert bool(unwise("bf16", cpu)) is told
    assert not unwise("fp32", cpu)
    assert not unwise(fastest(cpu), cpu)


def test_of_another_device_the_processor_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_cost", lambda: 4.0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert fastest(torch.device("cuda")) == "bf16"
    assert not unwise("bf16", torch.device("cuda"))
    assert fastest(torch.device("mps")) == "fp32"
