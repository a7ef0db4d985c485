"""Several prompts of one task: the answers of separate runs, combined by hand."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from promptuary import Bank, Ensemble, open_bank, open_prompt
from promptuary.data.source import Row
from promptuary.ensembles import mean, vote
from promptuary.errors import SettingError
from promptuary.metrics import accuracy
from tests.saved import SHORT, Shelf, done, lines, opinions, refused
from tests.unit.test_bank import TAGGED, other, prompts

MEMBERS = ("frozen", "prompt-tuning", "p-tuning-v2", "ipt-lstm", "dp-vector")


def members(shelf: Shelf, family: str) -> dict[str, Path]:
    return {name: prompts(shelf, family)[name] for name in MEMBERS}


@pytest.mark.parametrize("rule", ["vote", "mean"])
@pytest.mark.parametrize("family", ["bert", pytest.param("t5", marks=pytest.mark.slow)])
@pytest.mark.long
def test_an_ensemble_is_as_many_runs_combined(shelf: Shelf, family: str, rule: str) -> None:
    folders = members(shelf, family)
    given = [Row(fields, f"row {i}") for i, fields in enumerate(opinions(12))]
    separate = [[a.probabilities for a in open_prompt(f).predict(given)] for f in folders.values()]
    labels = list(separate[0][0])
    expected = []
    for own in zip(*separate, strict=True):
        means = {c: sum(math.log(p[c]) for p in own) / len(own) for c in labels}
        votes = Counter(max(labels, key=lambda c, p=p: p[c]) for p in own)  # type: ignore[misc]
        expected.append(max(labels, key=lambda c: (votes[c] if rule == "vote" else 0, means[c])))
    ensemble = Ensemble(open_bank(folders), rule=rule)
    answers = list(ensemble.predict(given, tokens=100))
    assert [answer.label for answer in answers] == expected
    for answer in answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.probability == answer.probabilities[answer.label]
    scores = ensemble.evaluate(given)
    assert scores["accuracy"] == accuracy([row.fields["label"] for row in given], expected)
    for name, folder in folders.items():
        alone = open_prompt(folder).evaluate(given)
        assert scores["members"][name] == {metric: alone[metric] for metric in ("accuracy", "macro_f1")}
    assert (scores["n"], scores["majority"]) == (12, 0.5)


def test_most_votes_win_then_the_mean_log_probability_then_the_first_class() -> None:
    assert vote([[0.4, 0.6], [0.4, 0.6], [1.0, 0.0]]) == (1, [1 / 3, 2 / 3])
    assert vote([[0.3, 0.7], [0.6, 0.4]]) == (1, [0.5, 0.5])
    assert vote([[0.3, 0.7], [0.7, 0.3]]) == (0, [0.5, 0.5])
    assert vote([[0.5, 0.5]]) == (0, [1.0, 0.0])
    # With three classes the tie is among those that were named, however likely the third is.
    assert vote([[0.5, 0.05, 0.45], [0.05, 0.5, 0.45]]) == (0, [0.5, 0.5, 0.0])


def test_the_mean_is_of_log_probabilities_and_a_zero_is_no_veto() -> None:
    label, weights = mean([[0.5, 0.5], [0.1, 0.9]])
    assert label == 1
    assert weights == pytest.approx([0.25, 0.75])
    assert mean([[0.5, 0.5], [0.5, 0.5]]) == (0, [0.5, 0.5])
    label, weights = mean([[0.0, 1.0], [1.0, 0.0]])
    assert (label, weights) == (0, [0.5, 0.5])


def test_the_command_scores_several_prompts_together(shelf: Shelf) -> None:
    first, *others = members(shelf, "bert").values()
    more = [word for folder in others for word in ("--ensemble", folder)]
    scores = json.loads(done("evaluate", first, *more, "--data", shelf.dev, "--json"))
    assert set(scores) == {"accuracy", "macro_f1", "majority", "n", "members"}
    assert list(scores["members"]) == [str(first), *map(str, others)]
    shown = done("evaluate", first, *more, "--data", shelf.dev, "--rule", "mean")
    assert "together (mean)" in shown
    assert f"{scores['members'][str(first)]['accuracy']:.4f}" in shown
    command = ["evaluate", first, *more, "--data", shelf.dev]
    assert "rule='most'" in refused(*command, "--rule", "most")
    assert "--decode free is of one prompt" in refused(*command, "--decode", "free")


def test_prompts_of_different_tasks_do_not_vote(shelf: Shelf, tmp_path: Path) -> None:
    rows = [{"text": f"box {i}", "label": ("glass", "box")[i % 2]} for i in range(8)]
    data, out = lines(tmp_path / "other.jsonl", rows), tmp_path / "other"
    options = ["--train", data, "--validation", data, *SHORT, "--method", "frozen"]
    done("tune", "--backbone", shelf.model("bert"), *options, "--out", out)
    with pytest.raises(SettingError, match="Expected prompts of one task"):
        Ensemble(open_bank({"a": shelf.prompt("bert", "frozen"), "b": out}))
    tagging = open_bank({"a": other(shelf, "bert", "tagging", TAGGED)})
    with pytest.raises(SettingError, match="only classes can be combined"):
        next(Ensemble(tagging).predict([Row({"tokens": ["a"]}, "row")]))
    with pytest.raises(SettingError, match="is empty"):
        Ensemble(Bank(tagging.backbone))
