from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from promptuary.errors import SettingError
from promptuary.initial import (
    Initial,
    factors,
    from_embeddings,
    from_file,
    from_labels,
    from_prompt,
    from_vocabulary,
    from_words,
    matched,
    normal,
    uniform,
    zeros,
)
from tests.strategies import seeds

TABLE = torch.randn(20, 4)


def read(ids: Sequence[int]) -> torch.Tensor:
    return TABLE[list(ids)]


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_uniform_fills_its_range() -> None:
    made = uniform()(500, 8, seed())
    assert -0.5 <= made.min() < -0.49
    assert 0.49 < made.max() < 0.5
    assert abs(made.mean()) < 0.02
    shifted = uniform(2.0, 3.0)(500, 8, seed())
    assert 2.0 <= shifted.min() < 2.01 < 2.99 < shifted.max() < 3.0


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (1.0, 0.0)])
def test_an_empty_range_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match="low < high"):
        uniform(*bounds)


@pytest.mark.parametrize("make", [normal, matched])
def test_random_starts_have_the_deviation_they_promise(make: type[Initial]) -> None:
    made = make(0.3)(500, 40, seed())
    assert abs(made.std() - 0.3) < 0.01
    assert abs(made.mean()) < 0.01


@given(seeds, st.integers(0, 12))
def test_every_start_is_the_seeds_and_draws_nothing_else(number: int, length: int) -> None:
    frequent = torch.arange(3, 15)
    for init in (
        uniform(),
        normal(1.0),
        matched(0.1),
        from_vocabulary(read, frequent),
        from_words(read, [1], normal(1.0)),
    ):
        before = torch.get_rng_state()
        one, other = (init(length, 4, seed(number)) for _ in range(2))
        assert one.shape == (length, 4)
        assert torch.equal(one, other)
        assert torch.equal(torch.get_rng_state(), before)


def test_vocabulary_rows_are_drawn_without_repetition_as_long_as_there_are_enough() -> None:
    frequent = torch.arange(3, 15)
    made = from_vocabulary(read, frequent)(12, 4, seed(3))
    drawn = [int((row == TABLE).all(1).nonzero()) for row in made]
    assert sorted(drawn) == frequent.tolist()
    assert drawn != frequent.tolist()
    assert len(from_vocabulary(read, frequent)(30, 4, seed())) == 30
    with pytest.raises(SettingError, match="no ids"):
        from_vocabulary(read, torch.arange(0))(2, 4, seed())


def test_words_stand_in_order_and_the_rest_starts_otherwise() -> None:
    made = from_words(read, [7, 3], uniform(5.0, 6.0))(3, 4, seed())
    assert torch.equal(made[:2], TABLE[[7, 3]])
    assert bool((made[2] >= 5).all())
    assert torch.equal(from_words(read, [7, 3, 1], normal(1.0))(2, 4, seed()), TABLE[[7, 3]])


def test_a_label_is_the_mean_of_its_pieces() -> None:
    made = from_labels(read, [[1, 2, 3], [], [4]], uniform(5.0, 6.0))(3, 4, seed())
    assert torch.allclose(made[0], TABLE[1:4].mean(0))
    assert torch.equal(made[1], TABLE[4])
    assert bool((made[2] >= 5).all())


def test_labels_that_start_no_soft_token_are_told() -> None:
    labels = [[1, 2], [3], [], [4]]
    with pytest.warns(UserWarning, match="3 labels and 2 soft tokens: the last 1 start none. Set length=3 or more"):
        made = from_labels(read, labels, normal(1.0))(2, 4, seed())
    torch.testing.assert_close(made, torch.stack([TABLE[1:3].mean(0), TABLE[3]]))
    assert torch.equal(from_labels(read, labels, normal(1.0))(3, 4, seed())[2], TABLE[4])  # none is left over


@pytest.mark.parametrize("init", [from_vocabulary(read, torch.arange(9)), from_words(read, [1], normal(1.0))])
def test_word_embeddings_of_another_width_are_refused(init: Initial) -> None:
    with pytest.raises(SettingError, match="width 4, this prompt needs 8"):
        init(3, 8, seed())


def test_a_start_is_a_copy() -> None:
    values = torch.zeros(2, 4)
    made = from_prompt(values)(2, 4, seed())
    made += 1
    assert not values.any()
    row = from_words(read, [1], normal(1.0))(1, 4, seed())
    kept = TABLE[1].clone()
    row += 1
    assert torch.equal(TABLE[1], kept)


@pytest.mark.parametrize("shape", [(2, 5), (3, 4)])
def test_another_prompt_must_have_the_same_shape(shape: tuple[int, int]) -> None:
    with pytest.raises(SettingError, match="length=2"):
        from_prompt(torch.zeros(2, 4))(*shape, seed())


def test_a_file_gives_its_prompt_and_never_a_read_out(tmp_path: Path) -> None:
    wanted = torch.randn(2, 4)
    file = tmp_path / "prompt.safetensors"
    save_file({"readout.head.weight": torch.zeros(2, 4), "prompt": wanted}, file)
    assert torch.equal(from_file(file)(2, 4, seed()), wanted)
    assert torch.equal(from_file(tmp_path)(2, 4, seed()), wanted)
    save_file({"a.bias": torch.zeros(4), "only": wanted}, tmp_path / "plain.safetensors")
    assert torch.equal(from_file(tmp_path / "plain.safetensors")(2, 4, seed()), wanted)
    with pytest.raises(SettingError, match="width 4, this prompt needs 5"):
        from_file(file)(2, 5, seed())
    for count, tensors in ((0, {"n": torch.zeros(3)}), (2, {"a": wanted, "b": wanted.clone()})):
        save_file(tensors, tmp_path / "unclear.safetensors")
        with pytest.raises(SettingError, match=f"holds {count} matrices"):
            from_file(tmp_path / "unclear.safetensors")
    with pytest.raises(SettingError, match="no such file"):
        from_file(tmp_path / "missing.safetensors")


def test_zeros_are_zeros() -> None:
    assert not zeros()(3, 4, seed()).any()


def test_a_copy_of_the_embeddings_is_exact_and_of_nothing_else() -> None:
    made = from_embeddings(TABLE)(20, 4, seed())
    assert torch.equal(made, TABLE)
    made += 1
    assert not torch.equal(made, TABLE)
    for shape in ((20, 8), (5, 4)):
        with pytest.raises(SettingError, match="a row for each token, at the input"):
            from_embeddings(TABLE)(*shape, seed())


@given(seeds, st.integers(1, 4))
def test_the_nearest_product_is_the_truncated_decomposition(number: int, rank: int) -> None:
    matrix = torch.randn(20, 4, generator=seed(number))
    codes, basis = factors(from_prompt(matrix), 20, 4, rank, seed())
    assert (codes.shape, basis.shape) == ((20, rank), (rank, 4))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
    torch.testing.assert_close((codes @ basis).double(), nearest, rtol=0, atol=1e-5)
    error = float((codes @ basis - matrix).double().square().sum())
    assert error == pytest.approx(float(values[rank:].square().sum()), abs=1e-5)
    assert float(codes.square().mean()) == pytest.approx(1)


def test_a_product_starts_at_the_deviation_of_what_is_drawn_and_refuses_a_rank_no_copy_has() -> None:
    codes, basis = factors(normal(0.3), 500, 40, 16, seed())
    assert abs(float((codes @ basis).std()) - 0.3) < 0.03
    assert not (torch.matmul(*factors(zeros(), 20, 4, 2, seed()))).any()
    with pytest.raises(SettingError, match="rank of 4"):
        factors(from_embeddings(TABLE), 20, 4, 5, seed())
