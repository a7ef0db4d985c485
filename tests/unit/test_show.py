"""What is shown of a prompt is what it is: its nearest words, its scale, and what a random vector would reach."""

import json
import math

import pytest
import torch

from promptuary.methods import METHODS
from promptuary.show import control, nearest_words, sizes
from promptuary.tuned import open_prompt
from tests.laws.checks import TYPICAL
from tests.saved import Shelf, done


def test_the_nearest_word_of_a_word_is_itself() -> None:
    table = torch.randn(20, 8)
    found = nearest_words(table[[3, 7]] * 5, table, count=3)
    assert [n.ids[0] for n in found] == [3, 7]
    for neighbours, vector in zip(found, table[[3, 7]], strict=True):
        naive = sorted(range(20), key=lambda i: -float(torch.cosine_similarity(vector, table[i], dim=0)))
        assert list(neighbours.ids) == naive[:3]
        assert neighbours.cosine[0] == pytest.approx(1, abs=1e-5)
        assert list(neighbours.cosine) == sorted(neighbours.cosine, reverse=True)


def test_special_tokens_are_left_out_and_there_are_no_more_than_all() -> None:
    table = torch.randn(6, 4)
    [found] = nearest_words(table[:1], table, count=99, leave_out=[0, 2])
    assert sorted(found.ids) == [1, 3, 4, 5]


def test_a_random_vector_has_a_nearest_word_too() -> None:
    table = torch.randn(500, 32, generator=torch.Generator().manual_seed(5))
    assert 0.3 < control(table) < 0.8
    assert control(table) == control(table) != control(table, seed=1)
    assert control(3 * table) == pytest.approx(control(table), abs=1e-5)


def test_where_all_embeddings_point_one_way_a_random_vector_is_near_to_some_word() -> None:
    source = torch.Generator().manual_seed(5)
    table = torch.randn(500, 32, generator=source) + 5 * torch.randn(32, generator=source)
    like_words = table.mean(0) + table.std(0) * torch.randn(200, 32, generator=source)
    near = [n.cosine[0] for n in nearest_words(like_words, table, count=1)]
    assert control(table) == pytest.approx(sum(near) / len(near), abs=0.01)
    assert control(table) > 0.9


def test_sizes_are_deviations_and_norms() -> None:
    vectors, table = torch.randn(5, 16) * 3, torch.randn(50, 16)
    found = sizes(vectors, table)
    assert found.deviation == pytest.approx(float(vectors.std()))
    assert found.table_deviation == pytest.approx(float(table.std()))
    assert found.row_norm == pytest.approx(sum(float(v.norm()) for v in vectors) / 5)
    pairs = [float(torch.cosine_similarity(a, b, dim=0)) for i, a in enumerate(vectors) for b in vectors[i + 1 :]]
    assert found.cosine == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def test_equal_soft_tokens_have_a_cosine_of_one() -> None:
    assert sizes(torch.ones(4, 8), torch.randn(9, 8)).cosine == pytest.approx(1)
    assert sizes(torch.randn(1, 8), torch.randn(9, 8)).cosine == 1.0


@pytest.mark.parametrize("name", TYPICAL)
def test_every_method_can_be_shown(shelf: Shelf, name: str) -> None:
    prompt = shelf.prompt("bert", name)
    shown = json.loads(done("show", prompt, "--json", "--words", "2"))
    tuned = open_prompt(prompt)
    assert (shown["method"], shown["soft_tokens"]) == (name, tuned.model.generator.length)
    assert shown["labels"] == ["bad", "good"]
    assert shown["settings"] == json.loads(json.dumps(METHODS[name].settings()))
    assert shown["init"] == METHODS[name].init
    assert all(math.isfinite(v) for v in shown["scores"].values())
    assert shown["counts"]["active"] <= shown["counts"]["nominal"] >= shown["counts"]["touched"] > 0
    at_the_input = name in (
        "prompt-tuning", "p-tuning", "residual-prompt-tuning", "multitask-prompt-tuning", "dp-position",
        "dp-position-instance",
    )  # fmt: skip
    assert ("nearest" in shown) == at_the_input
    if at_the_input:
        assert [len(row) for row in shown["nearest"]] == [2] * shown["soft_tokens"]
    drawn = done("show", prompt)
    assert name in drawn
    assert f"nominal {shown['counts']['nominal']}, touched" in drawn
    assert ("nearest words" in drawn) == (name != "frozen")


def test_a_prompt_started_at_words_is_near_them(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("near") / "out"
    options = shelf.options("bert", "prompt-tuning", out)
    done(*options, "--init", "words:money box", "--length", 2, "--set", "rate=1e-6")
    nearest = json.loads(done("show", out, "--json"))["nearest"]
    tokens = open_prompt(out).backbone.tokenizer.tokenize("money box")
    assert [row[0][0] for row in nearest] == tokens[:2]
