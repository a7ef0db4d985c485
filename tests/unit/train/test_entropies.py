"""What a record says of how undecided choices were is what a loop over the rows of the steps says."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from promptuary.choices import Choice
from promptuary.train.entropies import Entropies
from promptuary.train.fit import Result, fit
from promptuary.train.progress import Silent
from promptuary.values import Instance
from tests.unit.train.toy import Toy, parts, recipe

HELD_OUT = Toy(count=2, seed=9)


def instance(rows: int = 3, dim: int = 6) -> Instance:
    ids = torch.zeros(rows, 4, dtype=torch.long)
    return Instance(ids, torch.ones_like(ids, dtype=torch.bool), torch.randn(rows, 4, dim), ids, ids[:, 0])


def told(result: Result) -> list[Any]:
    return [event for event in result.history if event["event"] == "choices"]


def by_hand(probabilities: Tensor) -> float:
    """The mean of -sum p log p over the rows, in a loop."""
    rows = probabilities.double().tolist()
    return sum(-sum(p * math.log(p) for p in row if p > 0) for row in rows) / len(rows)


@pytest.mark.parametrize("mode", ["hard", "soft", "top"])
def test_the_uncertainty_of_a_choice_is_the_entropy_of_each_row(mode: Any) -> None:
    choice, x = Choice(5, dim=6, mode=mode, top=2 if mode == "top" else 1), instance()
    torch.nn.init.normal_(choice.weight)
    for row, entropy in zip(choice.probabilities(x), choice.uncertainty(x), strict=True):
        assert float(entropy) == pytest.approx(by_hand(row[None]), abs=1e-5)
    assert float(choice.uncertainty(x).std()) > 0
    assert not choice.uncertainty(x).requires_grad


def test_options_all_alike_have_the_logarithm_of_their_number_and_a_decided_choice_nothing() -> None:
    choice, x = Choice(7), instance()
    assert choice.uncertainty(x).tolist() == pytest.approx([math.log(7)] * 3)
    choice.bias.data[0, 2] = 1e3
    assert choice.uncertainty(instance()).tolist() == [0.0] * 3


def test_noting_asks_for_no_second_reading_of_the_input() -> None:
    asked: list[int] = []

    def query(x: Instance) -> Tensor:
        asked.append(len(x.ids))
        return x.embeds.mean(1)

    choice, x = Choice(4, dim=6, query=query), instance()
    choice(x)
    entropies = Entropies({"choice": choice})
    entropies.note(x)
    assert asked == [3]
    assert all(isinstance(total, Tensor) and not total.requires_grad for total in entropies.sums.values())


@pytest.mark.parametrize("name", ["dp-position-instance", "dp-vector", "dp-position-length", "dp-position", "dp-bank"])
def test_the_record_has_the_mean_entropy_of_all_rows_since_the_last_scoring(name: str) -> None:
    model, readout = parts("bert", name)
    seen: dict[str, list[Tensor]] = {place: [] for place in model.choices}
    for place, choice in model.choices.items():
        choice.register_forward_hook(
            lambda module, given, made, place=place: (
                seen[place].append(module.probabilities(*given)) if module.training else None
            )
        )
    result = fit(model, readout, Toy(), HELD_OUT, recipe(epochs=2, accumulation=2), rates={"choice": 0.1}, audit=False)
    events = told(result)
    assert [event["step"] for event in events] == [e["step"] for e in result.history if e["event"] == "scores"]
    assert [event["rows"] for event in events] == [64, 64]
    for place, passes in seen.items():
        once = passes[: 16 * (2 if name == "dp-bank" else 1) : 2 if name == "dp-bank" else 1]  # two parts ask there
        for event, rows in zip(events, (torch.cat(once[:8]), torch.cat(once[8:])), strict=True):
            assert event["entropy"][place] == pytest.approx(by_hand(rows), abs=1e-4)
            assert event["share"][place] == pytest.approx(by_hand(rows) / math.log(rows.shape[1]), abs=1e-4)


def test_choices_are_named_by_their_places_and_a_shared_one_once() -> None:
    assert list(parts("bert", "dp-position-length")[0].choices) == ["generator.choice", "injection.placement.choice"]
    assert list(parts("bert", "dp-bank")[0].choices) == ["generator.choice"]
    assert parts("bert", "prompt-tuning")[0].choices == {}


def test_a_prompt_that_chooses_nothing_has_nothing_in_its_record() -> None:
    assert told(fit(*parts(), Toy(), HELD_OUT, recipe(epochs=1))) == []
    one = Entropies({"choice": Choice(1)})
    one.note(instance())
    assert one.read() is None
    assert Entropies({"choice": Choice(2)}).read() is None


def test_without_validation_rows_the_whole_run_is_told_at_its_end() -> None:
    [event] = told(fit(*parts("bert", "dp-vector"), Toy(), None, recipe(epochs=2)))
    assert (event["step"], event["rows"]) == (16, 128)


class Killed(BaseException):
    pass


class Bomb(Silent):
    def stepped(self, step: int, loss: float) -> None:
        if step == 5:
            raise Killed


def test_a_run_that_was_killed_between_scorings_tells_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptuary.train.fit.SAVING", 1.0)

    def run(folder: Path | None, **more: Any) -> Result:
        return fit(
            *parts("bert", "dp-vector"), Toy(), HELD_OUT, recipe(epochs=2), folder=folder, save_every=3, audit=False,
            **more,
        )  # fmt: skip

    with pytest.raises(Killed):
        run(tmp_path, progress=Bomb())
    assert told(run(tmp_path)) == told(run(None))
